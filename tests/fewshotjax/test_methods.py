"""Each few-shot method against NumPy, scikit-learn or a closed form, with padding and vmapped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshotjax as fs
from fewshotjax.repmet_model import init_repmet

WAYS = 3
KEY = jax.random.key(0)


def task(seed=0, width=5):
    rng = np.random.default_rng(seed)
    labels = np.array([0, 0, 1, 1, 2, 2, 2], np.int32)
    support = (rng.normal(size=(3, width))[labels] + 0.5 * rng.normal(size=(7, width))).astype(np.float32)
    return support, labels, rng.normal(size=(6, width)).astype(np.float32)


def predict(method, support, labels, queries):
    return np.asarray(
        method.predict(method.fit(KEY, jnp.asarray(support), labels, WAYS), jnp.asarray(queries))
    )


def log_softmax(scores):
    scores = np.asarray(scores, np.float64)
    top = scores.max(1, keepdims=True)
    return scores - top - np.log(np.exp(scores - top).sum(1, keepdims=True))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


METHODS = {name: maker() for name, maker in fs.METHODS.items()}
METHODS["tuned"] = fs.repmet(tuning=fs.Tuning(steps=3))


@pytest.mark.parametrize("name", METHODS)
def test_padding_is_left_out_and_episodes_vmap(name):
    """Two episodes at once, one of them with padding of any content, give what each gives alone."""
    method = METHODS[name]
    support, labels, queries = task()
    other, _, _ = task(1)
    padded = labels.copy()
    padded[[1, 6]] = WAYS
    keys = jnp.stack([KEY, KEY])
    together = jax.jit(
        jax.vmap(lambda key, s, y: method.predict(method.fit(key, s, y, WAYS), jnp.asarray(queries)))
    )(keys, jnp.stack([support, other]), jnp.stack([labels, padded]))
    known = [0, 2, 3, 4, 5]
    np.testing.assert_allclose(together[0], predict(method, support, labels, queries), rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(
        together[1], predict(method, other[known], labels[known], queries), rtol=2e-4, atol=2e-4
    )
    np.testing.assert_allclose(np.exp(together).sum(axis=2), 1, rtol=1e-4)


def test_prototypes_against_numpy_and_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    support, labels, queries = task()
    centres = np.stack([support[labels == k].mean(0) for k in range(WAYS)])
    expected = log_softmax(-((queries[:, None] - centres[None]) ** 2).sum(-1))
    found = predict(fs.prototypes(), support, labels, queries)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    theirs = neighbors.NearestCentroid().fit(support, labels).predict(queries)
    np.testing.assert_array_equal(found.argmax(1), theirs)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_simpleshot_centres_and_normalises(distance):
    support, labels, queries = task()
    mean = np.arange(5, dtype=np.float32) / 5
    s, q = unit(support - mean), unit(queries - mean)
    centres = np.stack([s[labels == k].mean(0) for k in range(WAYS)])
    cosine = q @ unit(centres).T
    expected = cosine if distance == "cosine" else -((q[:, None] - centres[None]) ** 2).sum(-1)
    found = predict(fs.simpleshot(mean, distance=distance), support, labels, queries)
    np.testing.assert_allclose(found, log_softmax(expected), rtol=1e-4, atol=1e-4)
    plain = predict(fs.simpleshot(normalize=False), support, labels, queries)
    np.testing.assert_allclose(plain, predict(fs.prototypes(), support, labels, queries), rtol=1e-5)


def test_nearest_neighbour_against_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    support, labels, queries = task()
    theirs = neighbors.KNeighborsClassifier(1).fit(support, labels).predict(queries)
    found = predict(fs.nearest_neighbour(), support, labels, queries)
    np.testing.assert_array_equal(found.argmax(1), theirs)
    least = np.array([[((q - support[labels == k]) ** 2).sum(1).min() for k in range(WAYS)] for q in queries])
    np.testing.assert_allclose(found, log_softmax(-least), rtol=1e-4, atol=1e-4)


def test_matching_is_attention_over_examples():
    support, labels, queries = task()
    weights = np.exp(log_softmax(unit(queries) @ unit(support).T / 0.2))
    expected = np.log(weights @ np.eye(WAYS)[labels])
    np.testing.assert_allclose(
        predict(fs.matching(0.2), support, labels, queries), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("regularization", [0.3, 2.0])
def test_ridge_is_its_closed_form(regularization):
    linear = pytest.importorskip("sklearn.linear_model")
    support, labels, queries = task()
    x, wanted = unit(support), np.eye(WAYS)[labels]
    weights = np.linalg.solve(x.T @ x + regularization * np.eye(5), x.T @ wanted)
    theirs = linear.Ridge(regularization, fit_intercept=False).fit(x, wanted)
    np.testing.assert_allclose(theirs.coef_.T, weights, atol=1e-5)
    found = predict(fs.ridge(regularization, scale=1.0), support, labels, queries)
    np.testing.assert_allclose(found, log_softmax(unit(queries) @ weights), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("regularization", [0.1, 1.0])
def test_logistic_regression_reaches_scikit_learns_optimum(regularization):
    linear = pytest.importorskip("sklearn.linear_model")
    support, labels, queries = task(width=12)
    theirs = linear.LogisticRegression(C=1 / regularization, fit_intercept=False, tol=1e-10, max_iter=10_000)
    expected = theirs.fit(unit(support), labels).predict_log_proba(unit(queries))
    found = predict(fs.logistic(regularization), support, labels, queries)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_linear_head_is_gradient_descent_with_momentum():
    """The same steps on weights of the features, in NumPy."""
    support, labels, queries = task()
    x, wanted = unit(support).astype(np.float64), np.eye(WAYS)[labels]
    centres = np.stack([x[labels == k].mean(0) for k in range(WAYS)])
    w, b = 2 * centres.T, -(centres**2).sum(1)
    w_speed, b_speed = 0, 0
    for _ in range(7):
        residual = (np.exp(log_softmax(x @ w + b)) - wanted) / len(x)
        w_speed, b_speed = 0.9 * w_speed + x.T @ residual, 0.9 * b_speed + residual.sum(0)
        w, b = w - 0.5 * w_speed, b - 0.5 * b_speed
    found = predict(fs.linear_head(7, 0.5), support, labels, queries)
    np.testing.assert_allclose(found, log_softmax(unit(queries) @ w + b), rtol=1e-4, atol=1e-4)


# RepMet


def test_repmet_with_one_shot_is_a_softmax_over_distances():
    """Equal to SimpleShot's nearest means, up to the scale 1 / 2σ²."""
    support, _, queries = task()
    support, labels = support[[0, 2, 4]], np.arange(3, dtype=np.int32)
    squared = ((unit(queries)[:, None] - unit(support)[None]) ** 2).sum(-1)
    found = predict(fs.repmet(), support, labels, queries)
    np.testing.assert_allclose(found, log_softmax(-squared / 0.5), rtol=1e-4, atol=1e-4)


def test_repmet_sums_over_the_examples_of_a_class():
    support, labels, queries = task()
    squared = ((unit(queries)[:, None] - unit(support)[None]) ** 2).sum(-1)
    p = np.exp(-squared / 0.5) @ np.eye(WAYS)[labels]
    found = predict(fs.repmet(), support, labels, queries)
    np.testing.assert_allclose(np.exp(found), p / p.sum(1, keepdims=True), rtol=1e-4, atol=1e-5)


def test_repmet_keeps_both_halves_of_a_class_apart_where_a_mean_cannot():
    """A class on both sides of another: its mean lies on the other's, its two modes do not."""
    corners = np.array([[1, 0], [-1, 0], [0.3, 0], [0.3, 0.1]], np.float32)
    labels = np.repeat([0, 0, 1, 1], 6).astype(np.int32)
    noise = 0.05 * np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32)
    support = jnp.asarray(np.repeat(corners, 6, axis=0) + noise, jnp.float32)
    plain = {"embedding": None, "normalize_embedding": False, "normalize_representatives": False}
    queries = jnp.asarray(corners)
    found = {}
    for modes in (1, 2):
        method = fs.repmet(fs.RepMetConfig(modes=modes, sigma=0.3, **plain))
        found[modes] = method.predict(method.fit(KEY, support, labels, 2), queries).argmax(1)
    np.testing.assert_array_equal(found[2], [0, 0, 1, 1])
    np.testing.assert_array_equal(found[1], [1, 0, 1, 1])


@pytest.mark.parametrize("what", ["representatives", "all"])
def test_tuning_lowers_the_loss_on_the_support(what):
    support, labels, queries = task()
    config = fs.RepMetConfig(embedding=4, modes=2, sigma=0.7)
    params = init_repmet(KEY, config, 5, 9)

    def nll(method):
        found = predict(method, support, labels, support)
        return -found[np.arange(7), labels].mean()

    before = nll(fs.repmet(config, params))
    method = fs.repmet(config, params, tuning=fs.Tuning(what, steps=15, learning_rate=0.05))
    assert nll(method) < before
    model = method.fit(KEY, jnp.asarray(support), labels, WAYS)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), model.params, params)
    assert all(jax.tree.leaves(same)) == (what == "representatives")
    np.testing.assert_allclose(
        np.linalg.norm(model.found.modes, axis=2)[np.asarray(model.found.mask)], 1, rtol=1e-5
    )
    assert np.isfinite(method.predict(model, jnp.asarray(queries))).all()


def test_repmet_takes_any_embedding():
    support, labels, queries = task()
    method = fs.repmet(
        fs.RepMetConfig(embedding=None),
        jnp.asarray(2.0),
        embed=lambda scale, x: fs.l2_normalize(jnp.tanh(scale * x)),
        sequential=True,
    )
    assert method.sequential
    plain = fs.repmet(fs.RepMetConfig(embedding=None))
    found = predict(method, support, labels, queries)
    e, q = (unit(np.tanh(2 * x)) for x in (support, queries))
    np.testing.assert_allclose(found, predict(plain, e, labels, q), rtol=1e-4, atol=1e-5)


def test_a_learned_sigma_is_used_and_tuned():
    support, labels, queries = task()
    config = fs.RepMetConfig(embedding=4, modes=2, learn_sigma=True)
    params = init_repmet(KEY, config, 5, 9)
    wide = {**params, "log_sigma": jnp.log(jnp.float32(2.0))}
    fixed = fs.repmet(fs.RepMetConfig(embedding=4, modes=2, sigma=2.0), params)
    found = predict(fs.repmet(config, wide), support, labels, queries)
    np.testing.assert_allclose(found, predict(fixed, support, labels, queries), rtol=1e-5)
    model = fs.repmet(config, wide, tuning=fs.Tuning("all", 3)).fit(KEY, jnp.asarray(support), labels, WAYS)
    assert float(model.params["log_sigma"]) != float(wide["log_sigma"])


def test_equal_settings_are_one_method():
    """So that they compile once."""
    assert fs.repmet() == fs.repmet(fs.RepMetConfig(embedding=None))
    assert fs.simpleshot() == fs.simpleshot()
    assert fs.prototypes() == fs.prototypes()
    assert fs.ridge(2.0) == fs.ridge(2.0) != fs.ridge(3.0)


def test_what_all_features_share_does_not_drown_their_differences():
    support, labels, queries = task()
    for method in (fs.prototypes(), fs.nearest_neighbour()):
        near = predict(method, support, labels, queries)
        far = predict(method, support + np.float32(3_000), labels, queries + np.float32(3_000))
        np.testing.assert_allclose(far, near, atol=0.02)


# Registry and refusals


def test_a_function_becomes_a_method_by_name():
    def maker(scale: float = 1.0) -> fs.Method:
        return fs.through(lambda x: scale * x, fs.prototypes())

    fs.register("scaled", maker)
    try:
        assert isinstance(fs.by_name("scaled", scale=2.0), fs.Method)
        with pytest.raises(ValueError, match="name 'scaled' is taken by"):
            fs.register("scaled", maker)
        with pytest.raises(ValueError, match=r"method scaled: .*unexpected keyword argument 'size'"):
            fs.by_name("scaled", size=2)
    finally:
        del fs.METHODS["scaled"]
    with pytest.raises(ValueError, match=r"method must be one of repmet, prototypes, .*, got 'svm'"):
        fs.by_name("svm")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.ridge(0.0), "regularization must be above 0, got 0"),
        (lambda: fs.logistic(-1.0), "regularization must be above 0, got -1"),
        (lambda: fs.logistic(iterations=0), "iterations must be at least 1"),
        (lambda: fs.linear_head(0), "steps must be at least 1, got 0"),
        (lambda: fs.linear_head(learning_rate=0.0), "learning_rate must be above 0"),
        (lambda: fs.matching(0.0), "temperature must be above 0"),
        (lambda: fs.Tuning(steps=0), "steps must be at least 1"),
        (lambda: fs.Tuning(momentum=1.0), r"learning_rate must be above 0 and momentum in \[0, 1\), got"),
        (lambda: fs.repmet(fs.RepMetConfig(embedding=None, learn_sigma=True)), "learn_sigma needs params"),
        (lambda: fs.repmet(fs.RepMetConfig(embedding=8)), "config has a head of width 8, but params is None"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_are_checked(as_users_have_it):
    with pytest.raises(ValueError, match="distance must be euclidean or cosine, got 'l1'"):
        fs.simpleshot(distance="l1")
    with pytest.raises(ValueError, match="what must be representatives or all, got 'none'"):
        fs.Tuning("none")
