"""Placements: what the compiler makes of them, and how long they take."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .memory import chunk_within
from .operation_latency import SCHEDULES
from .problem import Problem
from .tensors import OUTPUT, WEIGHT
from .walk import LOW, Walked, walk

Levels = Int[Array, "*M N 2"] | Int[np.ndarray, "*M N 2"]


class Rectified(NamedTuple):
    """Leading axis M where placements came as a batch."""

    placement: Int[Array, "*M N 2"]
    moved: Float[Array, "*M"]  # bytes of re-assigned tensors / bytes of all tensors
    valid: Bool[Array, "*M"]  # nothing had to be re-assigned


class Evaluation(NamedTuple):
    """Leading axis M where placements came as a batch."""

    latency_s: Float[Array, "*M"]  # of the rectified placement
    moved: Float[Array, "*M"]
    valid: Bool[Array, "*M"]
    placement: Int[Array, "*M N 2"]


def latency(
    problem: Problem, placement: Levels, schedule: str = "sequential", *, chunk: int | None = None
) -> Float[Array, "*M"]:
    """Seconds of one inference, whether or not the tensors fit (`evaluate` sees to that).

    Args:
        placement: levels of weights and outputs, of one placement or of a batch.
        schedule: "sequential" runs operations one after the other; "critical_path" starts each as soon as
            its inputs are there, as if compute and memories were unlimited in number.
        chunk: placements walked together; None: as many as `memory_budget` has room for. It changes no
            result.
    """
    walked, batch = _walk(problem, placement, False, schedule, chunk)
    return walked.latency_s if batch else walked.latency_s[0]


def rectify(problem: Problem, placement: Levels) -> Rectified:
    """What a deterministic compiler makes of a placement: tensors without room go to slower levels.

    Weights first in execution order, then outputs by birth; each gets the first of k, k-1, ..., 0 with room,
    k being the level asked for. Feasible, idempotent, and the identity on feasible placements. A pinned
    tensor stays where it is pinned, whatever the placement asks for.
    """
    found: Evaluation = evaluate(problem, placement)
    return Rectified(found.placement, found.moved, found.valid)


def evaluate(
    problem: Problem, placement: Levels, schedule: str = "sequential", *, chunk: int | None = None
) -> Evaluation:
    """`rectify`, and the latency of what comes out; thousands of placements in a call.

    Args:
        schedule, chunk: as of `latency`.
    """
    walked, batch = _walk(problem, placement, True, schedule, chunk)
    real = walked.latency_s.dtype
    moved_bytes = walked.moved_high.astype(real) * 2**LOW + walked.moved_low.astype(real)
    all_bytes = jnp.sum(problem.weight_bytes.astype(real) + problem.output_bytes.astype(real))
    found = Evaluation(
        latency_s=walked.latency_s,
        moved=moved_bytes / all_bytes,
        valid=(walked.moved_high == 0) & (walked.moved_low == 0),
        placement=jnp.stack([walked.weight.T, walked.output.T], axis=-1).astype(jnp.int32),
    )
    return found if batch else jax.tree.map(lambda x: x[0], found)


def evaluation_bytes(problem: Problem, count: int, chunk: int | None = None) -> int:
    """Bytes that `evaluate` needs for `count` placements (M, N, 2), beside these: an estimate.

    Each result is N int32 pairs, a latency and what was moved. Each placement under way has N int8 pairs and
    a half of them again, the levels of the outputs alive, and what is in use on each level::

        M (8 N + 9)  +  chunk (3 N + S + 4 (L - 1) + 12)  +  2 N M where M is above the chunk

    benchmarks/peak_memory.py compares it with what a process really holds.
    """
    n = problem.shape[0]
    chunk = min(chunk or count, count)
    split = 2 * n * count if chunk < count else 0
    return count * (8 * n + 9) + chunk * _bytes_under_way(problem) + split


def _bytes_under_way(problem: Problem) -> int:
    n, _, levels = problem.shape
    return 3 * n + problem.slots.shape[0] + 4 * (levels - 1) + 12


def _walk(
    problem: Problem, levels: Levels, rectify: bool, schedule: str, chunk: int | None
) -> tuple[Walked, bool]:
    """The walk over (M, N, 2) or (N, 2) levels, and whether they were a batch."""
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    weight, output, batch = as_levels(problem, levels)
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {schedule!r}")
    count = weight.shape[1]
    walk_them = partial(walk, problem, rectify=rectify, schedule=schedule)
    if chunk is None:  # it bounds what is under way: results are there whatever it is
        chunk = chunk_within(count, lambda size: size * _bytes_under_way(problem))
    if chunk >= count:
        return walk_them(weight, output), batch
    blocks = -(-count // chunk)

    def in_blocks(levels: Int[Array, "N M"]) -> Int[Array, "B N chunk"]:
        """The last block repeats the last placement."""
        padded = jnp.pad(levels, ((0, 0), (0, blocks * chunk - count)), mode="edge")
        return jnp.moveaxis(padded.reshape(len(levels), blocks, chunk), 1, 0)

    def whole(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1)[..., :count]

    walked = jax.lax.map(lambda pair: walk_them(*pair), (in_blocks(weight), in_blocks(output)))
    return jax.tree.map(whole, walked), batch


def as_levels(problem: Problem, levels: Levels) -> tuple[Int[Array, "N M"], Int[Array, "N M"], bool]:
    """Levels of weights and of outputs, pinned tensors where they are pinned; whether it was a batch.

    Levels out of range are refused in a NumPy array and clipped in a JAX array, which may be traced.
    """
    n, _, count = problem.shape
    placement = jnp.asarray(levels)
    if placement.ndim not in (2, 3) or placement.shape[-2:] != (n, 2) or placement.dtype.kind not in "iu":
        raise ValueError(
            f"placement must be whole numbers of shape ({n}, 2) or (M, {n}, 2), levels of weights and "
            f"outputs, got {placement.dtype} of shape {placement.shape}"
        )
    if isinstance(levels, np.ndarray) and levels.size and not 0 <= levels.min() <= levels.max() < count:
        raise ValueError(f"placement must lie in [0, {count - 1}], got {levels.min()} to {levels.max()}")
    batch = placement.ndim == 3
    levels_first = jnp.moveaxis(placement if batch else placement[None], 0, -1)
    wish = jnp.clip(levels_first, 0, count - 1).astype(jnp.int8)
    pin = problem.pin[:, :, None].astype(jnp.int8)
    wish = jnp.where(pin >= 0, pin, wish)
    return wish[:, WEIGHT], wish[:, OUTPUT], batch
