"""Two small networks that are trained here: digits (6 quantizers) and CIFAR-10 (39), for searches to the end.

Their weights depend on the key alone (and on the machine's rounding). They are kept as safetensors in the
folder FRUGALJAX_CACHE, or in the system's cache folder, and trained again where they are not there.
"""

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import nemojax as nemo

CLASSES = 10  # of both sets
CIFAR_ARCHIVE = "cifar10.tar.xz"  # members train|test/<class>/<number>.jpg
CIFAR_PIXELS = 32


class Labelled(NamedTuple):
    """Images as the network takes them, and their classes."""

    images: Float[np.ndarray, "N H W C"]  # float32
    labels: Int[np.ndarray, " N"]  # int32


class Trained(NamedTuple):
    """A trained network and three disjoint sets of images, of which any first part holds all classes alike.

    Nothing was chosen by `search` or `report`: the settings of the training are fixed.
    """

    network: nemo.Network
    train: Labelled  # trained on; for calibration
    search: Labelled
    report: Labelled
    accuracy: float  # top-1 on `report`
    seconds: float  # that the training took, when it took place


@dataclass(frozen=True)
class Training:
    """AdamW (Loshchilov & Hutter 2019) with a linear rise and a cosine fall of its rate."""

    epochs: int
    batch: int
    rate: float  # the highest, after a fifth of the steps
    decay: float  # of the weights, times the rate, at each step
    flips: bool = False  # mirror each image left to right with probability 1/2


class DigitsNet(nn.Module):
    """One strided convolution and two dense layers: with the input 3 weights and 3 activations."""

    @nn.compact
    def __call__(self, images: Float[Array, "N 8 8 1"], train: bool = False) -> Float[Array, "N classes"]:
        x = nn.relu(nn.Conv(16, (3, 3), 2, name="conv")(images))
        x = nn.relu(nn.Dense(32, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES, name="classifier")(x)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, 1x1 where the shape changes (He et al. 2016)."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], train: bool) -> Float[Array, "N h w c"]:
        y = nn.relu(_norm(train, "bn1")(_conv(self.channels, 3, self.stride, "conv1")(x)))
        y = _norm(train, "bn2")(_conv(self.channels, 3, 1, "conv2")(y))
        if x.shape != y.shape:
            x = _norm(train, "shortcut_bn")(_conv(self.channels, 1, self.stride, "shortcut")(x))
        return nn.relu(x + y)


class CifarNet(nn.Module):
    """ResNet-14 of He et al. (2016) for 32x32 images, but with a stem of stride 2, which makes it four times
    as fast.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 2  # of each width

    @nn.compact
    def __call__(self, images: Float[Array, "N H W 3"], train: bool = False) -> Float[Array, "N classes"]:
        x = nn.relu(_norm(train, "stem_bn")(_conv(self.widths[0], 3, 2, "stem")(images)))
        for stage, channels in enumerate(self.widths):
            for i in range(self.blocks):
                stride = 2 if stage and not i else 1
                x = Block(channels, stride, name=f"block{stage}_{i}")(x, train)
        return nn.Dense(CLASSES, name="classifier")(jnp.mean(x, axis=(1, 2)))


DIGITS_TRAINING = Training(epochs=60, batch=100, rate=1e-2, decay=1e-2)
CIFAR_TRAINING = Training(epochs=9, batch=128, rate=1e-2, decay=5e-2, flips=True)


def digits_network(key: PRNGKeyArray) -> Trained:
    """scikit-learn's 1,797 digits, 8x8 pixels in [0, 1]: 1,100 to train on, 300 to search, 397 to report."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[..., None]
    k_split, k_train = jax.random.split(key)
    order = np.asarray(jax.random.permutation(k_split, len(images)))
    order = order[_evenly(digits.target[order])]
    fit, search, report = (
        Labelled(images[i], digits.target[i].astype(np.int32)) for i in np.split(order, [1100, 1400])
    )
    return _trained("digits", DigitsNet(), DIGITS_TRAINING, k_train, lambda: fit, (fit, search, report))


def cifar_network(key: PRNGKeyArray, data: str | os.PathLike[str]) -> Trained:
    """CIFAR-10 in [-1, 1]: trained on 49,000 training images, of which `train` holds 5,000.

    The other 1,000 training images are `search`, the 10,000 test images are `report`.
    """

    def read(split: str, numbers: range) -> Labelled:
        pixels, labels = read_cifar10(data, split, numbers)
        images = pixels.astype(np.float32)  # scaled in place: all of them are 600 MB
        images /= 127.5
        images -= 1
        return Labelled(images, labels)

    parts = read("train", range(500)), read("train", range(4900, 5000)), read("test", range(1000))
    return _trained("cifar10", CifarNet(), CIFAR_TRAINING, key, lambda: read("train", range(4900)), parts)


def read_cifar10(
    data: str | os.PathLike[str], split: str, numbers: Sequence[int]
) -> tuple[UInt8[np.ndarray, "N 32 32 3"], Int[np.ndarray, " N"]]:
    """The images with these numbers (0-4999 of train, 0-999 of test) of each of the ten classes.

    Args:
        data: the folder that holds `CIFAR_ARCHIVE`.

    Returns:
        Images and classes (by the sorted names) in the order of the numbers, all ten classes of each.

    Raises:
        ValueError: there is no archive, or some of the images are not in it.
    """
    archive = Path(data) / CIFAR_ARCHIVE
    if not archive.is_file():
        raise ValueError(f"{archive}: is not there: give the folder that holds {CIFAR_ARCHIVE}")
    place = {number: i for i, number in enumerate(numbers)}
    found: dict[tuple[int, str], np.ndarray] = {}
    with tarfile.open(archive, "r|xz") as members:
        for member in members:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) != 3 or parts[0] != split:
                continue
            at = place.get(int(Path(parts[2]).stem))
            file = members.extractfile(member) if at is not None else None
            if at is not None and file is not None:
                found[at, parts[1]] = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
    if len(found) != len(place) * CLASSES:
        raise ValueError(f"{archive}: holds {len(found)} of the {len(place) * CLASSES} images of {split!r}")
    labels = np.tile(np.arange(CLASSES, dtype=np.int32), len(place))
    return np.stack([image for _, image in sorted(found.items(), key=lambda entry: entry[0])]), labels


def train(key: PRNGKeyArray, model: nn.Module, part: Labelled, settings: Training) -> dict[str, Any]:
    """Flax variables after the training; the last, incomplete batch of an epoch is left out."""
    k_init, k_epochs = jax.random.split(key)
    steps = len(part.labels) // settings.batch * settings.epochs
    rate = optax.warmup_cosine_decay_schedule(0.0, settings.rate, steps // 5, steps)
    optimiser = optax.adamw(rate, weight_decay=settings.decay)
    variables = dict(jax.jit(model.init)(k_init, jnp.asarray(part.images[:1])))
    state = optimiser.init(variables["params"])

    @jax.jit
    def step(key, variables, state, images, labels):
        if settings.flips:
            mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
            images = jnp.where(mirrored, images[:, :, ::-1], images)
        others = {name: tree for name, tree in variables.items() if name != "params"}

        def loss(params):
            logits, updates = model.apply(
                {"params": params, **others}, images, train=True, mutable=list(others)
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

        gradients, others = jax.grad(loss, has_aux=True)(variables["params"])
        changes, state = optimiser.update(gradients, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], changes), **others}, state

    for k_epoch in jax.random.split(k_epochs, settings.epochs):
        k_order, k_flips = jax.random.split(k_epoch)
        order = np.asarray(jax.random.permutation(k_order, len(part.labels)))
        for i in range(len(order) // settings.batch):
            chosen = order[i * settings.batch : (i + 1) * settings.batch]
            batch = part.images[chosen], part.labels[chosen]
            variables, state = step(jax.random.fold_in(k_flips, i), variables, state, *batch)
    return variables


def cache_folder() -> Path:
    """FRUGALJAX_CACHE, or `frugaljax` in the system's folder for caches."""
    system = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FRUGALJAX_CACHE") or Path(system) / "frugaljax")


def _trained(
    name: str,
    model: nn.Module,
    settings: Training,
    key: PRNGKeyArray,
    trained_on: Callable[[], Labelled],
    parts: tuple[Labelled, Labelled, Labelled],
) -> Trained:
    """From the cache, or trained and put there; a file's name tells model, settings and key."""
    identity = repr((model, settings, np.asarray(jax.random.key_data(key)).tolist()))
    path = cache_folder() / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    if not path.is_file():
        part = trained_on()
        start = time.monotonic()
        variables = train(key, model, part, settings)
        told = {
            "seconds": f"{time.monotonic() - start:.1f}",
            "accuracy": f"{accuracy(model, variables, parts[2]):.4f}",
            "settings": identity,
        }
        tensors = {"/".join(names): np.asarray(x) for names, x in flatten_dict(variables).items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        save_file(tensors, unfinished, metadata=told)
        unfinished.replace(path)
    with safe_open(path, "numpy") as file:
        told = file.metadata()
    variables = unflatten_dict({tuple(names.split("/")): x for names, x in load_file(path).items()})
    network = nemo.Network(name, model.apply, variables, weights_source=f"trained here ({path.stem})")
    return Trained(network, *parts, float(told["accuracy"]), float(told["seconds"]))


def accuracy(model: nn.Module, variables: dict[str, Any], part: Labelled) -> float:
    """Top-1, in full precision."""
    logits = jax.jit(model.apply)
    blocks = [logits(variables, part.images[i : i + 500]).argmax(1) for i in range(0, len(part.labels), 500)]
    return float(np.mean(np.concatenate(blocks) == part.labels))


def _evenly(labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """An order in which the first members of all classes come first, then the second ones, and so on."""
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        own = labels == label
        rank[own] = np.arange(own.sum())
    return np.lexsort((labels, rank))


def _conv(channels: int, kernel: int, stride: int, name: str) -> nn.Conv:
    return nn.Conv(channels, (kernel, kernel), stride, use_bias=False, name=name)


def _norm(train: bool, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)
