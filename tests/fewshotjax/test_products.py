"""Episodes from a table of inner products: what features give, and features where the table would not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fewshotjax as fs
from fewshotjax import evaluate as evaluate_function, products
from fewshotjax.episode_task import episode_task

METHODS = {"prototypes": fs.prototypes(), "nearest_neighbour": fs.nearest_neighbour()}
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(8), 15).astype(np.int32)
FEATURES = (0.3 * RNG.normal(size=(8, 256))[LABELS] + RNG.normal(size=(120, 256)) + 3).astype(np.float32)
SHAPE = {"ways": 3, "shots": 2, "queries": 4, "episodes": 100}


def task_of(features=FEATURES, **options):
    return episode_task(jax.random.key(0), features, LABELS, **{**SHAPE, **options})


def test_the_table_has_the_products_about_the_mean():
    centred = FEATURES.astype(np.float64) - FEATURES.astype(np.float64).mean(axis=0)
    expected = centred @ centred.T
    upper = np.triu_indices(len(FEATURES))
    found = np.asarray(products.product_table(jnp.asarray(FEATURES)))
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
    known = fs.methods.method.Products(support @ support.T, query @ support.T, (query**2).sum(axis=1))
    with_products = method.by_products(known, labels, 3)
    np.testing.assert_allclose(with_products, with_features, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"shots": (1, 4)}, {"parts": 2, "ways": 2}, {"chunk": 7}], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_predictions_are_those_of_the_features(name, options):
    def run(method):
        return evaluate_function(jax.random.key(0), method, FEATURES, LABELS, **{**SHAPE, **options})

    def not_asked(*_):
        raise AssertionError("features were asked for")

    by_features = run(METHODS[name]._replace(by_products=None))
    by_table = run(METHODS[name]._replace(fit=not_asked, predict=not_asked))
    assert 0.3 < by_features.accuracies.mean() < 1
    np.testing.assert_array_equal(by_table.predictions, by_features.predictions)


def test_the_table_is_left_where_it_does_not_pay():
    method = fs.prototypes()
    assert products.table_pays(task_of(), method)
    assert not products.table_pays(task_of(), fs.ridge())  # which has no such way
    assert not products.table_pays(task_of(episodes=1), method)  # a table for a single episode
    assert not products.table_pays(task_of(FEATURES[:, :8]), method)  # features are read as quickly
    images = FEATURES.reshape(-1, 16, 16)
    assert not products.table_pays(task_of(images), method)


def test_the_table_keeps_to_the_memory_budget(monkeypatch):
    size = 4 * len(FEATURES) ** 2
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", str(2 * size))
    assert products.table_pays(task_of(), fs.prototypes(), pieces=2)
    assert not products.table_pays(task_of(), fs.prototypes(), pieces=3)


def test_examples_far_apart_go_the_exact_way():
    """Half of the classes lie far off: about the mean of all, products would round the classes away."""
    far = FEATURES + np.where(LABELS[:, None] < 4, np.float32(1e4), np.float32(0))
    method = fs.prototypes()
    assert not products.table_pays(task_of(far), method)
    found = evaluate_function(jax.random.key(0), method, far, LABELS, classes=(0, 1, 2, 3), **SHAPE)
    near = evaluate_function(jax.random.key(0), method, FEATURES, LABELS, classes=(0, 1, 2, 3), **SHAPE)
    assert found.accuracy.mean == pytest.approx(near.accuracy.mean, abs=0.02)
