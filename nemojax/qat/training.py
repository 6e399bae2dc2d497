"""Quantization-aware training at frozen bit-widths.

The folded weights, biases and other parameters of a traced network are trained through its quantizers with
the straight-through estimate (Bengio et al. 2013), and so are, if asked, the quantizers' ranges (see
ranges.py). Batch norms are folded and their statistics frozen. What is trained runs through
`QuantizedNetwork.quantized_logits`, so the network that comes back is, at the same bits, exactly the one that
was trained. NEMO's patent (US20220092391A1) trains members of the front so; it does not say how.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from egrljax import load_state, save_state

from ..batches import Inputs, check_finite, count, fitting, take
from ..chosen import chosen_bits
from ..fingerprint import digest_of
from ..lowered import lowered
from ..quantized import QuantizedNetwork, check_quantized
from .config import QATConfig
from .ranges import Trainable, with_trained
from .ties import Tie, ties

Augment = Callable[[Any, Inputs], Inputs]  # key, inputs -> inputs, a pure function


@struct.dataclass
class QATState:
    """Everything that changes."""

    trainable: Trainable
    optimizer: Any
    step: Array  # () int32
    loss: Array  # () float32, of the last step


def qat(
    key: PRNGKeyArray,
    network: QuantizedNetwork,
    bits: Any,
    inputs: Inputs,
    labels: Any = None,
    config: QATConfig | None = None,
    *,
    augment: Augment | None = None,
    on_chunk: Callable[[QATState], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> QuantizedNetwork:
    """The network trained at `bits`: `quantized_logits(bits, x)` of it is what was trained.

    Args:
        key: decides the batches and the augmentation.
        bits: a `Configuration`, a mapping of point to bit-width, or (n,) of them, 2-16 or 32; they do not
            change.
        inputs: N samples to train on, disjoint from those of search and report.
        labels: (N,) classes; None: the full-precision network alone is the teacher (`distill` must be 1).
        augment: of a batch, say a flip; both teacher and pupil see its result.
        on_chunk: called with the state after every `config.chunk` steps: progress, logs, time limits (raise).
        checkpoint: file written after every chunk; if it exists, the run goes on from there, bit for bit.

    Raises:
        ValueError: bits or inputs of another network, inputs with NaN or infinity, labels that do not fit,
            training that diverged, or a checkpoint of another run.
    """
    config = config or QATConfig()
    check_quantized(network)
    bits = jnp.asarray(chosen_bits(network, bits))
    inputs = fitting(inputs, network.traced.sample)
    check_finite(inputs)
    labels = _checked_labels(network, labels, inputs, config)
    shared = ties(network)
    state = init(network, bits, config)
    settings = {
        "config": asdict(config),
        "bits": np.asarray(bits).tolist(),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "data": digest_of([*jax.tree.leaves(inputs), labels]),
        "network": digest_of(jax.tree.leaves(network)),
        "augment": getattr(augment, "__qualname__", repr(augment)),
    }
    if checkpoint is not None and Path(checkpoint).exists():
        state = load_state(checkpoint, state, settings)
    while (done := int(state.step)) < config.steps:
        steps = min(config.chunk, config.steps - done)
        state = _run(key, network, bits, inputs, labels, state, config, augment, shared, steps)
        if not np.isfinite(float(state.loss)):
            raise ValueError(f"training diverged before step {int(state.step)}: lower learning_rate")
        if checkpoint is not None:
            save_state(checkpoint, state, settings)
        if on_chunk is not None:
            on_chunk(state)
    return with_trained(network, bits, state.trainable, shared)


def init(network: QuantizedNetwork, bits: Int[Array, " n"], config: QATConfig) -> QATState:
    """The state before the first step: the network's own weights and ranges."""
    ranges = network.ranges.weights
    zeros = {name: jnp.zeros(low.shape[1:]) for name, (low, _) in ranges.items()}
    zeros[""] = jnp.zeros(len(bits))
    start = Trainable(network.folded, zeros, jax.tree.map(jnp.zeros_like, zeros))
    return QATState(
        start, _optimizer(config).init(start), jnp.asarray(0, jnp.int32), jnp.asarray(0.0, jnp.float32)
    )


def _optimizer(config: QATConfig) -> optax.GradientTransformation:
    def adam(rate: float) -> optax.GradientTransformation:
        warmup = round(config.warmup * config.steps)
        schedule = optax.warmup_cosine_decay_schedule(
            0.0 if warmup else rate, rate, warmup, max(config.steps, warmup + 1)
        )
        return optax.flatten(optax.adam(schedule))

    ranges = adam(config.range_rate) if config.learn_ranges else optax.set_to_zero()
    groups = {"weights": adam(config.learning_rate), "ranges": ranges}
    return optax.multi_transform(groups, Trainable("weights", "ranges", "ranges"))  # type: ignore[arg-type]


def _loss(
    trained: Trainable,
    network: QuantizedNetwork,
    bits: Array,
    inputs: Inputs,
    labels: Array | None,
    config: QATConfig,
    shared: tuple[Tie, ...],
) -> Float[Array, ""]:
    log_p = jax.nn.log_softmax(_pupil(network, bits, count(inputs), shared)(trained, inputs))
    loss = jnp.asarray(0.0)
    if config.distill > 0:
        log_q = jax.lax.stop_gradient(jax.nn.log_softmax(network.logits(inputs)))
        loss += config.distill * jnp.mean(jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1))
    if config.distill < 1 and labels is not None:
        loss += (1 - config.distill) * -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))
    return loss


def _pupil(
    network: QuantizedNetwork, bits: Array, batch: int, shared: tuple[Tie, ...]
) -> Callable[[Trainable, Inputs], Float[Array, "N ..."]]:
    """`quantized_logits` as a function of what is trained; on a CPU with gradients that are quick there.

    For those, `lowered` takes the place of the interpreter's own lowering, whose numbers it has.
    """
    plain = network.replace(traced=replace(network.traced, lowering="xla"))  # type: ignore[attr-defined]

    def logits(trained: Trainable, inputs: Inputs) -> Float[Array, "N ..."]:
        pupil = with_trained(plain, bits, trained, shared)
        return pupil.quantized_logits(bits, inputs, chunk=batch, straight_through=True)

    return lowered(logits, network.traced.lowering)


def _step(
    key: PRNGKeyArray,
    network: QuantizedNetwork,
    bits: Array,
    inputs: Inputs,
    labels: Array | None,
    state: QATState,
    config: QATConfig,
    augment: Augment | None,
    shared: tuple[Tie, ...],
) -> QATState:
    """One batch; its samples follow from the key and the number of the step alone."""
    total = count(inputs)
    batch = min(config.batch, total)
    per_epoch = total // batch
    k_order = jax.random.fold_in(jax.random.fold_in(key, 0), state.step // per_epoch)
    order = jax.random.permutation(k_order, total)
    rows = jax.lax.dynamic_slice(order, (state.step % per_epoch * batch,), (batch,))
    chosen = take(inputs, rows)
    if augment is not None:
        chosen = augment(jax.random.fold_in(jax.random.fold_in(key, 1), state.step), chosen)
    wanted = None if labels is None else labels[rows]
    loss, gradient = jax.value_and_grad(_loss)(state.trainable, network, bits, chosen, wanted, config, shared)
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules multiply counts by rates
        updates, optimizer = _optimizer(config).update(gradient, state.optimizer, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    return QATState(trainable, optimizer, state.step + 1, loss)


def _scan_steps(
    key: PRNGKeyArray,
    network: QuantizedNetwork,
    bits: Array,
    inputs: Inputs,
    labels: Array | None,
    state: QATState,
    config: QATConfig,
    augment: Augment | None,
    shared: tuple[Tie, ...],
    steps: int,
) -> QATState:
    def body(state: QATState, _: None) -> tuple[QATState, None]:
        return _step(key, network, bits, inputs, labels, state, config, augment, shared), None

    return jax.lax.scan(body, state, None, length=steps)[0]


_run = jax.jit(_scan_steps, static_argnums=(6, 7, 8, 9))


def _checked_labels(
    network: QuantizedNetwork, labels: Any, inputs: Inputs, config: QATConfig
) -> Array | None:
    if labels is None:
        if config.distill < 1:
            raise ValueError(f"distill is {config.distill}, so labels are needed: give them, or distill=1")
        return None
    labels, total = np.asarray(labels), count(inputs)
    if labels.shape != (total,):
        raise ValueError(f"labels has shape {labels.shape} for {total} inputs: give one class index each")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype}: give whole numbers, the classes' indices")
    classes = jax.eval_shape(network.logits, take(inputs, slice(1))).shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be in 0-{classes - 1}, got {labels.min()} to {labels.max()}")
    return jnp.asarray(labels, jnp.int32)
