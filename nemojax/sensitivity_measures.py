"""Filling a sensitivity table: by noise, by noise and gradient, or by the task's own error.

sqnr    E n² / E x² of the tensor x at the point, n = Q_b(x) - x its quantization error. Sees nothing of what
        the rest of the network makes of the error.
fisher  ½·Σ_j E g_j²·n_j², g the gradient of log p(y | image) at the point with y drawn from the network's own
        prediction (cf. FIT, Zandonati et al. 2022; HAWQ-V2, Dong et al. 2020, has the loss's Hessian). n
        is the error itself, not a model of it such as Δ²/12. To second order
        and for errors that are independent of each other it is the KL divergence, in nats, from the
        full-precision network: there KL has no gradient, and its Hessian is the Fisher information E g gᵀ.
error   the task's error with this quantizer alone at b bits and all others at their highest, less that with
        all at their highest: one evaluation an entry.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hwmodel import Operation

from .batches import Inputs, chunks, count, fitting, take
from .evaluator import Evaluator
from .interpreter import execute
from .quantized import QuantizedNetwork
from .quantizers import fake_quantize
from .sensitivity import Sensitivity
from .space import PAPER_BITS, BitSpace
from .task import Task

SAMPLES, LABELS = 16, 4  # of the measures without evaluations


def measure_sensitivity(
    key: PRNGKeyArray,
    task: Task,
    measure: str = "fisher",
    *,
    samples: int = SAMPLES,
    evaluate: Evaluator | None = None,
) -> Sensitivity:
    """The sensitivity of a task's quantizers at its space's bit-widths.

    Args:
        key: for the labels that "fisher" draws.
        measure: "sqnr" or "fisher", from the first `samples` of the task and without an evaluation, or the
            name of the task's error ("kl", say), with one evaluation an entry.
        evaluate: counts and keeps those evaluations; default: one of its own.
    """
    if measure == "sqnr":
        return sqnr_sensitivity(task.network, take(task.inputs, slice(samples)), task.space.widths)
    if measure == "fisher":
        return fisher_sensitivity(key, task.network, take(task.inputs, slice(samples)), task.space.widths)
    if measure == task.score.name:
        return error_sensitivity(evaluate or Evaluator(task))
    raise ValueError(f"measure must be 'sqnr', 'fisher' or {task.score.name!r}, got {measure!r}")


def sqnr_sensitivity(
    network: QuantizedNetwork, inputs: Inputs, widths: Sequence[int] = PAPER_BITS
) -> Sensitivity:
    """Noise over signal, 1/SQNR, of every point at every bit-width: no evaluation of the task.

    Args:
        inputs: as the network takes them; a few samples (16, say) will do.
        widths: B bit-widths in 2-16, ascending.
    """
    start = time.monotonic()
    inputs, total = fitting(inputs, network.traced.sample), _Noise(network, widths)
    for _, sample in chunks(inputs, 1):
        for i, x in _activations(network, sample).items():
            total.add(i, x, 1.0)
    for op in _weighted(network):
        total.add(op.weight_point, network.folded.kernels[op.name], 1.0, op, times=count(inputs))
    signal = np.where(total.signal > 0, total.signal, 1.0)  # an all-zero tensor has no noise either
    return total.table(total.noise / signal[:, None], "sqnr", start)


def fisher_sensitivity(
    key: PRNGKeyArray,
    network: QuantizedNetwork,
    inputs: Inputs,
    widths: Sequence[int] = PAPER_BITS,
    *,
    labels: int = LABELS,
) -> Sensitivity:
    """Estimate of the KL (nat) that every point adds at every bit-width: no evaluation of the task.

    Args:
        inputs: as the network takes them; a few samples (16, say) will do.
        widths: B bit-widths in 2-16, ascending.
        labels: drawn per sample; one pass back each.
    """
    if labels < 1:
        raise ValueError(f"labels must be at least 1, got {labels}")
    start = time.monotonic()
    inputs, total = fitting(inputs, network.traced.sample), _Noise(network, widths)
    information: dict[str, Any] = {op.name: np.float32(0) for op in _weighted(network)}
    for rows, sample in chunks(inputs, 1):  # one at a time: a kernel's gradient is then one sample's own
        k_sample = jax.random.fold_in(key, rows.start)
        seen, at_points, at_kernels = _information(k_sample, network, sample, labels)
        information = {name: sums + np.asarray(at_kernels[name]) for name, sums in information.items()}
        for i, x in seen.items():
            total.add(i, x, at_points[i])
    for op in _weighted(network):
        total.add(op.weight_point, network.folded.kernels[op.name], information[op.name], op)
    return total.table(total.noise / (2 * count(inputs)), "fisher", start)


def error_sensitivity(evaluate: Evaluator, widths: Sequence[int] | None = None) -> Sensitivity:
    """What the task's error gains, one quantizer (or tied group) at a time, all others at their highest.

    Args:
        evaluate: counts the evaluations, one an entry and one for the start; those it knows are free. Under
            hardware pairs another one is used, because a quantizer lowered alone would be no legal pair.
        widths: bit-widths to evaluate at; the others are interpolated, log-linearly in b, and beyond the
            outermost ones a bit more is a quarter of the error (as of noise power). Default: all.

    A group's error is shared out evenly among its members. A failed evaluation counts as the worst of the
    others. Errors can be negative: an error on few images is a noisy one.
    """
    start = time.monotonic()
    task, space = evaluate.task, evaluate.task.space
    wanted = set(space.widths if widths is None else widths)
    if not wanted <= set(space.widths) or not wanted:
        raise ValueError(f"widths must be some of the space's, {space.widths}, got {widths}")
    if space.pairs:
        free = BitSpace(space.names, space.allowed, space.groups)
        evaluate = evaluate.like(task.replace(space=free))  # type: ignore[attr-defined]
    before = evaluate.evaluations
    highest = space.uniform(space.widths[-1])
    tied = {i for group in space.groups for i in group}
    groups = [list(group) for group in space.groups] + [[i] for i in range(space.size) if i not in tied]
    entries = [(g, b) for g in groups for b in space.allowed[g[0]] if b in wanted and b != highest[g[0]]]
    rows = np.repeat(highest[None], len(entries) + 1, axis=0)
    for row, (group, b) in zip(rows, entries, strict=False):
        row[group] = b
    errors = evaluate(rows)[:, 0].astype(np.float64)
    errors = np.where(np.isfinite(errors), errors, errors[np.isfinite(errors)].max(initial=0.0))
    table = np.full((space.size, len(space.widths)), np.nan)
    for (group, b), error in zip(entries, errors[:-1] - errors[-1], strict=True):
        table[group, space.widths.index(b)] = error / len(group)
    for i, bits in enumerate(space.allowed):
        columns = [space.widths.index(b) for b in bits]
        table[i, columns] = _interpolated(np.array(bits), table[i, columns])
        table[i, space.widths.index(int(highest[i]))] = 0.0
    evaluations, seconds = evaluate.evaluations - before, time.monotonic() - start
    return Sensitivity(space.names, space.widths, table, task.score.name, evaluations, seconds)


def error_entries(space: BitSpace) -> int:
    """Evaluations that `error_sensitivity` takes at all bit-widths."""
    followers = {i for group in space.groups for i in group[1:]}
    return 1 + sum(len(bits) - 1 for i, bits in enumerate(space.allowed) if i not in followers)


def _interpolated(bits: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The NaN filled in from what was measured, which stays as it is."""
    known = ~np.isnan(row)
    positive = known & (row > 0)
    if not positive.any():
        return np.where(known, row, 0.0)
    at, logs = bits[positive], np.log(row[positive])
    beyond = np.minimum(bits - at[0], 0) + np.maximum(bits - at[-1], 0)
    return np.where(known, row, np.exp(np.interp(bits, at, logs) - beyond * np.log(4.0)))


def _weighted(network: QuantizedNetwork) -> list[Operation]:
    """The operations with a quantizer at their weight."""
    return [op for op in network.workload.operations if op.weight_point >= 0]


class _Noise:
    """Sums of weighted n² (points, B), and of x² (points,), over samples and kernels."""

    def __init__(self, network: QuantizedNetwork, widths: Sequence[int]) -> None:
        self._network, self._widths = network, tuple(widths)
        points = len(network.workload.points)
        self.noise, self.signal = np.zeros((points, len(widths))), np.zeros(points)

    def add(self, i: int, x: Array, weight: Any, op: Operation | None = None, times: int = 1) -> None:
        """One tensor of point i; `op` where it is that one's kernel, which has ranges of its own."""
        ranges, config = self._network.ranges, self._network.config
        of_all_bits, symmetric = (ranges.low[i], ranges.high[i]), config.symmetric_activations
        if op is not None:
            of_all_bits, symmetric = ranges.weights[op.name], config.symmetric_weights
        low, high = (np.asarray(end).reshape(len(end), -1)[self._widths, :] for end in of_all_bits)
        channels = low.shape[1]
        axis = op.weight_axis if op is not None and channels > 1 else 0
        rows = [_rows(a, axis, channels) for a in (x, np.broadcast_to(np.float32(weight), x.shape))]
        ends = [np.pad(end, ((0, 0), (0, len(rows[0]) - channels))) for end in (low, high)]
        noise, signal = _weighted_noise(*rows, *ends, np.array(self._widths, np.int32), symmetric)
        self.noise[i] += times * np.asarray(noise, np.float64)
        self.signal[i] += times * float(signal)

    def table(self, table: np.ndarray, measure: str, start: float) -> Sensitivity:
        names = self._network.workload.point_names
        if not np.isfinite(table).all():
            name = names[int(np.argwhere(~np.isfinite(table))[0, 0])]
            raise ValueError(f"{name!r} is not finite on these inputs: check inputs and weights")
        return Sensitivity(names, self._widths, table, measure, 0, time.monotonic() - start)


def _rows(x: Any, axis: int, channels: int) -> Float[np.ndarray, "C R"]:
    """One row a channel, filled up with zeros, which have no noise, so that few shapes are compiled."""
    rows = np.moveaxis(np.asarray(x), axis, 0).reshape(channels, -1)
    return np.pad(rows, [(0, (1 << (size - 1).bit_length()) - size) for size in rows.shape])


@partial(jax.jit, static_argnums=5)
def _weighted_noise(
    x: Array, weight: Array, low: Array, high: Array, bits: Array, symmetric: bool
) -> tuple[Array, Array]:
    """(B,) Σ_j weight_j·(Q_b(x) - x)_j², and Σ_j x_j², of (C, R) with ranges (B, C)."""

    def noise(at: tuple[Array, Array, Array]) -> Array:
        low, high, b = at
        near = fake_quantize(x, low[:, None], high[:, None], b, symmetric=symmetric, straight_through=False)
        return jnp.sum(weight * (near - x) ** 2)

    return jax.lax.map(noise, (low, high, bits)), jnp.sum(x * x)


def _run(
    network: QuantizedNetwork, kernels: dict[str, Array], taps: dict[int, Array], sample: Inputs
) -> tuple[Array, dict[int, Array]]:
    """Logits (1, classes) of a batch of one with `taps` added at its points, and what stood there before."""
    points, seen = network.workload.points, {}

    def look(i: int, x: Array) -> Array:
        if points[i].is_weight:
            return x
        seen[i] = x
        return x + taps[i] if taps else x

    traced, folded = network.traced, network.folded._replace(kernels=kernels)
    leaves = tuple(jax.tree.leaves(sample))
    (logits,) = execute(traced.workload(1), folded, leaves, lowering=traced.lowering, quantize=look)
    return logits, seen


@jax.jit
def _activations(network: QuantizedNetwork, sample: Inputs) -> dict[int, Array]:
    return _run(network, network.folded.kernels, {}, sample)[1]


@partial(jax.jit, static_argnums=3)
def _information(
    key: Array, network: QuantizedNetwork, sample: Inputs, labels: int
) -> tuple[dict[int, Array], dict[int, Array], dict[str, Array]]:
    """The activations of a batch of one, and E g² over drawn labels at each of them and at each kernel."""
    kernels = network.folded.kernels
    taps = {i: jnp.zeros(x.shape) for i, x in jax.eval_shape(_activations, network, sample).items()}
    logits, back, seen = jax.vjp(lambda k, t: _run(network, k, t, sample), kernels, taps, has_aux=True)

    def add(sums: Any, label: Array) -> tuple[Any, None]:
        gradient = jax.nn.one_hot(label, logits.shape[1])[None] - jax.nn.softmax(logits)  # of log p(label)
        squares = jax.tree.map(jnp.square, back(gradient))
        return jax.tree.map(jnp.add, sums, squares), None

    drawn = jax.random.categorical(key, logits[0], shape=(labels,))
    sums, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, (kernels, taps)), drawn)
    at_kernels, at_points = jax.tree.map(lambda s: s / labels, sums)
    return seen, at_points, at_kernels
