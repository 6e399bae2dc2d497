"""k-means against a NumPy loop and scikit-learn, and representatives read off examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import fit_representatives, kmeans
from fewshotjax.kmeans import _lloyd


def lloyd(points, centres, iterations=20):
    centres = centres.copy()
    for _ in range(iterations):
        near = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        for k in range(len(centres)):
            if (near == k).any():
                centres[k] = points[near == k].mean(0)
    return centres, near


def sorted_rows(x):
    return np.asarray(x)[np.lexsort(np.asarray(x).T[::-1])]


@pytest.mark.parametrize("width", [2, 40])  # by distances, and by inner products
@pytest.mark.parametrize("seed", range(3))
def test_it_is_a_fixed_point_of_lloyds_iterations_over_the_points_in_the_mask(seed, width):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(20, width)).astype(np.float32)
    mask = np.arange(20) < 17
    found = kmeans(jax.random.key(seed), jnp.asarray(points), jnp.asarray(mask), 4)
    assert np.asarray(found.valid).all()
    centres, near = lloyd(points[mask], np.asarray(found.centres), 1)
    np.testing.assert_allclose(found.centres, centres, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(found.assignment)[mask], near)


def test_clear_clusters_are_found_as_scikit_learn_finds_them():
    cluster = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [8, 0], [0, 8]])
    points = (centres[np.arange(30) % 3] + 0.3 * rng.normal(size=(30, 2))).astype(np.float32)
    expected = cluster.KMeans(3, n_init=5, random_state=0).fit(points).cluster_centers_
    found = kmeans(jax.random.key(0), jnp.asarray(points), jnp.ones(30, bool), 3)
    np.testing.assert_allclose(sorted_rows(found.centres), sorted_rows(expected), atol=1e-4)


def test_seeds_follow_the_weights_of_k_means_plus_plus():
    """Three points on a line at 0, 1, 3: after a first, the others with probability ∝ squared distance."""
    points = jnp.array([[0.0], [1.0], [3.0]])
    keys = jax.random.split(jax.random.key(0), 4_000)
    run = jax.vmap(lambda key: kmeans(key, points, jnp.ones(3, bool), 2, iterations=0).centres[:, 0])
    pairs = np.asarray(run(keys))
    expected = {(0, 1): 1 / 10, (0, 3): 9 / 10, (1, 0): 1 / 5, (1, 3): 4 / 5, (3, 0): 9 / 13, (3, 1): 4 / 13}
    for pair, share in expected.items():
        assert (pairs == pair).all(axis=1).mean() == pytest.approx(share / 3, abs=0.025)


@pytest.mark.parametrize("width", [2, 40])  # by distances, and by inner products
def test_a_cluster_that_loses_its_points_keeps_its_centre(width):
    """From a start with one centre far away: k-means++ takes points, which hardly ever lose theirs."""
    points = np.random.default_rng(0).normal(size=(9, width)).astype(np.float32)
    start = np.eye(3, 9, dtype=np.float32)
    start[2, :2] = 50, -49
    valid, mask = jnp.ones(3, bool), jnp.ones(9, bool)
    weights, near = _lloyd(
        jnp.asarray(points), jnp.asarray(points @ points.T), mask, jnp.asarray(start), valid, 20, False
    )
    expected, nearest = lloyd(points, start @ points)
    assert 2 not in nearest
    np.testing.assert_array_equal(near, nearest)
    np.testing.assert_array_equal(weights[2], start[2])
    np.testing.assert_allclose(weights @ points, expected, rtol=1e-3, atol=1e-3)


def test_fewer_distinct_points_than_clusters_leave_the_rest_invalid():
    points = jnp.array([[1.0, 2.0], [1.0, 2.0], [5.0, 1.0], [9.0, 9.0]])
    mask = jnp.array([True, True, True, False])
    found = kmeans(jax.random.key(1), points, mask, 4)
    assert np.asarray(found.valid).sum() == 2
    np.testing.assert_allclose(sorted_rows(found.centres[found.valid]), [[1, 2], [5, 1]])
    empty = kmeans(jax.random.key(1), points, jnp.zeros(4, bool), 2)
    assert not np.asarray(empty.valid).any()
    assert np.isfinite(empty.centres).all()


@pytest.mark.parametrize("width", [3, 40])
def test_spherical_centres_have_unit_length(width):
    points = np.random.default_rng(0).normal(size=(12, width)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = kmeans(jax.random.key(0), jnp.asarray(points), jnp.ones(12, bool), 3, normalize=True)
    near = np.asarray(found.assignment)
    for k in range(3):
        mean = points[near == k].mean(0)
        np.testing.assert_allclose(found.centres[k], mean / np.linalg.norm(mean), atol=1e-5)


# Representatives


@pytest.mark.parametrize("known", [True, False])
def test_few_examples_are_the_modes_themselves(known):
    rng = np.random.default_rng(0)
    support = rng.normal(size=(7, 4)).astype(np.float32)
    labels = np.array([1, 0, 1, 3, 2, 1, 0], np.int32)  # 3: padding of three ways
    given = labels if known else jnp.asarray(labels)
    found = fit_representatives(jax.random.key(0), jnp.asarray(support), given, 3, 3, normalize=False)
    np.testing.assert_array_equal(found.mask.sum(axis=1), [2, 3, 1])
    for way in range(3):
        kept = np.asarray(found.modes[way])[np.asarray(found.mask[way])]
        np.testing.assert_allclose(kept, support[labels == way])


def test_many_examples_become_centres_of_their_own_class():
    rng = np.random.default_rng(1)
    corners = np.array([[0, 0], [9, 0], [0, 9], [9, 9]], np.float32)
    labels = np.repeat([0, 1], 10).astype(np.int32)
    support = corners[2 * labels + np.arange(20) % 2] + 0.1 * rng.normal(size=(20, 2)).astype(np.float32)
    found = fit_representatives(jax.random.key(0), jnp.asarray(support), labels, 2, 2, normalize=False)
    assert np.asarray(found.mask).all()
    for way in range(2):
        np.testing.assert_allclose(
            sorted_rows(found.modes[way]), sorted_rows(corners[2 * way : 2 * way + 2]), atol=0.3
        )


def test_classes_of_mixed_size_and_an_empty_one():
    support = jnp.asarray(np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32))
    labels = jnp.array([0, 0, 0, 0, 2, 3])
    found = fit_representatives(jax.random.key(0), support, labels, 4, 2)
    np.testing.assert_array_equal(found.mask.sum(axis=1), [2, 0, 1, 1])
    lengths = np.linalg.norm(np.asarray(found.modes), axis=2)[np.asarray(found.mask)]
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_what_makes_no_sense_is_refused():
    x, mask = jnp.ones((3, 2)), jnp.ones(3, bool)
    with pytest.raises(ValueError, match="clusters must be at least 1, iterations at least 0, got 0, 20"):
        kmeans(jax.random.key(0), x, mask, 0)
    with pytest.raises(ValueError, match="modes must be at least 1, got 0"):
        fit_representatives(jax.random.key(0), x, jnp.zeros(3, int), 1, 0)


def test_labels_fit_the_embeddings(as_users_have_it):
    with pytest.raises(ValueError, match="labels are 4, embeddings 3"):
        fit_representatives(jax.random.key(0), jnp.ones((3, 2)), jnp.zeros(4, int), 1, 1)
