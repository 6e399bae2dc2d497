"""Greedy-DP: nodes taken for independent and decided one at a time (a baseline of Khadka et al. 2021).

They say no more of it than that; start, order and ties are ours. It starts from the compiler's `first_fit`.
A visit to a node measures all L · L pairs of levels of its weights and output, all else as it is, and keeps
the best. Pairs that the node's tensors cannot take are measured too: one pass is L² N evaluations.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

import hwmodel as hw

from ..environment import Environment
from ..reward import RewardConfig
from .course import RECTIFIED, Course, Trials, course_of, generations, trial


def greedy_dp(key: jax.Array, env: Environment, budget: int, *, reward: RewardConfig = RECTIFIED) -> Course:
    """Passes over the real nodes in execution order until the budget is spent; the last visit is cut.

    What is kept is the map as asked for, not as rectified: else a visit would change other nodes. The pair
    of lower levels wins ties, so that nothing asks for room that saves no time. A node all of whose
    measurements fail stays as it is.

    Args:
        budget: evaluations, static.

    Raises:
        ValueError: a budget below 1.
    """
    n, _, levels = env.allowed.shape
    level = jnp.arange(levels, dtype=jnp.int32)
    pairs = jnp.stack([jnp.repeat(level, levels), jnp.tile(level, levels)], axis=1)
    visits = jnp.arange(generations(budget, 0, len(pairs)), dtype=jnp.int32)
    real = jnp.argsort(~env.problem.mask, stable=True)
    nodes = jnp.sum(env.problem.mask, dtype=jnp.int32)

    def visit(at: Int[Array, "N 2"], step: Int[Array, ""]) -> tuple[Array, Trials]:
        node = real[step % nodes]
        maps = jnp.broadcast_to(at[None], (len(pairs), n, 2)).at[:, node].set(pairs)
        found = trial(jax.random.fold_in(key, step), env, maps, reward)
        best = jnp.argmin(found.cost)
        return jnp.where(jnp.isfinite(found.cost[best]), maps[best], at), found

    # hwmodel.first_fit, which is a function of the host.
    wish = jnp.where(env.problem.mask[:, None], levels - 1, 0) * jnp.ones((1, 2), jnp.int32)
    first = hw.rectify(env.problem, wish).placement
    _, trials = jax.lax.scan(visit, first, visits)
    return course_of(env, [trials], budget)
