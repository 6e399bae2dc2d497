"""Placements from scores: tensors take their places in the order of how much they want to leave level 0.

A placement as `rectify` leaves it gives room by execution order, whatever is lost by it. Here each tensor t
has a score for each level, and the placement is made greedily::

    order      by margin_t = max_k score_tk - score_t0, largest first; ties: the earlier tensor
    level of t the best-scored level that has room for t through all of its life, level 0 at worst

What comes out fits always, so that nothing is left to rectify: sizes and lifetimes are known before anything
runs. With a tensor's seconds saved per byte and step as scores this is the `density` rule; with random keys
it is the decoder of Bean (1994) for packing problems [ours as a way to act].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .problem import Problem

_ENDLESS = jnp.iinfo(jnp.int32).max


def assign(problem: Problem, scores: Float[Array, "*M N 2 L"]) -> Int[Array, "*M N 2"]:
    """Feasible placements of scores of weights and outputs, of one or of a batch; differentiable nowhere.

    Args:
        scores: larger is wanted more; -inf forbids a level. Pinned tensors lie where they are pinned; tensors
            without bytes lie on level 0.

    Raises:
        ValueError: scores of another shape.
    """
    n, _, levels = problem.shape
    if scores.ndim not in (3, 4) or scores.shape[-3:] != (n, 2, levels):
        raise ValueError(f"scores must have shape {(n, 2, levels)} or (M, ...), got {scores.shape}")
    steps = jnp.arange(n)
    birth = jnp.stack([jnp.zeros_like(steps), steps], axis=1).reshape(-1)
    death = jnp.stack([jnp.full_like(steps, n - 1), problem.death.astype(steps.dtype)], axis=1).reshape(-1)
    alive = (steps[None] >= birth[:, None]) & (steps[None] <= death[:, None])  # (2 N, steps)
    units = jnp.stack([problem.weight_units, problem.output_units], axis=1).reshape(2 * n, levels)
    some = jnp.stack([problem.weight_bytes, problem.output_bytes], axis=1).reshape(-1) > 0
    room = problem.capacity_units.T.at[0].set(_ENDLESS)
    pin = problem.pin.reshape(-1)
    level = jnp.arange(levels)

    def one(score: Float[Array, "T L"]) -> Int[Array, " T"]:
        margin = jnp.max(score, axis=1) - score[:, 0]
        order = jnp.argsort(-margin, stable=True)

        def place(free: Int[Array, "L N"], tensor: Array) -> tuple[Array, Array]:
            need, life = units[tensor], alive[tensor][None]
            fits = jnp.all((free >= need[:, None]) | ~life, axis=1) | (level == 0)
            wanted = jnp.argmax(jnp.where(fits, score[tensor], -jnp.inf)).astype(jnp.int32)
            taken = jnp.where((level == wanted) & (level > 0), need, 0)
            return free - taken[:, None] * life.astype(free.dtype), wanted

        _, chosen = jax.lax.scan(place, room, order)
        found = jnp.zeros(len(score), jnp.int32).at[order].set(chosen)
        return jnp.where(pin >= 0, pin, jnp.where(some, found, 0))

    flat = scores.reshape(*scores.shape[:-3], 2 * n, levels)
    placed = one(flat) if flat.ndim == 2 else jax.vmap(one)(flat)
    return placed.reshape(*scores.shape[:-1]).astype(jnp.int32)
