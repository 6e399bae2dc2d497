"""Episodes from a table of inner products: what features give, and features where the table would not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshotjax as fs
from fewshotjax import evaluate as evaluate_function, products
from fewshotjax.episode_task import episode_task
from fewshotjax.methods.by_products import Products, by_products
from fewshotjax.products import products_of

METHODS = {"prototypes": fs.prototypes(), "nearest_neighbour": fs.nearest_neighbour()}
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(8), 15).astype(np.int32)
FEATURES = (0.3 * RNG.normal(size=(8, 256))[LABELS] + RNG.normal(size=(120, 256)) + 3).astype(np.float32)
SHAPE = {"ways": 3, "shots": 2, "queries": 4, "episodes": 100}


def task_of(features=FEATURES, **options):
    return episode_task(jax.random.key(0), features, LABELS, **{**SHAPE, **options})


def as_they_are(method):
    """The same method, which nothing knows by its functions."""
    return method._replace(predict=lambda model, queries: method.predict(model, queries))


def wrong(method, task, features):
    """Share of predictions that differ from those in float64."""
    found = evaluate_function(task.key, method, features, LABELS, drawn=task.episodes).predictions
    x, known = features.astype(np.float64), np.repeat(np.arange(3), 2)
    different = 0
    for i, (support, query) in enumerate(zip(task.episodes.support, task.episodes.query, strict=True)):
        support, query = x[np.asarray(support).reshape(-1)], x[np.asarray(query).reshape(-1)]
        if method == METHODS["prototypes"]:
            support = support.reshape(3, 2, -1).mean(axis=1)
        nearest = ((query[:, None] - support[None]) ** 2).sum(axis=2).argmin(axis=1)
        best = nearest if method == METHODS["prototypes"] else known[nearest]
        different += (found[i].reshape(-1) != best).sum()
    return different / found.size


def test_the_table_has_the_products_about_the_mean():
    centred = FEATURES.astype(np.float64) - FEATURES.astype(np.float64).mean(axis=0)
    expected = centred @ centred.T
    upper = np.triu_indices(len(FEATURES))
    found = np.asarray(products.product_table(task_of()))
    np.testing.assert_allclose(found[upper], expected[upper], rtol=1e-4, atol=1e-3)
    support, query = jnp.array([7, 100, 3]), jnp.array([50, 2])
    read = products.products_of(jnp.asarray(found), support, query)
    np.testing.assert_allclose(read.support, expected[np.ix_(support, support)], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(read.query, expected[np.ix_(query, support)], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(read.squares, np.diag(expected)[np.asarray(query)], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_log_probabilities_are_those_of_the_features(name):
    method, x = METHODS[name], FEATURES[:30] - FEATURES[:30].mean(axis=0)
    labels = np.array([0, 1, 2, 3, 2, 1, 0, 1, 3, 3])  # 3: padding
    support, query = jnp.asarray(x[:10]), jnp.asarray(x[10:])
    with_features = method.predict(method.fit(jax.random.key(0), support, labels, 3), query)
    known = Products(support @ support.T, query @ support.T, (query**2).sum(axis=1))
    with_products = by_products(method)(known, labels, 3)
    np.testing.assert_allclose(with_products, with_features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"shots": (1, 4)}, {"parts": 2, "ways": 2}, {"chunk": 7}], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_predictions_are_those_of_the_features(name, options, monkeypatch):
    def run(method):
        return evaluate_function(jax.random.key(0), method, FEATURES, LABELS, **{**SHAPE, **options})

    by_features = run(as_they_are(METHODS[name]))
    assert 0.3 < by_features.accuracies.mean() < 1
    traced = []
    monkeypatch.setattr("fewshotjax.evaluation.BLOCK", 48)  # three calls of one program
    monkeypatch.setattr("fewshotjax.evaluation.products_of", lambda *a: traced.append(a) or products_of(*a))
    by_table = run(METHODS[name])
    np.testing.assert_array_equal(by_table.predictions, by_features.predictions)
    assert len(traced) == 1


def test_a_method_with_another_function_is_another_method():
    def failing(model, queries):
        return jnp.full((len(queries), 3), jnp.nan)

    found = evaluate_function(
        jax.random.key(0), fs.prototypes()._replace(predict=failing), FEATURES, LABELS, **SHAPE
    )
    assert found.failed == 1200


def test_the_table_is_left_where_it_does_not_pay():
    method = fs.prototypes()
    assert products.table_pays(task_of(), method)
    assert not products.table_pays(task_of(), fs.ridge())  # which has no such way
    assert not products.table_pays(task_of(episodes=1), method)  # a table for a single episode
    assert not products.table_pays(task_of(FEATURES[:, :8]), method)  # features are read as quickly
    images = FEATURES.reshape(-1, 16, 16)
    assert not products.table_pays(task_of(images), method)


def test_the_table_keeps_to_the_memory_budget(monkeypatch):
    size = 4 * len(FEATURES) * (len(FEATURES) * 9 // 8 + 256)
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", str(size))
    assert products.table_pays(task_of(), fs.prototypes())
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", str(size - 1))
    assert not products.table_pays(task_of(), fs.prototypes())


@pytest.mark.parametrize("name", METHODS)
def test_up_to_the_limit_rounding_does_not_tell(name):
    """Half of the classes lie far off, just within the limit, so that products are large."""
    features = FEATURES + np.where(LABELS[:, None] < 4, np.float32(16.0), np.float32(0))
    task = task_of(features)
    table = products.product_table(task)
    assert table is not None
    ratio = float(jnp.max(jnp.diagonal(table))) / 256
    assert 60 < ratio < products._SPREAD
    assert wrong(METHODS[name], task, features) == 0


def test_beyond_the_limit_features_are_asked():
    """Far classes; and wide ones, whose mean spread would hide how tight the others are."""
    far = FEATURES + np.where(LABELS[:, None] < 4, np.float32(1e4), np.float32(0))
    assert products.product_table(task_of(far)) is None
    wide = FEATURES * np.where(LABELS[:, None] < 2, np.float32(60), np.float32(1))
    assert products.product_table(task_of(wide)) is None
