"""Nearest class mean against a NumPy retelling and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import log_probabilities, prototypes


@pytest.mark.parametrize("seed", range(4))
def test_against_numpy(seed):
    rng = np.random.default_rng(seed)
    support, queries = rng.normal(size=(17, 6)).astype(np.float32), rng.normal(size=(9, 6)).astype(np.float32)
    labels = np.r_[np.arange(4), rng.integers(0, 4, 13)]
    centres = np.stack([support[labels == k].mean(0) for k in range(4)])
    distance = ((queries[:, None] - centres[None]) ** 2).sum(-1)
    expected = -distance - np.log(np.exp(-distance).sum(1, keepdims=True))
    found = prototypes(jnp.asarray(support), jnp.asarray(labels), 4)
    np.testing.assert_allclose(found, centres, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_probabilities(found, jnp.asarray(queries)), expected, rtol=1e-4, atol=1e-4)


def test_against_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    support, queries = (
        rng.normal(size=(40, 3)).astype(np.float32),
        rng.normal(size=(200, 3)).astype(np.float32),
    )
    labels = np.arange(40) % 5
    expected = neighbors.NearestCentroid().fit(support, labels).predict(queries)
    found = log_probabilities(prototypes(jnp.asarray(support), jnp.asarray(labels), 5), jnp.asarray(queries))
    np.testing.assert_array_equal(jnp.argmax(found, axis=1), expected)


def test_episodes_vmap_and_foreign_labels_are_left_out():
    support = jax.random.normal(jax.random.key(0), (3, 8, 2))
    labels = jnp.tile(jnp.array([0, 0, 0, 1, 1, 1, 1, 7]), (3, 1))
    together = jax.vmap(lambda z, y: prototypes(z, y, 2))(support, labels)
    alone = prototypes(support[1, :7], labels[1, :7], 2)
    np.testing.assert_allclose(together[1], alone, rtol=1e-6)


def test_a_class_without_examples_is_nan():
    found = prototypes(jnp.ones((2, 3)), jnp.array([0, 0]), 2)
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[0]).all()
