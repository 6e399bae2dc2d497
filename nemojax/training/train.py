"""Training of a network on images in memory, epoch by epoch, with checkpoints between."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from egrljax import load_state, save_state

from ..data.labelled import LabelledArrays
from ..fingerprint import digest_of
from ..lowered import lowered
from ..networks.network import Network
from ..preprocess import Preprocess
from .config import TrainConfig
from .step import TrainState, begin, normalized, run


@dataclass(frozen=True)
class Epoch:
    """What `on_epoch` is told."""

    number: int  # from 1
    loss: float  # mean over the training batches
    validation_error: float | None  # top-1, of the kept weights; None without validation images
    seconds: float


@dataclass(frozen=True)
class Chunk:
    """What `on_chunk` is told."""

    step: int  # steps done
    steps: int  # in all
    per_epoch: int
    loss: float  # mean over the epoch so far
    seconds: float  # of this chunk


OnEpoch = Callable[[Epoch, TrainState], None]
OnChunk = Callable[[Chunk], None]


def train(
    key: PRNGKeyArray,
    network: Network,
    images: LabelledArrays,
    config: TrainConfig | None = None,
    *,
    validation: LabelledArrays | None = None,
    on_epoch: OnEpoch | None = None,
    on_chunk: OnChunk | None = None,
    every: int = 100,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Network:
    """The network with trained weights: the exponential mean of those of the steps.

    Args:
        key: decides order and augmentation; the network's own weights are the start.
        network: a Flax linen module's (`networks.by_name(name, key=...)`), whose `apply` takes `train`.
        images: uint8 images of the size that the network takes, and their classes.
        validation: images that tuning may look at; never those of a report.
        on_epoch, on_chunk: progress, logs, time limits (by raising).
        every: steps of a chunk, which end in a checkpoint and `on_chunk`; the result does not depend on it.
        checkpoint: file written after every chunk; if it exists, the run goes on from there, bit for bit.

    Raises:
        ValueError: images or labels that do not fit, training that diverged, or another run's checkpoint.
    """
    config = config or TrainConfig()
    _check(network, images, config)
    if validation is not None:
        _check_pictures(network, validation.images)
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    steps = len(images.labels) // config.batch * config.epochs
    state = begin(network.params, config, steps)
    settings = {
        "config": asdict(config),
        "network": network.name,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "start": digest_of(jax.tree.leaves(network.params)),
        "images": digest_of([images.images, images.labels]),
    }
    if checkpoint is not None and Path(checkpoint).exists():
        state = load_state(checkpoint, state, settings)
    pixels, labels = jnp.asarray(images.images), jnp.asarray(images.labels)
    per_epoch = len(images.labels) // config.batch
    began = time.monotonic()
    while (before := int(state.step)) < steps:
        start, (number, done) = time.monotonic(), divmod(before, per_epoch)
        count = min(every, per_epoch - done)
        state = run(
            key,
            state,
            pixels,
            labels,
            jnp.asarray(count, jnp.int32),
            network.apply,
            network.preprocess,
            config,
            config.pixels(number),
        )
        loss = float(state.loss) / (done + count)
        if not np.isfinite(loss):
            raise ValueError(
                f"training diverged in epoch {number + 1}: lower learning_rate, {config.learning_rate}"
            )
        if checkpoint is not None:
            save_state(checkpoint, state, settings)
        seconds = time.monotonic() - start
        if done + count == per_epoch and on_epoch is not None:
            error = None
            if validation is not None:
                kept = _with(network, state)
                error = 1 - float(np.mean(predict(kept, validation.images) == validation.labels))
            on_epoch(Epoch(number + 1, loss, error, time.monotonic() - began), state)
            began = time.monotonic()
        if on_chunk is not None:
            on_chunk(Chunk(before + count, steps, per_epoch, loss, seconds))
    return _with(network, state)


def predict(network: Network, images: np.ndarray, batch: int = 500) -> Int[np.ndarray, " N"]:
    """Likeliest classes of uint8 images (N, H, W, 3), `batch` of them at a time.

    Raises:
        ValueError: no image, or pictures of another type, size or number of channels.
    """
    _check_pictures(network, images)
    if not len(images):
        raise ValueError("images are empty: give at least one")
    found = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        padded = np.pad(part, [(0, batch - len(part)), (0, 0), (0, 0), (0, 0)])
        logits = _logits(network.apply, network.preprocess, network.params, jnp.asarray(padded))
        found.append(np.asarray(logits.argmax(1))[: len(part)])
    return np.concatenate(found).astype(np.int32)


@partial(jax.jit, static_argnums=(0, 1))
def _logits(
    apply: Any, preprocess: Preprocess, variables: Any, images: UInt8[Array, "B H W 3"]
) -> Float[Array, "B classes"]:
    return lowered(apply)(variables, normalized(images, preprocess))


def _with(network: Network, state: TrainState) -> Network:
    source = f"trained for {int(state.step)} steps"
    kept = {name: tree for name, tree in state.kept.items() if name in network.params}
    return replace(network, params=kept, weights_source=source)


def _check(network: Network, images: LabelledArrays, config: TrainConfig) -> None:
    if "params" not in network.params:
        raise ValueError(f"{network.name} holds no Flax variables {{'params': ...}}: train a linen module")
    _check_pictures(network, images.images)
    if len(images.labels) < config.batch:
        raise ValueError(f"batch is {config.batch} for {len(images.labels)} images: lower it")
    side = images.images.shape[1:]
    sample = jax.ShapeDtypeStruct((1, *side), jnp.float32)
    classes = jax.eval_shape(network.apply, network.params, sample).shape[1]
    if images.labels.min() < 0 or images.labels.max() >= classes:
        raise ValueError(
            f"labels must be in 0-{classes - 1}, got {images.labels.min()} to {images.labels.max()}"
        )


def _check_pictures(network: Network, images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images are {images.dtype} of shape {images.shape}: give uint8 (N, H, W, 3)")
    height, width = images.shape[1:3]
    if not network.preprocess.resolution == height == width:
        raise ValueError(
            f"images are {height}x{width}, the network takes {network.preprocess.resolution} pixels"
        )
