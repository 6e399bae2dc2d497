"""One walk over the operations, for many placements at once: rectification and latency in two scans.

The placements are the last axis of every array and nothing is vmapped: each step is then a handful of plain
vector operations over all placements, about twice as fast on a CPU as vmapping the walk of one placement
(benchmarks/placement_speed.py). Bytes are counted in 32-bit integers throughout.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .operation_latency import FEW, OperationTables, never, operation_seconds, operation_tables
from .problem import Problem

Levels = Int[Array, " M"]  # of one tensor in M placements, int8
LOW = 15  # moved bytes are summed as low and high parts, exact for 2^15 operations


class Walked(NamedTuple):
    """M placements of N operations."""

    weight: Int[Array, "N M"]  # levels, int8
    output: Int[Array, "N M"]
    latency_s: Float[Array, " M"]
    moved_low: Int[Array, " M"]  # bytes that rectification moved: high * 2^15 + low
    moved_high: Int[Array, " M"]


class _Room(NamedTuple):
    """Units in use on each level above the backing store, and what was moved so far."""

    used: tuple[Int[Array, " M"], ...]
    low: Int[Array, " M"]
    high: Int[Array, " M"]


class _Step(NamedTuple):
    """What one step of the second scan reads."""

    wish: Levels
    units: Int[Array, " L"]
    size: Int[Array, ""]
    capacity: Int[Array, " L"]
    weight_of: Int[Array, ""]
    slot: Int[Array, ""]
    death: Int[Array, ""]
    dying_slot: Int[Array, " D"]
    dying_units: Int[Array, "D L"]
    parent_slot: Int[Array, " P"]
    tables: OperationTables


@partial(jax.jit, static_argnames=("rectify", "schedule"))  # else each eager call compiles its scans anew
def walk(
    problem: Problem,
    weight: Int[Array, "N M"],
    output: Int[Array, "N M"],
    *,
    rectify: bool,
    schedule: str = "sequential",
) -> Walked:
    """Levels wished for (int8) -> levels granted, and the time they take.

    A tensor that wishes level k gets the first of k, k-1, ..., 0 with room for it: weights first in
    execution order, then outputs by birth. Outputs that are placed already only leave later on, so room at
    birth is enough; only births of pinned outputs need to be looked at beforehand.
    """
    n, _, levels = problem.shape
    count = weight.shape[1]
    nothing = jnp.zeros((count,), jnp.int32)
    capacity = jnp.min(problem.capacity_units, axis=0)

    def put_weight(room: _Room, step: tuple[Levels, Array, Array]) -> tuple[_Room, Levels]:
        wish, units, size = step
        if not rectify:
            return room, wish
        return _put(room, wish, units, size, _fits(room.used, units, capacity))

    room = _Room((nothing,) * (levels - 1), nothing, nothing)
    room, weight = jax.lax.scan(put_weight, room, (weight, problem.weight_units, problem.weight_bytes))

    ahead = tuple(jnp.broadcast_to(u, (*problem.checks.shape, count)) for u in room.used)
    real = problem.output_write_s.dtype
    slots = jnp.zeros((problem.slots.shape[0], count), weight.dtype)
    finish = jnp.zeros((problem.slots.shape[0], count), real)

    def put_output(carry: tuple, step_and_index: tuple[_Step, Array]) -> tuple[tuple, Levels]:
        (room, ahead, slots, finish, total), (step, now) = carry, step_and_index
        if rectify:
            room = _release(room, slots, step)
            fits = _fits(room.used, step.units, step.capacity)
            alive = (now <= problem.checks) & (problem.checks <= step.death)
            for k, u in enumerate(ahead):
                free = problem.capacity_units[problem.checks, k + 1][:, None] - step.units[k + 1]
                fits[k] &= jnp.all((u <= free) | ~alive[:, None], axis=0)
            room, level = _put(room, step.wish, step.units, step.size, fits)
            ahead = tuple(
                u + jnp.where(alive[:, None] & (level == k + 1)[None], step.units[k + 1], 0)
                for k, u in enumerate(ahead)
            )
        else:
            level = step.wish
        seconds = operation_seconds(
            step.tables, problem, _row(weight, step.weight_of), level, _rows(slots, step.parent_slot)
        )
        if schedule == "critical_path":
            present = step.tables.parent_bytes > 0
            done = seconds + jnp.max(
                _rows(finish, step.parent_slot), axis=0, where=present[:, None], initial=0
            )
            finish = jax.lax.dynamic_update_index_in_dim(finish, done, step.slot, 0)
            total = jnp.maximum(total, done)
        else:
            total = total + seconds
        slots = jax.lax.dynamic_update_index_in_dim(slots, level, step.slot, 0)
        return (room, ahead, slots, finish, total), level

    no_units = jnp.zeros((1, levels), jnp.int32)
    steps = _Step(
        wish=output,
        units=problem.output_units,
        size=problem.output_bytes,
        capacity=problem.capacity_units,
        weight_of=problem.weight_of,
        slot=problem.slot,
        death=problem.death,
        dying_slot=jnp.append(problem.slot, 0)[problem.dying],
        dying_units=jnp.concatenate([problem.output_units, no_units])[problem.dying],
        parent_slot=problem.slot[problem.parent],
        tables=operation_tables(problem),
    )
    start = (room, ahead, slots, finish, jnp.zeros((count,), real))
    (room, _, _, _, total), output = jax.lax.scan(
        put_output, start, (steps, jnp.arange(n, dtype=problem.checks.dtype))
    )
    return Walked(weight, output, total + never(problem), room.low, room.high)


def _fits(used: tuple[Array, ...], units: Int[Array, " L"], capacity: Int[Array, " L"]) -> list[Array]:
    """Whether each level above the backing store has room."""
    return [u <= capacity[k + 1] - units[k + 1] for k, u in enumerate(used)]


def _put(
    room: _Room, wish: Levels, units: Int[Array, " L"], size: Int[Array, ""], fits: list[Array]
) -> tuple[_Room, Levels]:
    """The highest level that fits and is not above the wish."""
    level = jnp.zeros_like(wish)
    for k, fit in enumerate(fits):
        level = jnp.where(fit & (wish > k), jnp.asarray(k + 1, wish.dtype), level)
    used = tuple(u + jnp.where(level == k + 1, units[k + 1], 0) for k, u in enumerate(room.used))
    moved = level != wish
    low = room.low + jnp.where(moved, size & ((1 << LOW) - 1), 0)
    return _Room(used, low, room.high + jnp.where(moved, size >> LOW, 0)), level


def _release(room: _Room, slots: Int[Array, "S M"], step: _Step) -> _Room:
    """Outputs that were read for the last time leave."""
    level = _rows(slots, step.dying_slot)
    used = tuple(
        u - jnp.sum(jnp.where(level == k + 1, step.dying_units[:, k + 1, None], 0), axis=0, dtype=u.dtype)
        for k, u in enumerate(room.used)
    )
    return room._replace(used=used)


def _row(table: Array, index: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(table, index, 0, keepdims=False)


def _rows(table: Array, indices: Array) -> Array:
    """table[indices]; a few rows are copied one by one, which XLA:CPU does far faster than a gather."""
    if indices.shape[0] > FEW:
        return table[indices]
    return jnp.stack([_row(table, index) for index in indices])
