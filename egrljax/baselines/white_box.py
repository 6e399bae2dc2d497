"""Searches that read the cost model itself, on the host: what a black-box search cannot do.

They measure nothing through the environment and see no noise, so their numbers of evaluations are of another
kind and belong in a column of their own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

import hwmodel as hw

from ..environment import Environment, exact_latency

_GRADIENT = hw.GradientConfig()


class WhiteBox(NamedTuple):
    """An answer."""

    placement: Int[np.ndarray, "N 2"]
    latency_s: float  # exact, by the environment
    evaluations: int  # of the exact model, by the search
    lower_bound_s: float | None = None  # no placement takes less; None: no bound is known


def gradient(key: jax.Array, env: Environment, config: hw.GradientConfig = _GRADIENT) -> WhiteBox:
    """`hwmodel.optimize_placement`: Adam through the soft model from many starts, rounded.

    It descends on the linear model also where the environment is contended, and knows nothing of that; the
    latency told is the contended one.
    """
    found = hw.optimize_placement(key, env.problem, config)
    return WhiteBox(found.placement, _seconds(env, found.placement), found.evaluations)


def exact(env: Environment, time_limit_s: float = 60.0) -> WhiteBox:
    """`hwmodel.optimal_placement`: an integer program, with a bound; no evaluations.

    Raises:
        ValueError: a contended environment, which the integer program does not know of; those of
            `hwmodel.optimal_placement`.
    """
    if env.contention is not None:
        raise ValueError(
            "exact knows no contention, its optimum would be of another cost: search with egrl, or make the"
            f" environment without; got contention {float(env.contention):g}"
        )
    found = hw.optimal_placement(env.problem, time_limit_s)
    return WhiteBox(found.placement, _seconds(env, found.placement), 0, found.lower_bound_s)


def _seconds(env: Environment, placement: Int[np.ndarray, "N 2"]) -> float:
    return float(exact_latency(env, jnp.asarray(placement)))
