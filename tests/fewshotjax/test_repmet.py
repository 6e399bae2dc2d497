"""RepMet's head: its loss from parts, its options, and what its config refuses."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import (
    RepMetConfig,
    init_repmet,
    prototypical_objective,
    repmet_loss,
    repmet_objective,
    softmax_objective,
)
from fewshotjax.repmet_model import embed, representatives

FEATURES = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
LABELS = np.arange(8, dtype=np.int32) % 3


def parameters(config, classes=3):
    return init_repmet(jax.random.key(0), config, FEATURES.shape[1], classes)


def test_the_loss_of_the_defaults_from_parts():
    """Cross-entropy of the mixture plus the margin loss on squared distances, in NumPy."""
    config = RepMetConfig(modes=2, embedding=4, hidden=(5,))
    params = parameters(config)
    dense = jax.tree.map(np.asarray, params["head"])
    hidden = np.maximum(FEATURES @ dense["Dense_0"]["kernel"] + dense["Dense_0"]["bias"], 0)
    e = hidden @ dense["Dense_1"]["kernel"] + dense["Dense_1"]["bias"]
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    r = np.asarray(params["modes"])
    r = r / np.linalg.norm(r, axis=2, keepdims=True)
    d = ((e[:, None, None] - r[None]) ** 2).sum(-1)
    p = np.exp(-d / (2 * 0.5**2)).sum(2)
    ce = -np.log(p / p.sum(1, keepdims=True))[np.arange(8), LABELS]
    own = d[np.arange(8), LABELS].min(1)
    others = np.array([np.delete(row, y, 0).min() for row, y in zip(d, LABELS, strict=True)])
    expected = ce.mean() + np.maximum(own - others + 0.5, 0).mean()
    loss, found = repmet_loss(params, config, jnp.asarray(FEATURES), jnp.asarray(LABELS))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(np.exp(found.classes), p / p.sum(1, keepdims=True), rtol=1e-4)


def test_initial_modes_are_a_centre_and_an_offset_that_classes_share():
    params = parameters(RepMetConfig(modes=3, embedding=64), classes=50)
    r = np.asarray(params["modes"])
    np.testing.assert_allclose(r - r[:, :1], np.broadcast_to((r - r[:, :1])[:1], r.shape), atol=1e-6)
    assert r.mean(1).std() == pytest.approx((0.1**2 + 0.05**2 / 3) ** 0.5, rel=0.05)
    free = np.asarray(parameters(RepMetConfig(modes=3, embedding=64, initialization="free"), 50)["modes"])
    assert free.std() == pytest.approx((0.1**2 + 0.05**2) ** 0.5, rel=0.05)
    assert np.abs(np.diff(free[:, 1] - free[:, 0], axis=0)).max() > 0.1
    tied = parameters(RepMetConfig(modes=3, embedding=64, tied=True, normalize_representatives=False), 50)
    assert {name: leaf.shape for name, leaf in tied.items() if name != "head"} == {
        "centres": (50, 1, 64),
        "offsets": (1, 3, 64),
    }
    config = RepMetConfig(modes=3, embedding=64, tied=True, normalize_representatives=False)
    np.testing.assert_allclose(representatives(tied, config).modes, r, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"learn_sigma": True},
        {"posterior": "softmax", "background": True},
        {"posterior": "maximum", "background": True, "distance": "plain"},
        {"representative_weight": 0.5, "tied": True},
        {"linear_weight": 0.3, "smooth_minimum": 0.1},
        {"normalize_embedding": False, "normalize_representatives": False, "embedding": None},
    ],
)
def test_every_option_trains(options):
    """A few steps along the gradient lower the loss, and no gradient is NaN."""
    config = RepMetConfig(**{"modes": 2, "embedding": 4, **options})
    params, labels = parameters(config), LABELS.copy()
    if config.background:
        labels[-1] = 3

    @jax.jit
    def step(params):
        loss, slope = jax.value_and_grad(
            lambda p: repmet_loss(p, config, jnp.asarray(FEATURES), jnp.asarray(labels))[0]
        )(params)
        return loss, jax.tree.map(lambda p, g: p - 0.05 * g, params, slope)

    losses = []
    for _ in range(12):
        loss, params = step(params)
        losses.append(float(loss))
    assert np.isfinite(jax.flatten_util.ravel_pytree(params)[0]).all()
    assert losses[-1] < losses[0]
    assert ("log_sigma" in params) == config.learn_sigma


def test_weights_leave_examples_out():
    config = RepMetConfig(modes=2, embedding=4)
    params = parameters(config)
    few, _ = repmet_loss(params, config, jnp.asarray(FEATURES[:5]), jnp.asarray(LABELS[:5]))
    weight = jnp.asarray((np.arange(8) < 5).astype(np.float32))
    all_, _ = repmet_loss(params, config, jnp.asarray(FEATURES), jnp.asarray(LABELS), weight)
    assert float(all_) == pytest.approx(float(few), rel=1e-5)


def test_equal_configs_are_one_objective():
    assert repmet_objective(RepMetConfig(modes=2)) is repmet_objective(RepMetConfig(modes=2))
    objective = repmet_objective(RepMetConfig(modes=2, embedding=4))
    params = objective.init(jax.random.key(0), 6, 3)
    loss, found = objective.loss(params, jnp.asarray(FEATURES), jnp.asarray(LABELS))
    assert loss.shape == ()
    assert found.shape == (8, 3)
    np.testing.assert_allclose(objective.predict(params, jnp.asarray(FEATURES)), found, rtol=1e-6)
    np.testing.assert_allclose(
        jnp.linalg.norm(objective.embed(params, jnp.asarray(FEATURES)), axis=1), 1, rtol=1e-5
    )
    np.testing.assert_array_equal(
        objective.embed(params, jnp.asarray(FEATURES)),
        embed(params, RepMetConfig(modes=2, embedding=4), jnp.asarray(FEATURES)),
    )


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 0}, "modes must be a whole number of at least 1, got 0"),
        ({"embedding": 0}, "embedding and hidden must be widths"),
        ({"embedding": None, "hidden": (3,)}, "hidden needs an embedding"),
        ({"sigma": 0.0}, "sigma must be above 0, got 0"),
        ({"scale": -1.0}, "scale must be above 0"),
        ({"hidden": [3]}, r"hidden must be a tuple such as \(512,\), got \[3\]"),
        ({"modes": 2.5}, "modes must be a whole number"),
        ({"margin": float("nan")}, "margin must be a number, got nan"),
        ({"smooth_minimum": 0.0}, "smooth_minimum must be above 0 or None"),
        ({"tied": True, "initialization": "free"}, "tied needs initialization 'separable'"),
        ({"background": True}, "background needs posterior 'maximum' or 'softmax'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RepMetConfig(**options)


def test_names_are_checked(as_users_have_it):
    for name in ("posterior", "distance", "initialization"):
        with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'other'"):
            RepMetConfig(**{name: "other"})


# Other objectives


def test_softmax_objective_against_numpy():
    objective = softmax_objective(0.1)
    params = objective.init(jax.random.key(0), 6, 3)
    logits = FEATURES @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = 0.9 * np.eye(3)[LABELS] + 0.1 / 3
    loss, found = objective.loss(params, jnp.asarray(FEATURES), jnp.asarray(LABELS))
    np.testing.assert_allclose(found, log_p, rtol=1e-4, atol=1e-5)
    assert float(loss) == pytest.approx(-(wanted * log_p).sum(1).mean(), rel=1e-5)
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got 1"):
        softmax_objective(1.0)


def test_prototypical_objective_leaves_each_embedding_out_of_its_own_mean():
    labels = np.array([0, 0, 1, 1, 1, 2, 0, 4], np.int32)  # of five classes; 2 and 4 are there once
    objective = prototypical_objective()
    params = objective.init(jax.random.key(0), 6, 5)
    each = []
    for i, y in enumerate(labels):
        score = {}
        for c in set(labels.tolist()):
            rows = [j for j in range(8) if labels[j] == c and j != i]
            if rows:
                score[c] = -((FEATURES[i] - FEATURES[rows].mean(0)) ** 2).sum()
        if y in score:
            each.append(np.log(sum(np.exp(s) for s in score.values())) - score[y])
    loss, found = objective.loss(params, jnp.asarray(FEATURES), jnp.asarray(labels))
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-4)
    assert (np.asarray(found[:, 3]) == -np.inf).all()
    slope = jax.grad(lambda x: objective.loss(params, x, jnp.asarray(labels))[0])(jnp.asarray(FEATURES))
    assert np.isfinite(slope).all()
