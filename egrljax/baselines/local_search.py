"""Hill climbing over single tensors, with kicks out of local optima (iterated local search).

Weak where memories are full: a tensor gets in only if another leaves first, and no single flip does both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import hwmodel as hw

from ..decisions import draw
from ..environment import Environment
from ..reward import RewardConfig
from .course import RECTIFIED, Course, Trials, course_of, generations, trial


class _At(NamedTuple):
    placement: Int[Array, "N 2"]
    cost: Float[Array, ""]  # +inf: not measured, any flip of it is better
    turn: Int[Array, ""]  # of the next flip
    stale: Int[Array, ""]  # flips measured since the last step
    best: Int[Array, "N 2"]
    best_cost: Float[Array, ""]


def local_search(
    key: jax.Array,
    env: Environment,
    budget: int,
    start: Int[Array, "N 2"] | None = None,
    *,
    block: int = 16,
    kicks: float = 3.0,
    reward: RewardConfig = RECTIFIED,
) -> Course:
    """Flips of one tensor to another allowed level, in a random order that is drawn once, a block at a time.

    The best flip of a block is taken if it is better than where the search stands: between first
    improvement, which measures one by one, and best improvement, which measures all F flips before each step
    and would take two or three in 4000 evaluations of a large network. After F flips in vain the search goes
    on from the best placement with some tensors drawn anew; that placement itself is not measured, the best
    of the next block is taken.

    All evaluations are of allowed flips. With fewer than `block` of them a block has repeats, which count.

    Args:
        budget: evaluations, static; the first is of the start.
        start: placement; None: by the rule `hwmodel.density`, but ties may fall otherwise in float32.
        block: flips measured at once, static.
        kicks: tensors drawn anew at a local optimum, expected.

    Raises:
        ValueError: a budget or block below 1, negative kicks.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    if not kicks >= 0:
        raise ValueError(f"kicks must be at least 0, got {kicks}")
    rounds = generations(budget, 1, block)
    n, _, levels = env.allowed.shape
    k_order, k_first, k_rounds = jax.random.split(key, 3)
    allowed = env.allowed.reshape(2 * n, levels)
    choices = jnp.sum(allowed, axis=1, dtype=jnp.int32)
    listed = jnp.argsort(~allowed, axis=1, stable=True)  # levels allowed first, in their order
    shift = jnp.arange(1, levels, dtype=jnp.int32)
    can = (shift[None] < choices[:, None]).reshape(-1)  # (2 N (L-1),): decision, how far to go on in its list
    flips = jnp.sum(can, dtype=jnp.int32)
    order = jnp.argsort(jnp.where(can, jax.random.uniform(k_order, can.shape), jnp.inf))

    def flipped(placement: Int[Array, "N 2"], turn: Int[Array, ""]) -> Int[Array, "B N 2"]:
        each = order[(turn + jnp.arange(block, dtype=jnp.int32)) % flips].astype(jnp.int32)
        decision, further = each // (levels - 1), each % (levels - 1) + 1
        flat = placement.reshape(-1)
        below = jnp.arange(levels, dtype=jnp.int32)[None] < flat[decision][:, None]
        rank = jnp.sum(allowed[decision] & below, axis=1, dtype=jnp.int32)
        target = listed[decision, (rank + further) % choices[decision]].astype(flat.dtype)
        maps = jnp.broadcast_to(flat[None], (block, 2 * n)).at[jnp.arange(block), decision].set(target)
        return maps.reshape(block, n, 2)

    def step(at: _At, key: Array) -> tuple[_At, Trials]:
        k_measure, k_hit, k_level = jax.random.split(key, 3)
        found = trial(k_measure, env, flipped(at.placement, at.turn), reward)
        at = _moved(at, found, (at.turn + block) % flips)
        share = kicks / env.decisions.astype(jnp.float32)
        hit = jax.random.uniform(k_hit, at.best.shape) < share
        kicked = jnp.where(hit, draw(k_level, jnp.zeros(env.allowed.shape), env.allowed), at.best)
        stuck = at.stale >= flips
        return at._replace(
            placement=jnp.where(stuck, kicked, at.placement),
            cost=jnp.where(stuck, jnp.inf, at.cost),
            stale=jnp.where(stuck, 0, at.stale),
        ), found

    # The rule itself is a function of the host.
    rule = hw.assign(env.problem, hw.saved_density(env.problem)) if start is None else start
    place = rule.astype(jnp.int32)
    first = trial(k_first, env, place[None], reward)
    place, cost, none = first.placement[0].astype(jnp.int32), first.cost[0], jnp.zeros((), jnp.int32)
    start_at = _At(place, cost, none, none, place, cost)
    _, rest = jax.lax.scan(step, start_at, jax.random.split(k_rounds, rounds))
    return course_of(env, [first, rest], budget)


def _moved(at: _At, found: Trials, turn: Int[Array, ""]) -> _At:
    """To the best flip, as rectified, if it is better."""
    winner = jnp.argmin(found.cost)
    cost, placement = found.cost[winner], found.placement[winner].astype(jnp.int32)
    better, record = cost < at.cost, cost < at.best_cost
    return _At(
        jnp.where(better, placement, at.placement),
        jnp.where(better, cost, at.cost),
        turn,
        jnp.where(better, 0, at.stale + len(found.cost)),
        jnp.where(record, placement, at.best),
        jnp.where(record, cost, at.best_cost),
    )
