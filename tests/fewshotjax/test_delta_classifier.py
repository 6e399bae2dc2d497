"""The episode's linear classifier against a NumPy loop, a closed form and scikit-learn."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.delta.classifier import ClassifierConfig, _order, fit_linear, fit_rows

WAYS, WIDTH, COUNT, KEY = 3, 4, 23, jax.random.key(0)
KNOWN = np.arange(COUNT) % 5 > 0  # the rest is padding
SMALL = ClassifierConfig(epochs=6, batch=5, learning_rate=0.5, keep_epochs=True)
RIDGE, LBFGS = ClassifierConfig("ridge", regularization=0.7), ClassifierConfig("lbfgs", regularization=0.5)


def examples(seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, WAYS, COUNT).astype(np.int32)
    x = rng.normal(size=(WAYS, WIDTH))[y] + 1.5 * rng.normal(size=(COUNT, WIDTH))
    return x.astype(np.float32), y


@pytest.fixture(scope="module")
def both():
    """Two episodes, with what is known of each."""
    parts = zip(examples(0), examples(1), strict=True)
    return (*map(np.stack, parts), np.stack([KNOWN, np.arange(COUNT) < 17]))


def vmapped(config):
    """Of two episodes, with the number of traces."""
    traces = []

    def fit(key, x, y, known):
        traces.append(1)
        return fit_linear(key, x, y, known, config, ways=WAYS)

    return jax.jit(jax.vmap(fit)), traces


def alone(together, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf[i]), together)


order_of = jax.jit(_order, static_argnums=(2, 3))


def log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def retold(key, x, y, known, config):
    """Adam on shuffled batches in NumPy, float64, with the library's random numbers."""
    k_start, k_order = jax.random.split(key)
    bound = np.sqrt(6 / (WAYS + WIDTH))
    w = np.array(jax.random.uniform(k_start, (WAYS, WIDTH), minval=-bound, maxval=bound), np.float64)
    b = np.zeros(WAYS)
    m, v, number, best, rate, told = [0, 0], [0, 0], 0, np.inf, config.learning_rate, []
    for k_epoch in jax.random.split(k_order, config.epochs):
        batches = -(-len(y) // config.batch)
        mask = None if known is None else jnp.asarray(known)
        order = np.asarray(order_of(k_epoch, mask, batches, config.batch, jnp.asarray(y))[0]).reshape(-1)
        order = order[: len(y) if known is None else int(known.sum())]
        total, used = 0.0, rate
        for first in range(0, len(order), config.batch):
            i = order[first : first + config.batch]
            logits = log_softmax(x[i] @ w.T + b)
            total -= logits[np.arange(len(i)), y[i]].sum()
            residual = (np.exp(logits) - np.eye(WAYS)[y[i]]) / len(i)
            number += 1
            for place, gradient in enumerate((residual.T @ x[i], residual.sum(0))):
                m[place] = 0.9 * m[place] + 0.1 * gradient
                v[place] = 0.999 * v[place] + 0.001 * gradient**2
                step = m[place] / (1 - 0.9**number) / (np.sqrt(v[place] / (1 - 0.999**number)) + 1e-8)
                if place == 0:
                    w = w - rate * step
                else:
                    b = b - rate * step
        loss = total / len(order)
        rate, best = rate * config.decay if loss > best else rate, min(best, loss)
        told.append((loss, used, w, b))
    return w, b, told


@pytest.fixture(scope="module")
def padded_adam():
    return vmapped(SMALL)


def check_adam(found, key, x, y, known):
    w, b, told = retold(key, x, y, known, SMALL)
    np.testing.assert_allclose(found.W, w, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found.b, b, rtol=2e-4, atol=2e-5)
    loss, rate, every_w, every_b = zip(*told, strict=True)
    np.testing.assert_allclose(found.trace.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(found.trace.learning_rate, rate, rtol=1e-5)
    np.testing.assert_allclose(found.trace.W, every_w, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found.trace.b, every_b, rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(found.trace.W[-1], found.W)


def test_adam_is_the_numpy_loop():
    key, (x, y) = jax.random.key(1), examples()
    found = jax.jit(partial(fit_linear, config=SMALL, ways=WAYS))(key, x, y, None)
    check_adam(found, key, x, y, None)
    assert len(set(np.asarray(found.trace.learning_rate).tolist())) > 1, "the rule was never used"


def test_adam_is_the_numpy_loop_in_episodes_with_padding(padded_adam, both):
    """Two at once, with unequal padding, in one trace."""
    fit, traces = padded_adam
    keys = jax.random.split(jax.random.key(1), 2)
    together = fit(keys, *both)
    assert len(traces) == 1
    for i, (x, y, known) in enumerate(zip(*both, strict=True)):
        check_adam(alone(together, i), keys[i], x, y, known)


def test_padding_changes_nothing(padded_adam, both):
    """Whatever it holds."""
    x, y, known = both
    other = np.where(known[:, :, None], x, 1e3).astype(np.float32)
    first, second = (padded_adam[0](jax.random.split(KEY, 2), some, y, known) for some in (x, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_epochs_visit_every_example_once_in_another_order():
    y = jnp.zeros(101, jnp.int32)
    orders = jax.jit(jax.vmap(lambda key: _order(key, None, 11, 10, y)))
    index, weight = orders(jax.random.split(KEY, 200))
    np.testing.assert_array_equal(
        np.asarray(weight).reshape(200, -1), np.tile(np.arange(110) < 101, (200, 1))
    )
    orders = np.asarray(index).reshape(200, -1)[:, :101]
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(101), (200, 1)))
    # Each place has each example equally often: 200 draws of 101, so a mean of 50 with deviation 2.1.
    assert abs(np.mean([order[0] for order in orders]) - 50) < 4 * 2.1
    assert len({order.tobytes() for order in orders}) == 200


def test_ridge_is_its_closed_form_and_rows_may_be_made_when_asked_for(both):
    linear = pytest.importorskip("sklearn.linear_model")
    fit, traces = vmapped(RIDGE)
    together = fit(jax.random.split(KEY, 2), *both)
    for i, (x, y, known) in enumerate(zip(*both, strict=True)):
        theirs, found = linear.Ridge(0.7).fit(x[known], np.eye(WAYS)[y[known]]), alone(together, i)
        np.testing.assert_allclose(found.W, theirs.coef_, atol=2e-5)
        np.testing.assert_allclose(found.b, theirs.intercept_, atol=2e-5)
    far = fit(jax.random.split(KEY, 2), both[0] + np.float32(3000), *both[1:])  # no sum of squares cancels
    np.testing.assert_allclose(far.W, together.W, atol=2e-3)
    np.testing.assert_allclose(far.b + 3000 * far.W.sum(axis=2), together.b, atol=5e-3)
    assert len(traces) == 1
    half, known = jnp.asarray(both[0][0] / 2), jnp.asarray(both[2][0])
    made = jax.jit(lambda y: fit_rows(KEY, lambda i: 2 * half[i], WIDTH, y, known, RIDGE, ways=WAYS))
    np.testing.assert_allclose(made(both[1][0]).W, together.W[0], rtol=1e-4, atol=1e-5)
    assert together.trace.W.shape == (2, 0, WAYS, WIDTH)


def test_lbfgs_reaches_scikit_learns_optimum(both):
    """In each of two episodes at once."""
    linear = pytest.importorskip("sklearn.linear_model")
    fit, traces = vmapped(LBFGS)
    together = fit(jax.random.split(KEY, 2), *both)
    for i, (x, y, known) in enumerate(zip(*both, strict=True)):
        found = alone(together, i)
        x, y, w, b = x[known], y[known], found.W.astype(float), found.b.astype(float)
        theirs = linear.LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000).fit(x, y)
        np.testing.assert_allclose(w - w.mean(0), theirs.coef_ - theirs.coef_.mean(0), atol=2e-3)
        np.testing.assert_allclose(log_softmax(x @ w.T + b), theirs.predict_log_proba(x), atol=2e-3)
        ours, best = (
            -log_softmax(x @ w.T + b)[np.arange(len(y)), y].sum() + 0.25 * (w**2).sum()
            for w, b in ((w, b), (theirs.coef_, theirs.intercept_))
        )
        assert ours <= best * (1 + 1e-5)
        assert np.all(np.diff(found.trace.loss) <= 1e-6)
    assert len(traces) == 1


def test_lbfgs_ends_where_nothing_is_gained():
    """The loss falls until then and stays; the gradient there is as good as zero."""
    x, y = examples()
    wanted = np.eye(WAYS)[y]
    found = jax.jit(partial(fit_linear, config=replace(LBFGS, iterations=40), ways=WAYS))(KEY, x, y, None)
    losses = np.asarray(found.trace.loss)
    assert len(losses) == 40
    last = int(np.argmax(losses == losses[-1]))
    assert 3 < last < 30
    assert np.all(np.diff(losses[: last + 1]) < 0)
    w, b = np.asarray(found.W, np.float64), np.asarray(found.b, np.float64)
    residual = np.exp(log_softmax(x @ w.T + b)) - wanted
    assert np.abs((residual.T @ x + LBFGS.regularization * w) / COUNT).max() < 1e-4
    assert np.abs(residual.mean(axis=0)).max() < 1e-4


@pytest.mark.parametrize("size", [1.0, 255.0, 3e3])
def test_ridge_of_features_of_any_size(size):
    """scikit-learn's in double precision, λ at least a millionth of the trace: float32 knows no less."""
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    y = np.arange(600, dtype=np.int32) % WAYS
    x = (size * (rng.normal(size=(WAYS, 64))[y] + 2 * rng.normal(size=(600, 64)) + 1)).astype(np.float32)
    config = ClassifierConfig("ridge", regularization=1.0)
    found = jax.jit(partial(fit_linear, config=config, ways=WAYS))(KEY, x, y, None)
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    weight = max(1.0, 1e-6 * (centred**2).sum())
    theirs = linear.Ridge(weight).fit(x.astype(np.float64), np.eye(WAYS)[y])
    ours = x.astype(np.float64) @ np.asarray(found.W, np.float64).T + np.asarray(found.b, np.float64)
    np.testing.assert_allclose(ours, theirs.predict(x), atol=2e-3)


@pytest.mark.long
def test_lbfgs_alone_is_that_of_an_episode_among_others(both):
    together = vmapped(LBFGS)[0](jax.random.split(KEY, 2), *both)
    one = jax.jit(partial(fit_linear, config=LBFGS, ways=WAYS))
    found = one(KEY, both[0][1], both[1][1], jnp.asarray(both[2][1]))
    np.testing.assert_allclose(together.W[1], found.W, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(together.b[1], found.b, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "svm", "kind must be one of adam, ridge, lbfgs, means, got 'svm'"),
        ("epochs", 2.5, "epochs must be a whole number, got 2.5"),
        ("batch", 10.5, "batch must be a whole number, got 10.5"),
        ("iterations", 0, "iterations must be a whole number of at least 1, got 0"),
        ("learning_rate", float("inf"), "learning_rate must be above 0 and finite, got inf"),
        ("regularization", -1.0, r"regularization must be above 0 and finite, got -1.0"),
        ("decay", 1.5, "decay must be above 0 and at most 1, got 1.5"),
    ],
)
def test_settings_are_checked(field, value, message, as_users_have_it):
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(**{field: value})


def test_only_adam_has_epochs_to_keep():
    with pytest.raises(ValueError, match="keep_epochs is for kind='adam', got 'ridge'"):
        ClassifierConfig("ridge", keep_epochs=True)
