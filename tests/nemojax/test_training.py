"""Training on a few images: the rule by hand, resuming bit for bit, and that it learns."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.data import LabelledArrays
from nemojax.networks import Network
from nemojax.preprocess import Preprocess
from nemojax.training import TrainConfig, predict, train
from nemojax.training.step import augmented, begin, cut_out, normalized, run

CONFIG = TrainConfig(epochs=3, batch=8, learning_rate=0.05, warmup_epochs=1.0, padding=1, ema=0.5)
PIXELS = Preprocess(resolution=8, mean=(120.0, 110.0, 100.0), scale=(60.0, 55.0, 50.0), fit="as_is")


class Net(nn.Module):
    """A convolution, a depthwise one and batch norms."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(6, (3, 3), use_bias=False, name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x))
        x = nn.relu(nn.Conv(6, (3, 3), 2, feature_group_count=6, name="depthwise")(x))
        return nn.Dense(3, name="classifier")(jnp.mean(x, (1, 2)))


def pictures(seed, count):
    """Classes differ in the channel that is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 120, (count, 8, 8, 3))
    images[np.arange(count), :, :, labels] += 100
    return LabelledArrays(images.astype(np.uint8), labels, ("a", "b", "c"))


@pytest.fixture(scope="module")
def network():
    model = Net()
    return Network("net", model.apply, model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))), PIXELS)


def leaves_equal(a, b):
    return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_first_step_by_hand(network):
    """Nesterov's first step is (1 + m)·g; decay of kernels alone, smoothed targets, statistics."""
    part = pictures(0, 8)
    config = replace(CONFIG, epochs=1, warmup_epochs=0.0, padding=0, weight_decay=0.1, label_smoothing=0.2)
    state = run(
        jax.random.key(1),
        begin(network.params, config, 1),
        jnp.asarray(part.images),
        jnp.asarray(part.labels),
        jnp.asarray(1),
        network.apply,
        PIXELS,
        config,
    )
    x = (part.images.astype(np.float32) - np.float32(PIXELS.mean)) / np.float32(PIXELS.scale)
    np.testing.assert_allclose(normalized(jnp.asarray(part.images), PIXELS), x, rtol=1e-6)
    targets = 0.8 * np.eye(3)[part.labels] + 0.2 / 3

    def loss(params):
        logits, updates = network.apply(
            {**network.params, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return -jnp.mean(jnp.sum(jnp.asarray(targets, jnp.float32) * jax.nn.log_softmax(logits), 1)), updates

    (value, updates), gradient = jax.value_and_grad(loss, has_aux=True)(network.params["params"])
    np.testing.assert_allclose(state.loss, value, rtol=1e-5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(network.params["params"]):
        g, found = gradient, state.params
        for part_of_path in path:
            g, found = g[part_of_path.key], found[part_of_path.key]
        g = g + (0.1 * leaf if leaf.ndim > 1 else 0.0)
        np.testing.assert_allclose(found, leaf - 0.05 * 1.9 * g, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (state.statistics, updates["batch_stats"])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert leaves_equal(state.kept, {"params": state.params, "batch_stats": state.statistics})  # the first


def test_it_learns_and_keeps_a_mean_of_the_weights(network):
    part, unseen = pictures(1, 120), pictures(2, 90)
    seen = []
    config = replace(CONFIG, epochs=6)
    trained = train(
        jax.random.key(0), network, part, config, validation=unseen, on_epoch=lambda e, s: seen.append((e, s))
    )
    assert [e.number for e, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1][0].loss < seen[0][0].loss
    for wrong in (unseen.images[..., :1], unseen.images.astype(np.float32), unseen.images[:, :4]):
        with pytest.raises(ValueError, match="images are "):
            predict(trained, wrong)
    error = np.mean(predict(trained, unseen.images, batch=40) != unseen.labels)
    assert error < 0.1 < np.mean(predict(network, unseen.images) != unseen.labels)
    np.testing.assert_allclose(error, seen[-1][0].validation_error)
    logits = network.apply(trained.params, normalized(jnp.asarray(unseen.images), PIXELS))
    assert np.mean(np.argmax(logits, 1) == predict(trained, unseen.images)) > 0.98  # as Flax runs it
    state = seen[-1][1]
    assert leaves_equal(trained.params["params"], state.kept["params"])
    assert not leaves_equal(trained.params["params"], state.params)


def test_a_stopped_training_goes_on_bit_for_bit(network, tmp_path):
    part = pictures(1, 60)
    config = replace(CONFIG, resolutions=(6, 8), cutout=3)
    assert [config.pixels(i) for i in range(3)] == [6, 6, 8]

    class StoppedError(Exception):
        pass

    def stop(chunk):
        if chunk.step == 9:  # 7 steps an epoch
            raise StoppedError

    whole = train(jax.random.key(3), network, part, config)
    other = train(jax.random.key(4), network, part, config)
    file, seen, chunks = tmp_path / "train.ckpt", [], []
    compiled = run._cache_size()
    with pytest.raises(StoppedError):
        train(jax.random.key(3), network, part, config, on_chunk=stop, every=2, checkpoint=file)
    resumed = train(
        jax.random.key(3),
        network,
        part,
        config,
        on_epoch=lambda e, s: seen.append(e.number),
        on_chunk=chunks.append,
        every=3,
        checkpoint=file,
    )
    assert run._cache_size() == compiled  # chunks of any length are one program
    assert seen == [2, 3]
    assert [chunk.step for chunk in chunks] == [12, 14, 17, 20, 21]
    assert leaves_equal(whole.params, resumed.params)
    assert not leaves_equal(whole.params, other.params)
    with pytest.raises(ValueError, match="was written with other settings"):
        train(jax.random.key(3), network, part, replace(config, epochs=4), checkpoint=file)


def test_an_epoch_has_every_image_once():
    """A network without weights that matter, whose statistics add up what it sees."""

    class Sum(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            total = self.variable("batch_stats", "sum", lambda: jnp.zeros(()))
            total.value = total.value + x.sum()
            return nn.Dense(2)(x.mean((1, 2)))

    model, images = Sum(), jnp.arange(12, dtype=jnp.uint8)[:, None, None, None] * jnp.ones((1, 2, 2, 3), "u1")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))
    variables = {**variables, "batch_stats": {"sum": jnp.zeros(())}}
    config = TrainConfig(epochs=1, batch=4, padding=0, warmup_epochs=0.0)
    raw = Preprocess(8, 0.0, 1.0)
    state = begin(variables, config, 3)
    for count in (1, 2):
        args = jnp.zeros(12, jnp.int32), jnp.asarray(count), model.apply, raw, config
        state = run(jax.random.key(1), state, images, *args)
    assert float(state.statistics["sum"]) == 12 * sum(range(12))
    assert int(state.step) == 3


def test_one_compilation_for_all_steps(network):
    before = run._cache_size()
    state = begin(network.params, CONFIG, 12)
    part = pictures(0, 64)
    data = jnp.asarray(part.images), jnp.asarray(part.labels)
    for count in (1, 2, 1):
        steps = jnp.asarray(count, jnp.int32)
        state = run(jax.random.key(1), state, *data, steps, network.apply, network.preprocess, CONFIG)
    assert run._cache_size() == before + 1


def test_augmentation():
    images = jnp.asarray(pictures(0, 64).images)
    plain = normalized(images, PIXELS)
    config = replace(CONFIG, padding=0, cutout=4)
    key = jax.random.key(0)
    hidden = np.asarray(augmented(key, images, PIXELS, config, None) == 0).all(-1)
    assert hidden.sum((1, 2)).min() >= 4  # of a square in a corner a quarter is left
    assert hidden.sum((1, 2)).max() == 16
    kept = np.asarray(augmented(key, images, PIXELS, config, None))
    np.testing.assert_array_equal(kept[~hidden], np.asarray(plain)[~hidden])
    assert len({row.tobytes() for row in hidden}) > 20
    square = np.asarray(cut_out(jax.random.split(key, 64), jnp.ones((64, 8, 8, 1)), 4)[..., 0] == 0)
    for one in square:  # rows and columns that are hidden lie side by side
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        assert one[np.ix_(rows, columns)].all()
        assert np.ptp(rows) == len(rows) - 1 <= 3
    small = augmented(key, images, PIXELS, replace(CONFIG, padding=0), 4)
    means = np.asarray(plain).reshape(64, 4, 2, 4, 2, 3).mean((2, 4))
    assert small.shape == (64, 4, 4, 3)
    assert np.abs(np.asarray(small)[:, 1:-1, 1:-1] - means[:, 1:-1, 1:-1]).mean() < 0.35
    assert np.abs(means[:, 1:-1, 1:-1]).mean() > 0.5


def test_refusals(network):
    part, key = pictures(1, 20), jax.random.key(0)
    for change, message in (
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"resolutions": (8, 0)}, "resolutions must be pixels above 0"),
        ({"resolutions": (8, 8, 8, 8)}, "at most one for each of 3 epochs"),
        ({"cutout": -1}, "cutout must not be negative"),
        ({"warmup_epochs": 3.0}, "warmup_epochs must be below epochs, got 3.0 of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **change)
    with pytest.raises(ValueError, match="batch is 64 for 20 images"):
        train(key, network, part, replace(CONFIG, batch=64))
    with pytest.raises(ValueError, match="images are 6x6, the network takes 8 pixels"):
        train(key, network, LabelledArrays(part.images[:, :6, :6], part.labels, part.classes), CONFIG)
    with pytest.raises(ValueError, match=r"images are uint8 of shape .*1\): give uint8 \(N, H, W, 3\)"):
        train(key, network, LabelledArrays(part.images[..., :1], part.labels, part.classes), CONFIG)
    other = LabelledArrays(part.images[..., :1], part.labels, part.classes)
    with pytest.raises(ValueError, match=r"images are uint8 of shape .*1\): give uint8 \(N, H, W, 3\)"):
        train(key, network, part, CONFIG, validation=other)
    with pytest.raises(ValueError, match="holds no Flax variables"):
        train(key, replace(network, params={"w": jnp.ones(3)}), part, CONFIG)
    wrong = LabelledArrays(part.images, part.labels + 2, tuple("abcde"))
    with pytest.raises(ValueError, match="labels must be in 0-2, got 2 to 4"):
        train(key, network, wrong, CONFIG)
    with pytest.raises(ValueError, match="training diverged in epoch 1"):
        train(key, network, part, replace(CONFIG, learning_rate=1e38, warmup_epochs=0.0))
