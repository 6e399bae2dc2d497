"""k-means refresh: centres of separated groups by hand, what is kept, and its place in a training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import refresh
from fewshotjax.backbones import Backbone, Preprocess
from fewshotjax.data.labelled import LabelledImages
from fewshotjax.refresh import kmeans_refresh, kmeans_refresh_head
from fewshotjax.repmet_model import RepMetConfig, init_repmet, repmet_objective
from fewshotjax.training import TrainConfig, train, train_head

PLAIN = RepMetConfig(modes=2, embedding=None, normalize_embedding=False, normalize_representatives=False)


def groups():
    """Two classes of two far groups each; a class of one point, four times; one without examples."""
    rng = np.random.default_rng(0)
    middles = np.array([[0, 0, 9], [9, 0, 0], [0, 9, 0], [9, 9, 9]], np.float32)
    points = np.repeat(middles, 10, axis=0) + rng.normal(size=(40, 3)).astype(np.float32) * 0.1
    points = np.concatenate([points, np.full((4, 3), 5, np.float32)])
    labels = np.array([0] * 20 + [1] * 20 + [2] * 4, np.int32)
    order = rng.permutation(44)
    return points[order], labels[order]


def sorted_rows(array):
    return array[np.lexsort(array.T)]


@pytest.mark.parametrize("normalize", [False, True])
def test_modes_become_the_means_of_separated_groups(normalize):
    points, labels = groups()
    config = RepMetConfig(
        modes=2, embedding=None, normalize_embedding=normalize, normalize_representatives=normalize
    )
    head = init_repmet(jax.random.key(1), config, 3, 4)
    new = kmeans_refresh_head(points, labels, config, classes=4)(1, head)["modes"]
    unit = (lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)) if normalize else lambda x: x
    for label, split in ((0, 2), (1, 0)):
        mine = unit(points[labels == label])
        high = points[labels == label][:, split] > 4.5
        wanted = unit(np.stack([mine[high].mean(axis=0), mine[~high].mean(axis=0)]))
        np.testing.assert_allclose(sorted_rows(np.asarray(new[label])), sorted_rows(wanted), atol=1e-5)
    np.testing.assert_allclose(new[2, 0], unit(np.full(3, 5.0)), rtol=1e-5)
    np.testing.assert_array_equal(new[2, 1], head["modes"][2, 1])  # one distinct embedding
    np.testing.assert_array_equal(new[3], head["modes"][3])


def test_embeddings_are_those_of_the_head():
    points, labels = groups()
    config = RepMetConfig(modes=1, embedding=5, normalize_embedding=False, normalize_representatives=False)
    head = init_repmet(jax.random.key(1), config, 3, 3)
    new = kmeans_refresh_head(points, labels, config)(1, head)
    embedded = points @ np.asarray(head["head"]["Dense_0"]["kernel"]) + head["head"]["Dense_0"]["bias"][None]
    wanted = [embedded[labels == label].mean(axis=0) for label in range(3)]
    np.testing.assert_allclose(new["modes"][:, 0], np.stack(wanted), rtol=1e-5, atol=1e-5)
    assert new["head"] is head["head"]


def test_it_follows_from_its_arguments_and_compiles_once():
    points, labels = groups()
    head = init_repmet(jax.random.key(1), PLAIN, 3, 3)

    def run(number, seed=0, every=1):
        made = kmeans_refresh_head(points, labels, PLAIN, per_class=3, seed=seed, every=every)
        return np.asarray(made(number, head)["modes"])

    refresh._centres.clear_cache()
    one = run(1)
    np.testing.assert_array_equal(one, run(1))
    assert (one != run(2)).any()
    assert (one != run(1, seed=1)).any()
    np.testing.assert_array_equal(run(1, every=2), head["modes"])
    np.testing.assert_array_equal(run(2, every=2), run(2))
    assert refresh._centres._cache_size() == 1


def test_samples_are_drawn_without_repetition_and_padded():
    labels = np.array([0, 1, 0, 0, 0, 1], np.int32)
    rows, mask = refresh._Drawn(PLAIN, 1, 3, 0, labels, 3).rows(1)
    assert rows.shape == (3, 3)
    np.testing.assert_array_equal(mask.sum(axis=1), [3, 2, 0])
    for label in (0, 1):
        found = rows[label][mask[label]]
        assert len(set(found.tolist())) == len(found)
        assert (labels[found] == label).all()


def test_training_of_a_head_goes_on_bit_for_bit(tmp_path):
    points, labels = groups()
    config = TrainConfig(epochs=3, batch=11, learning_rate=0.01)
    made, seen = kmeans_refresh_head(points, labels, PLAIN), []

    def told(number, head):
        seen.append(number)
        return made(number, head)

    objective = repmet_objective(PLAIN)
    whole = train_head(jax.random.key(0), points, labels, objective, config, refresh=told)
    assert seen == [1, 2]
    without = train_head(jax.random.key(0), points, labels, objective, config)
    assert (np.asarray(whole.head["modes"]) != without.head["modes"]).any()

    def stop(chunk):
        if chunk.done == 5:
            raise KeyboardInterrupt

    again = {"refresh": kmeans_refresh_head(points, labels, PLAIN), "checkpoint": tmp_path / "run.state"}
    with pytest.raises(KeyboardInterrupt):
        train_head(jax.random.key(0), points, labels, objective, config, every=1, on_chunk=stop, **again)
    rest = train_head(jax.random.key(0), points, labels, objective, config, **again)
    np.testing.assert_array_equal(rest.head["modes"], whole.head["modes"])
    other = {**again, "refresh": kmeans_refresh_head(points, labels, PLAIN, seed=1)}
    with pytest.raises(ValueError, match="seed=1"):
        train_head(jax.random.key(0), points, labels, objective, config, **other)


class Mean(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        scale = self.param("scale", nn.initializers.ones, (3,))
        return x.mean((1, 2)) * scale[None]


def test_training_on_images_refreshes_from_the_backbone_as_it_is():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2, dtype=np.int32), 12)
    pixels = rng.integers(0, 256, (24, 2, 2, 3)).astype(np.uint8)
    images = LabelledImages(pixels, labels, ("a", "b"))
    variables = {"params": {"scale": jnp.asarray([1.0, 2.0, 3.0])}}
    net = Backbone("mean", Mean().apply, variables, Preprocess(2, mean=0.0, scale=255.0), 3)
    config = RepMetConfig(modes=1, embedding=None, normalize_embedding=False, normalize_representatives=False)
    head = init_repmet(jax.random.key(0), config, 3, 2)
    new = kmeans_refresh(images, config)(1, net, head)["modes"][:, 0]
    feature = pixels.astype(np.float32).mean(axis=(1, 2)) / 255 * np.array([1, 2, 3], np.float32)
    np.testing.assert_allclose(new, [feature[labels == i].mean(axis=0) for i in (0, 1)], rtol=1e-5)
    found = train(
        jax.random.key(0),
        net,
        images,
        repmet_objective(config),
        TrainConfig(epochs=2, batch=8, learning_rate=1e-6, padding=0, mirror=False, ema=0.0),
        refresh=kmeans_refresh(images, config),
    )
    np.testing.assert_allclose(found.head["modes"][:, 0], new, atol=1e-3)  # where the refresh put them


def test_errors():
    points, labels = groups()
    with pytest.raises(ValueError, match="tied must be False"):
        kmeans_refresh_head(points, labels, RepMetConfig(tied=True))
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        kmeans_refresh_head(points, labels, PLAIN, every=0)
    with pytest.raises(ValueError, match="per_class must be at least modes, 2, got 1"):
        kmeans_refresh_head(points, labels, PLAIN, per_class=1)
    head = init_repmet(jax.random.key(0), PLAIN, 3, 5)
    with pytest.raises(ValueError, match="the head has 5 classes of 2 modes, the refresh is of 3 of 2"):
        kmeans_refresh_head(points, labels, PLAIN)(1, head)
