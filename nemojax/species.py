"""Species: how a sub-population of NEMO makes children, and how its genotypes become bit-vectors.

A species is an evosax algorithm that keeps a population (`PopulationBasedAlgorithm`), with four
functions around it. Two are published (Miret et al. 2022) and act on the bit-widths directly, by
crossover and mutation of real numbers that are rounded to the nearest bit-width or down. Any other
population strategy of evosax becomes a species through a further entry of `SPECIES`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from evosax.algorithms.population_based.base import (
    Params as BaseParams,
    PopulationBasedAlgorithm,
    State as BaseState,
)
from flax import struct
from jaxtyping import Array, Float, Int

from egrljax import tournament

from .space import BitSpace
from .variation import polynomial_mutation, sbx


class Species(NamedTuple):
    """C = the algorithm's population_size, G = genes of one genotype, n = quantizers.

    The algorithm is built once: evosax's methods are jitted with a static `self` that is hashed by
    identity. Its state must hold `population` (C, G) and `fitness` (C,); a field `live`, if there,
    is set to the number of living members, which are the first ones.
    """

    algorithm: PopulationBasedAlgorithm
    params: Any  # the algorithm's, traced numbers
    init: Callable[[jax.Array], jax.Array]  # key -> genotypes (C, G) float
    decode: Callable[[jax.Array], jax.Array]  # genotypes (k, G) -> bits (k, n) int32
    encode: Callable[[jax.Array], jax.Array] | None  # bits -> genotypes that decode to them, or none


@struct.dataclass
class DirectParams(BaseParams):
    """Numbers of the direct species. The paper's are not known to us."""

    eta_crossover: jax.Array | float = 2.0  # ours: children far from their parents, since genes are rounded
    eta_mutation: jax.Array | float = 10.0  # ours: wide steps, for the same reason
    pair_rate: jax.Array | float = 1.0  # Deb & Jain 2014: share of pairs that are crossed
    gene_rate: jax.Array | float = 0.5  # of a crossed pair; Deb's standard form
    mutation_rate: jax.Array | float = 0.0  # per gene; set to 1/n, Deb's standard


@struct.dataclass
class DirectState(BaseState):
    """C members of n genes."""

    population: jax.Array  # (C, n) float, bit-widths before rounding
    fitness: jax.Array  # (C,) float, minimised
    live: jax.Array  # () int32, members 0..live-1 may be parents
    best_fitness: jax.Array  # () float, evosax's own record; not used
    generation_counter: jax.Array  # () int32, likewise


class DirectBits(PopulationBasedAlgorithm):
    """Tournaments, bounded SBX and bounded polynomial mutation on n real bit-widths."""

    def __init__(
        self,
        population_size: int,
        low: Float[np.ndarray, " n"],
        high: Float[np.ndarray, " n"],
        tournament_size: int = 2,  # Deb et al. 2002
    ):
        super().__init__(population_size, jnp.zeros(len(low), jnp.float32))
        self.low, self.high, self.tournament_size = low, high, tournament_size

    @property
    def _default_params(self) -> DirectParams:
        return DirectParams(mutation_rate=1 / self.num_dims)

    def _init(self, key: jax.Array, params: DirectParams) -> DirectState:
        return DirectState(
            population=jnp.zeros((self.population_size, self.num_dims), jnp.float32),
            fitness=jnp.full(self.population_size, jnp.inf, jnp.float32),
            live=jnp.int32(self.population_size),
            best_solution=jnp.zeros(self.num_dims, jnp.float32),
            best_fitness=jnp.float32(jnp.inf),
            generation_counter=jnp.int32(0),
        )

    def _ask(
        self, key: jax.Array, state: DirectState, params: DirectParams
    ) -> tuple[Float[Array, "C n"], DirectState]:
        k_parents, k_cross, k_mutate = jax.random.split(key, 3)
        size, pairs = self.population_size, -(-self.population_size // 2)
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        live = jnp.arange(size) < state.live
        chosen = tournament(k_parents, state.fitness, live, 2 * pairs, self.tournament_size)
        first, second = state.population[chosen[:pairs]], state.population[chosen[pairs:]]

        children = jnp.concatenate(
            sbx(
                k_cross,
                first,
                second,
                low,
                high,
                params.eta_crossover,
                params.pair_rate,
                params.gene_rate,
            )
        )[:size]
        return polynomial_mutation(
            k_mutate, children, low, high, params.eta_mutation, params.mutation_rate
        ), state

    def _tell(
        self,
        key: jax.Array,
        population: Float[Array, "C n"],
        fitness: Float[Array, " C"],
        state: DirectState,
        params: DirectParams,
    ) -> DirectState:
        """The best C of parents and children; ties to the parents, then to the lowest index."""
        everyone = jnp.concatenate([state.population, population])
        score = jnp.concatenate([state.fitness, fitness])
        best = jnp.argsort(score, stable=True)[: self.population_size]
        return state.replace(population=everyone[best], fitness=score[best])


def _direct(decode: Callable, high: np.ndarray, space: BitSpace, size: int) -> Species:
    algorithm = DirectBits(size, space.low, high)

    def encode(bits: Int[Array, "k n"]) -> Float[Array, "k n"]:
        return bits.astype(jnp.float32)

    return Species(
        algorithm=algorithm,
        params=algorithm.default_params,
        init=lambda key: encode(space.sample(key, size)),
        decode=jax.vmap(decode),
        encode=encode,
    )


def continuous(space: BitSpace, size: int) -> Species:
    """Genes in [low, high], rounded to the nearest allowed bit-width."""
    return _direct(space.nearest, space.high, space, size)


def floor(space: BitSpace, size: int, top: float = 0.0) -> Species:
    """Genes in [low, high + top], rounded down to an allowed bit-width: a bias to few bits.

    With top = 0, as in the paper, the highest bit-width needs a gene of exactly that value;
    top = 1 gives it a range of its own.

    Raises:
        ValueError: a negative top.
    """
    if top < 0:
        raise ValueError(f"top must not be negative, got {top}")
    high = np.where(space.high > space.low, space.high + np.float32(top), space.high)
    return _direct(space.floor, high, space, size)


SPECIES: dict[str, Callable[[BitSpace, int], Species]] = {
    "continuous": continuous,
    "floor": floor,
}
"""Name -> species of a given space and number of slots; more entries may be added."""
