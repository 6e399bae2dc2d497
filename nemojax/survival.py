"""Survival: a total order of candidates by their costs, whose prefixes are survivor sets.

Every species of NEMO takes its own share of one order, so an order is needed rather than a set.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .pareto import crowding, pareto_rank, succeeded
from .reference_points import (
    Normalisation,
    associate,
    das_dennis,
    init_normalisation,
    niche_order,
    update_normalisation,
)


class Survival(NamedTuple):
    """Two pure functions; the state is carried from one generation to the next."""

    init: Callable[[int], Any]  # number of objectives -> state
    order: Callable[..., tuple[jax.Array, Any]]  # key, costs (n, m), state -> order (n,) best first, state


def nsga2() -> Survival:
    """By front, then by crowding distance, then by index (Deb et al. 2002).

    The prefix of length K is NSGA-II's survivor set of size K. Uses no randomness.
    """

    def order(
        key: jax.Array, costs: Float[Array, "n m"], state: tuple[()]
    ) -> tuple[Int[Array, " n"], tuple[()]]:
        rank = pareto_rank(costs)
        return jnp.lexsort((-crowding(costs, rank), rank)), state

    return Survival(init=lambda num_objectives: (), order=order)


def nsga3(divisions: int = 14, ties: str = "random") -> Survival:
    """By front, then by niching over Das-Dennis directions (Deb & Jain 2014).

    The prefix of length K is an NSGA-III survivor set of size K: fronts that fit are taken whole,
    the one that does not is filled direction by direction, and a dominated row never precedes
    the row that dominates it. The normalisation uses all rows, whatever K is, as pymoo's does.

    Args:
        divisions: of the simplex; 14 give 120 directions for three objectives.
        ties: "random" as in the paper, or "index": the lowest index wins and the key is not used.

    Raises:
        ValueError: divisions below 1, or another word for `ties`.
    """
    if divisions < 1:
        raise ValueError(f"divisions must be at least 1, got {divisions}")
    if ties not in ("random", "index"):
        raise ValueError(f'ties must be "random" or "index", got {ties!r}')

    def order(
        key: jax.Array, costs: Float[Array, "n m"], state: Normalisation
    ) -> tuple[Int[Array, " n"], Normalisation]:
        count, objectives = costs.shape
        rank = pareto_rank(costs)
        state, nadir = update_normalisation(state, costs, rank)
        niche, distance = associate(costs, state.ideal, nadir, das_dennis(objectives, divisions))
        if ties == "random":
            member_draw, niche_draw = jnp.split(jax.random.uniform(key, (2 * count,)), 2)
        else:
            member_draw, niche_draw = jnp.zeros(count), niche.astype(float)
        return niche_order(rank, niche, distance, succeeded(costs), member_draw, niche_draw), state

    return Survival(init=init_normalisation, order=order)


SURVIVALS: Mapping[str, Callable[..., Survival]] = {"nsga2": nsga2, "nsga3": nsga3}
