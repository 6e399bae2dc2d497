"""Placements: what the compiler makes of them, and how long they take."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

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


def latency(problem: Problem, placement: Levels, schedule: str = "sequential") -> Float[Array, "*M"]:
    """Seconds of one inference, whether or not the tensors fit (`evaluate` sees to that).

    Args:
        placement: levels of weights and outputs, of one placement or of a batch.
        schedule: "sequential" runs operations one after the other; "critical_path" starts each as soon as
            its inputs are there, as if compute and memories were unlimited in number.
    """
    walked, batch = _walk(problem, placement, False, schedule)
    return walked.latency_s if batch else walked.latency_s[0]


def rectify(problem: Problem, placement: Levels) -> Rectified:
    """What a deterministic compiler makes of a placement: tensors without room go to slower levels.

    Weights first in execution order, then outputs by birth; each gets the first of k, k-1, ..., 0 with room,
    k being the level asked for. Feasible, idempotent, and the identity on feasible placements. A pinned
    tensor stays where it is pinned, whatever the placement asks for.
    """
    found: Evaluation = evaluate(problem, placement)
    return Rectified(found.placement, found.moved, found.valid)


def evaluate(problem: Problem, placement: Levels, schedule: str = "sequential") -> Evaluation:
    """`rectify`, and the latency of what comes out; thousands of placements in a call."""
    walked, batch = _walk(problem, placement, True, schedule)
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


def _walk(problem: Problem, levels: Levels, rectify: bool, schedule: str) -> tuple[Walked, bool]:
    """The walk over (M, N, 2) or (N, 2) levels, and whether they were a batch."""
    weight, output, batch = as_levels(problem, levels)
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {schedule!r}")
    return walk(problem, weight, output, rectify=rectify, schedule=schedule), batch


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
