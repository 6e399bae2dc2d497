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
from nemojax.training.step import begin, epoch, normalized

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
    state = epoch(
        jax.random.key(1),
        begin(network.params, config, 1),
        jnp.asarray(part.images),
        jnp.asarray(part.labels),
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

    class StoppedError(Exception):
        pass

    def stop(epoch, state):
        if epoch.number == 2:
            raise StoppedError

    whole = train(jax.random.key(3), network, part, CONFIG)
    other = train(jax.random.key(4), network, part, CONFIG)
    file, seen = tmp_path / "train.ckpt", []
    with pytest.raises(StoppedError):
        train(jax.random.key(3), network, part, CONFIG, on_epoch=stop, checkpoint=file)
    resumed = train(
        jax.random.key(3),
        network,
        part,
        CONFIG,
        on_epoch=lambda e, s: seen.append(e.number),
        checkpoint=file,
    )
    assert seen == [3]
    assert leaves_equal(whole.params, resumed.params)
    assert not leaves_equal(whole.params, other.params)
    with pytest.raises(ValueError, match="was written with other settings"):
        train(jax.random.key(3), network, part, replace(CONFIG, epochs=4), checkpoint=file)


def test_refusals(network):
    part, key = pictures(1, 20), jax.random.key(0)
    for change, message in (
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"warmup_epochs": 3.0}, "warmup_epochs must be below epochs, got 3.0 of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **change)
    with pytest.raises(ValueError, match="batch is 64 for 20 images"):
        train(key, network, part, replace(CONFIG, batch=64))
    with pytest.raises(ValueError, match="images are 6x6, the network takes 8 pixels"):
        train(key, network, LabelledArrays(part.images[:, :6, :6], part.labels, part.classes), CONFIG)
    with pytest.raises(ValueError, match="holds no Flax variables"):
        train(key, replace(network, params={"w": jnp.ones(3)}), part, CONFIG)
    wrong = LabelledArrays(part.images, part.labels + 2, tuple("abcde"))
    with pytest.raises(ValueError, match="labels must be in 0-2, got 2 to 4"):
        train(key, network, wrong, CONFIG)
    with pytest.raises(ValueError, match="training diverged in epoch 1"):
        train(key, network, part, replace(CONFIG, learning_rate=1e38, warmup_epochs=0.0))
