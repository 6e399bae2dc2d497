"""SoftTriple against a plain retelling in NumPy, closed forms and pytorch-metric-learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.soft_triple import SoftTripleConfig, centre_spread, class_similarity, soft_triple_objective

WIDTH, CLASSES = 6, 4


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def retold(params, features, labels, config):
    """(loss, log-probabilities) sample by sample and class by class, in float64."""
    centres = unit(np.asarray(params["centres"], np.float64))
    x = np.asarray(features, np.float64)
    if "embedding" in params:
        x = x @ np.asarray(params["embedding"]["kernel"], np.float64) + np.asarray(
            params["embedding"]["bias"]
        )
    losses, posteriors = [], []
    for one, label in zip(unit(x), labels, strict=True):
        similarity = np.zeros(len(centres))
        for n, of_class in enumerate(centres):
            cosines = of_class @ one
            weights = np.exp(cosines / config.gamma)
            similarity[n] = (weights / weights.sum()) @ cosines
        logits = config.la * similarity
        posteriors.append(logits - np.log(np.exp(logits).sum()))
        logits[label] -= config.la * config.margin
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
    spread = 0.0
    for of_class in centres:
        for s in range(len(of_class)):
            for t in range(s + 1, len(of_class)):
                spread += np.linalg.norm(of_class[s] - of_class[t])
    if config.centres > 1:
        spread /= len(centres) * config.centres * (config.centres - 1)
    return np.mean(losses) + config.regularizer * spread, np.array(posteriors)


def problem(config, seed=0):
    k_params, k_features, k_labels = jax.random.split(jax.random.key(seed), 3)
    params = soft_triple_objective(config).init(k_params, WIDTH, CLASSES)
    params["centres"] = params["centres"] * 1.7  # their lengths must not matter
    features = jax.random.normal(k_features, (9, WIDTH)) * 3
    return params, features, jax.random.randint(k_labels, (9,), 0, CLASSES)


@pytest.mark.parametrize(
    "config",
    [
        SoftTripleConfig(),
        SoftTripleConfig(centres=3, dim=5, la=4.0, gamma=0.5, margin=0.3, regularizer=0.2),
        SoftTripleConfig(centres=1, regularizer=0.2),
    ],
)
def test_loss_and_its_gradient_equal_the_retelling(config):
    params, features, labels = problem(config)
    (value, posterior), gradient = jax.jit(
        jax.value_and_grad(soft_triple_objective(config).loss, 0, has_aux=True)
    )(params, features, labels)
    expected, posteriors = retold(params, features, labels, config)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(posterior, posteriors, rtol=1e-4, atol=1e-4)
    # Along a random direction, by central differences of the retelling.
    rng = np.random.default_rng(0)
    step = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    ahead, behind = (
        retold(
            jax.tree.map(lambda p, d, e=e: np.asarray(p, np.float64) + e * d, params, step),
            features,
            labels,
            config,
        )[0]
        for e in (1e-5, -1e-5)
    )
    slope = sum(np.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, step)), strict=True))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=2e-3, atol=1e-4)


def test_one_center_is_the_normalised_softmax_loss():
    config = SoftTripleConfig(centres=1, margin=0.0)
    params, features, labels = problem(config)
    value, _ = jax.jit(soft_triple_objective(config).loss)(params, features, labels)
    logits = config.la * unit(np.asarray(features)) @ unit(np.asarray(params["centres"][:, 0])).T
    posterior = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(value, -posterior[np.arange(9), np.asarray(labels)].mean(), rtol=1e-5)


def test_similarity_lies_between_the_mean_and_the_largest_cosine():
    params, features, _ = problem(SoftTripleConfig())
    x, centres = unit(np.asarray(features)), unit(np.asarray(params["centres"]))
    cosines = np.einsum("bd,nkd->bnk", x, centres)
    sharp, flat = (class_similarity(jnp.asarray(x), params["centres"], gamma) for gamma in (1e-4, 1e4))
    np.testing.assert_allclose(sharp, cosines.max(2), atol=1e-5)
    np.testing.assert_allclose(flat, cosines.mean(2), atol=1e-4)


def test_equal_centers_have_no_spread_and_finite_gradients():
    same = jnp.broadcast_to(jnp.arange(1.0, 7.0)[None, None], (2, 3, 6))
    value, gradient = jax.jit(jax.value_and_grad(centre_spread))(same)
    assert value < 2e-3
    assert np.isfinite(gradient).all()
    opposite = jnp.array([[[1.0, 0.0], [-3.0, 0.0]]])
    # One pair, 2 apart, over N K (K - 1) = 2.
    np.testing.assert_allclose(centre_spread(opposite), 1.0, rtol=1e-5)


def test_features_of_zero_give_finite_numbers():
    config = SoftTripleConfig(centres=2)
    params, features, labels = problem(config)
    value, gradient = jax.value_and_grad(lambda x: soft_triple_objective(config).loss(params, x, labels)[0])(
        features * 0
    )
    np.testing.assert_allclose(value, np.log(np.exp(0.2) * 3 + 1), rtol=1e-5)  # all alike, but for the margin
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_out_of_range_is_not_silent(label):
    config = SoftTripleConfig(centres=2)
    params, features, labels = problem(config)
    value, _ = jax.jit(soft_triple_objective(config).loss)(params, features, labels.at[3].set(label))
    assert np.isnan(value)


def test_embeddings_are_unit_vectors_and_half_precision_becomes_single():
    for dim, width in ((None, WIDTH), (3, 3)):
        config = SoftTripleConfig(dim=dim)
        params, features, _ = problem(config)
        found = soft_triple_objective(config).embed(params, features.astype(jnp.bfloat16))
        assert (found.shape, found.dtype) == ((9, width), jnp.float32)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)


def test_equal_configs_share_a_compilation_and_a_key_gives_the_same_start():
    assert soft_triple_objective(SoftTripleConfig(la=5.0)) is soft_triple_objective(
        config=SoftTripleConfig(la=5.0)
    )
    assert soft_triple_objective() is soft_triple_objective(SoftTripleConfig())
    first, second = (
        soft_triple_objective(SoftTripleConfig(dim=3)).init(jax.random.key(1), 5, 2) for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert first["centres"].shape == (2, 10, 3)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("la", 0.0, "la must be above 0 .* got 0.0"),
        ("gamma", -0.1, "gamma must be above 0 .* got -0.1"),
        ("gamma", float("nan"), "gamma must be a number, got nan"),
        ("margin", -1.0, "margin must not be negative"),
        ("regularizer", float("inf"), "regularizer must not be negative, and finite"),
        ("centres", 0, "centres must be at least 1, got 0"),
        ("dim", 0, "dim must be at least 1, or None"),
    ],
)
def test_bad_configs_are_refused(field, value, match):
    with pytest.raises(ValueError, match=match):
        SoftTripleConfig(**{field: value})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [{}, {"centres": 3, "la": 6.0, "gamma": 0.4, "margin": 0.2}])
def test_equals_pytorch_metric_learning(options, seed):
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="it comes with the extra bench")
    import torch

    config = SoftTripleConfig(**options)
    params, features, labels = problem(config, seed)
    slopes = jax.jit(jax.value_and_grad(soft_triple_objective(config).loss, (0, 1), has_aux=True))
    (value, _), (centres, x) = slopes(params, features, labels)
    theirs = losses.SoftTripleLoss(
        CLASSES, WIDTH, config.centres, la=config.la, gamma=config.gamma, margin=config.margin
    )
    flat = np.array(params["centres"]).reshape(-1, WIDTH)
    theirs.fc.data = torch.from_numpy(flat.T.copy())
    leaf = torch.tensor(np.asarray(features), requires_grad=True)
    expected = theirs(leaf, torch.from_numpy(np.array(labels, np.int64)))
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(x, leaf.grad.numpy(), rtol=1e-4, atol=1e-6)
    wanted = theirs.fc.grad.numpy().T.reshape(params["centres"].shape)
    np.testing.assert_allclose(centres["centres"], wanted, rtol=1e-4, atol=1e-6)
