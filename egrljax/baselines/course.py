"""What a search did with its budget: its answer, and what it would have answered after each evaluation.

A search chooses by what it measures, noise included; its answer is the placement that measured fastest so
far, as EGRL's is. The score is the exact latency of that answer; looking it up is no evaluation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..environment import Environment, exact_latency, measure
from ..operators import repeats
from ..reward import RewardConfig, reward as reward_of

RECTIFIED = RewardConfig()
SHORTLIST = 20


class Course(NamedTuple):
    """Of T evaluations, on N operations; a pytree."""

    answer: Int[Array, "N 2"]  # placement, as rectified
    answer_s: Float[Array, ""]  # its exact latency, without noise; +inf: every evaluation failed
    exact_s: Float[Array, " T"]  # the same of what would have been the answer after each evaluation
    evaluations: Int[Array, ""]  # T, the budget
    shortlist: Int[Array, "S N 2"]  # the placements that measured fastest, each once, for `settle`; int8


class Trials(NamedTuple):
    """M evaluations, in the order in which they were made."""

    cost: Float[Array, " M"]  # -reward, what searches minimise; +inf: failed
    measured_s: Float[Array, " M"]  # with noise; +inf: failed, or re-assigned where the fitness is strict
    placement: Int[Array, "M N 2"]  # as rectified, int8


def trial(key: jax.Array, env: Environment, maps: Int[Array, "M N 2"], reward: RewardConfig) -> Trials:
    """Measure maps; each is one evaluation. A latency that is not finite or not above 0 is a failure."""
    found = measure(key, env, maps)
    ran = (found.latency_s > 0) & jnp.isfinite(found.latency_s)
    speedup = jnp.where(ran, env.reference_s / found.latency_s, 0)
    cost = -reward_of(speedup, found.moved, reward)
    answers = ran & found.valid if reward.fitness == "strict" else ran
    return Trials(
        cost,
        jnp.where(answers, found.latency_s, jnp.inf),
        found.placement.astype(jnp.int8),
    )


def incumbents(measured_s: Float[Array, " T"]) -> Int[Array, " T"]:
    """Which evaluation is the best so far after each; the first one wins ties, and where all have failed."""
    best = jax.lax.cummin(measured_s)
    before = jnp.concatenate([jnp.full((1,), jnp.inf, best.dtype), best[:-1]])
    index = jnp.arange(len(measured_s), dtype=jnp.int32)
    return jax.lax.cummax(jnp.where(measured_s < before, index, 0))


def course_from(
    measured_s: Float[Array, " T"], exact_s: Float[Array, " T"], placement: Int[Array, "T N 2"]
) -> Course:
    """The course of T evaluations.

    Args:
        measured_s: as the search saw them, with noise; +inf or NaN: failed, and never the answer.
        exact_s: the same without noise.
        placement: as rectified.
    """
    measured_s = jnp.where(jnp.isnan(measured_s), jnp.inf, measured_s)
    index = incumbents(measured_s)
    scores = jnp.where(jnp.isfinite(measured_s[index]), exact_s[index], jnp.inf)
    answer = placement[index[-1]].astype(jnp.int32)
    count = jnp.asarray(len(measured_s), jnp.int32)
    return Course(answer, scores[-1], scores, count, shortlist(measured_s, placement))


def shortlist(
    measured_s: Float[Array, " T"], placement: Int[Array, "T N 2"], size: int = SHORTLIST
) -> Int[Array, "S N 2"]:
    """The placements of the `size` lowest measurements, those that came before among the fastest left out.

    Looked at are five times as many measurements; with fewer placements among them some come twice.
    """
    order = jnp.argsort(measured_s, stable=True)[: 5 * size]
    order = order[jnp.argsort(repeats(placement[order]), stable=True)]
    return placement[order[:size]].astype(jnp.int8)


def settle(
    key: jax.Array, env: Environment, placements: Int[Array, "S N 2"], times: int
) -> Int[Array, "N 2"]:
    """The placement with the lowest mean of `times` measurements each, S · times evaluations.

    A single noisy measurement picks the luckiest of thousands; repeats do not.
    """
    many = jnp.repeat(placements.astype(jnp.int32), times, axis=0)
    means = jnp.mean(measure(key, env, many).latency_s.reshape(-1, times), axis=1)
    return placements[jnp.argmin(means)].astype(jnp.int32)


def course_of(env: Environment, parts: list[Trials], budget: int) -> Course:
    """The course of the first `budget` of some trials, those of generations one after the other.

    What a last generation made beyond the budget is dropped unseen: it is no evaluation, only the price of
    fixed shapes.

    Args:
        parts: fields (M, ...) or, of G generations, (G, M, ...).
    """
    trials = jax.tree.map(lambda *each: jnp.concatenate(each)[:budget], *map(_joined, parts))
    return course_from(trials.measured_s, exact_latency(env, trials.placement), trials.placement)


def _joined(part: Trials) -> Trials:
    one_generation = part.cost.ndim == 1
    return part if one_generation else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), part)


def generations(budget: int, first: int, each: int) -> int:
    """How many generations of `each` evaluations follow on the `first` ones, a cut one among them.

    Raises:
        ValueError: a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"budget must be at least 1, got {budget}")
    return max(0, -(-(budget - first) // each))
