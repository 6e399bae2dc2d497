"""What a species is to NEMO: an algorithm of evosax, and how its genotypes become bit-widths.

NEMO tells a species ranks, not costs, and decides itself who survives. So any strategy that speaks
evosax's ask/tell becomes a species, whether it keeps a population or a distribution:

- a population-based one gets the survivors written into its state, and their positions as fitness;
- a distribution-based one keeps its distribution, updated by its own `tell`; NEMO's table of its
  members then is a record, for ranking, utility and front.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
from evosax.algorithms.base import EvolutionaryAlgorithm
from evosax.algorithms.population_based.base import PopulationBasedAlgorithm
from jaxtyping import Array, Float, Int

from egrljax import as_evosax

from ..archive import Archive
from ..box import Space
from ..config import NemoConfig
from .guests import from_archive


class Setting(NamedTuple):
    """What a species is made for."""

    space: Space
    slots: int  # C: members that it can have at most
    config: NemoConfig
    graph: jraph.GraphsTuple | None  # of the n quantizers; only graph species need it
    prices: Any = None  # Prices; only that species needs it


class Species(NamedTuple):
    """C slots, G genes of one genotype, n quantizers.

    The algorithm is built once: evosax's methods are jitted with a static `self` that is hashed by
    identity. If its state has a field `live`, that is set to the number of living members, which are
    the first ones.
    """

    algorithm: EvolutionaryAlgorithm  # population_size C, num_dims G
    params: Any  # the algorithm's, traced numbers
    init: Callable[[jax.Array], jax.Array]  # key -> first genotypes (C, G) float
    # key, genotypes (C, G), live (), data = own -> phenotypes (C, n), right up to live
    decode: Callable[..., jax.Array]
    encode: Callable[[jax.Array], jax.Array] | None  # phenotypes -> genotypes that decode to them, or none
    data: Any = None  # what decoding reads of a sensitivity table: traced, so another compiles nothing anew


class Survivors(NamedTuple):
    """What becomes of a species' C parents and C children in one generation."""

    best: Int[Array, " C"]  # rows of parents and children together, that live on
    parents: Float[Array, " C"]  # positions in the joint order
    children: Float[Array, " C"]
    kept: Float[Array, " C"]  # positions of the survivors
    live: Int[Array, ""]  # how many of them live


def start(
    species: Species, key: jax.Array, genotypes: Float[Array, "C G"], live: Int[Array, ""] | int, worst: float
) -> Any:
    """The algorithm's state around unevaluated genotypes."""
    algorithm, params = species.algorithm, species.params
    with as_evosax():
        if not isinstance(algorithm, PopulationBasedAlgorithm):
            return algorithm.init(key, jnp.mean(genotypes, axis=0), params)
        unranked = jnp.full(algorithm.population_size, worst, jnp.float32)
        state = algorithm.init(key, genotypes, unranked, params)
    return state.replace(live=jnp.int32(live)) if hasattr(state, "live") else state


def ask(
    species: Species, key: jax.Array, state: Any, params: Any, archive: Archive
) -> tuple[Float[Array, "C G"], Any]:
    """C children; those beyond the live count may be anything. An algorithm with a `step` is given guests."""
    if getattr(species.algorithm, "step", None) is not None and species.encode is not None:
        params = params.replace(guests=from_archive(archive))
    with as_evosax():
        return species.algorithm.ask(key, state, params)


def tell(
    species: Species, key: jax.Array, state: Any, params: Any, children: Float[Array, "C G"], fate: Survivors
) -> Any:
    """The state after a generation."""
    algorithm = species.algorithm
    # Positions hold for one generation only: evosax's record of the best is forgotten.
    state = state.replace(best_fitness=jnp.full_like(state.best_fitness, jnp.inf))
    population_based = isinstance(algorithm, PopulationBasedAlgorithm)
    parents = state.population if population_based else children
    if population_based:
        state = state.replace(fitness=fate.parents)
    with as_evosax():
        state, _ = algorithm.tell(key, children, fate.children, state, params)
    if not population_based:
        return state
    # Survival is NEMO's, whatever the strategy did.
    survivors = jnp.concatenate([parents, children])[fate.best]
    state = state.replace(population=survivors, fitness=fate.kept)
    return state.replace(live=fate.live) if hasattr(state, "live") else state
