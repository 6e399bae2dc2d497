"""The episode's linear classifier against a NumPy loop, a closed form and scikit-learn."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.delta.classifier import ClassifierConfig, _order, fit_linear, fit_rows, scores

WAYS, WIDTH, COUNT = 3, 4, 23
SMALL = ClassifierConfig(epochs=6, batch=5, learning_rate=0.5, keep_epochs=True)
RIDGE, LBFGS = ClassifierConfig("ridge", regularization=0.7), ClassifierConfig("lbfgs", regularization=0.5)


def examples(seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, WAYS, COUNT).astype(np.int32)
    x = rng.normal(size=(WAYS, WIDTH))[y] + 1.5 * rng.normal(size=(COUNT, WIDTH))
    return x.astype(np.float32), y


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
        order = np.asarray(_order(k_epoch, mask, batches, config.batch, jnp.asarray(y))[0]).reshape(-1)
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
def adam():
    """One compilation each: without padding, and with."""
    return jax.jit(partial(fit_linear, config=SMALL, ways=WAYS))


@pytest.mark.parametrize("padded", [False, True])
def test_adam_is_the_numpy_loop(adam, padded):
    x, y = examples()
    known = np.arange(COUNT) % 4 > 0 if padded else None
    found = adam(jax.random.key(1), x, y, None if known is None else jnp.asarray(known))
    w, b, told = retold(jax.random.key(1), x, y, known, SMALL)
    np.testing.assert_allclose(found.W, w, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found.b, b, rtol=2e-4, atol=2e-5)
    loss, rate, every_w, every_b = zip(*told, strict=True)
    np.testing.assert_allclose(found.trace.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(found.trace.learning_rate, rate, rtol=1e-5)
    np.testing.assert_allclose(found.trace.W, every_w, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found.trace.b, every_b, rtol=2e-4, atol=2e-5)
    assert len(set(np.asarray(found.trace.learning_rate).tolist())) > 1, "the rule was never used"
    np.testing.assert_array_equal(found.trace.W[-1], found.W)


def test_padding_changes_nothing(adam):
    """Whatever it holds; and the weights of no epoch are kept where they are not asked for."""
    x, y = examples()
    known = jnp.asarray(np.arange(COUNT) < 17)
    other = np.where(np.asarray(known)[:, None], x, 1e3).astype(np.float32)
    first, second = (adam(jax.random.key(0), some, y, known) for some in (x, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_epochs_visit_every_example_once_in_another_order():
    y = jnp.zeros(101, jnp.int32)
    index, weight = jax.vmap(lambda key: _order(key, None, 11, 10, y))(
        jax.random.split(jax.random.key(0), 200)
    )
    np.testing.assert_array_equal(
        np.asarray(weight).reshape(200, -1), np.tile(np.arange(110) < 101, (200, 1))
    )
    orders = np.asarray(index).reshape(200, -1)[:, :101]
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(101), (200, 1)))
    # Each place has each example equally often: 200 draws of 101, so a mean of 50 with deviation 2.1.
    assert abs(np.mean([order[0] for order in orders]) - 50) < 4 * 2.1
    assert len({order.tobytes() for order in orders}) == 200


def test_ridge_is_its_closed_form():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = examples()
    known = np.arange(COUNT) % 5 > 0
    theirs = linear.Ridge(0.7).fit(x[known], np.eye(WAYS)[y[known]])
    fit = jax.jit(partial(fit_linear, config=RIDGE, ways=WAYS))
    found = fit(jax.random.key(0), x, y, jnp.asarray(known))
    np.testing.assert_allclose(found.W, theirs.coef_, atol=2e-5)
    np.testing.assert_allclose(found.b, theirs.intercept_, atol=2e-5)


def test_lbfgs_reaches_scikit_learns_optimum():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = examples()
    known = np.arange(COUNT) % 5 > 0
    theirs = linear.LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000).fit(x[known], y[known])
    found = jax.jit(partial(fit_linear, config=LBFGS, ways=WAYS))(jax.random.key(0), x, y, jnp.asarray(known))
    np.testing.assert_allclose(
        found.W - found.W.mean(0)[None], theirs.coef_ - theirs.coef_.mean(0), atol=2e-3
    )
    np.testing.assert_allclose(scores(found, jnp.asarray(x)), theirs.predict_log_proba(x), atol=2e-3)
    objective = [
        -log_softmax(x[known] @ w.T + b)[np.arange(known.sum()), y[known]].sum() + 0.25 * (w**2).sum()
        for w, b in (
            (np.asarray(found.W, float), np.asarray(found.b, float)),
            (theirs.coef_, theirs.intercept_),
        )
    ]
    assert objective[0] <= objective[1] * (1 + 1e-5)
    assert np.all(np.diff(found.trace.loss) <= 1e-6)


@pytest.mark.parametrize("config", [replace(SMALL, keep_epochs=False), RIDGE, LBFGS], ids=lambda c: c.kind)
def test_episodes_vmap_and_rows_may_be_made_when_asked_for(config):
    """Two at once give what each gives alone, in one trace; rows by a function those of an array."""
    traces = 0

    def fit(key, x, y):
        nonlocal traces
        traces += 1
        return fit_linear(key, x, y, None, config, ways=WAYS)

    keys = jax.random.split(jax.random.key(2), 2)
    both = [examples(seed) for seed in (0, 1)]
    x, y = (np.stack(part) for part in zip(*both, strict=True))
    together = jax.jit(jax.vmap(fit))(keys, x, y)
    assert traces == 1
    x0 = jnp.asarray(x[0])
    alone = jax.jit(
        lambda key, y: fit_rows(key, lambda i: 2 * (x0[i] / 2), WIDTH, y, None, config, ways=WAYS)
    )
    found = alone(keys[0], y[0])
    np.testing.assert_allclose(together.W[0], found.W, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(together.b[0], found.b, rtol=2e-3, atol=2e-4)
    assert found.trace.W.shape == (0, WAYS, WIDTH)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "svm", "kind must be one of adam, ridge, lbfgs, means, got 'svm'"),
        ("epochs", 0, "epochs must be at least 1, got 0"),
        ("batch", 0, "batch must be at least 1, got 0"),
        ("iterations", 0, "iterations must be at least 1, got 0"),
        ("learning_rate", 0.0, "learning_rate must be above 0, got 0.0"),
        ("regularization", -1.0, r"regularization must be above 0, got -1.0"),
        ("decay", 1.5, "decay must be above 0 and at most 1, got 1.5"),
    ],
)
def test_settings_are_checked(field, value, message, as_users_have_it):
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(**{field: value})


def test_only_adam_has_epochs_to_keep():
    with pytest.raises(ValueError, match="keep_epochs is for kind='adam', got 'ridge'"):
        ClassifierConfig("ridge", keep_epochs=True)
