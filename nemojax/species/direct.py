"""The two published species that act on the bit-widths themselves (Miret et al. 2022).

Genes are real numbers, rounded to the nearest allowed bit-width or down; children come from
tournaments, simulated binary crossover and polynomial mutation.
"""

from collections.abc import Callable

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

from egrljax import tournament, uniform_index

from ..config import Direct
from ..live import rows_of_living
from ..space import BitSpace
from ..variation import most_mutated, polynomial_mutation, sbx
from .guests import Guests, Step, invite, stepped
from .protocol import Setting, Species

CHUNK = 64  # children made at a time


@struct.dataclass
class DirectParams(BaseParams):
    """Numbers of the direct species, as in `config.Direct`."""

    eta_crossover: jax.Array | float
    eta_mutation: jax.Array | float
    pair_rate: jax.Array | float
    gene_rate: jax.Array | float
    mutation_rate: jax.Array | float  # per gene; one number must not exceed the config's: see `most_mutated`
    guest_pair_rate: jax.Array | float  # of guests' pairs, share that are crossed
    guests: Guests | None = None  # given by NEMO at every ask


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
        numbers: Direct | None = None,
        everyone: bool = False,  # children also for the dead
        step: Step | None = None,  # how a guest's child changes a gene; none: polynomial mutation
        free: Int[np.ndarray, " f"] | None = None,  # genes that a step can change; none: all
    ):
        super().__init__(population_size, jnp.zeros(len(low), jnp.float32))
        self.low, self.high, self.numbers = low, high, numbers or Direct()
        self.everyone, self.step = everyone, step
        self.free = np.arange(len(low)) if free is None else free
        self.most = most_mutated(len(low), self._rate)

    @property
    def _rate(self) -> float:
        return 1 / self.num_dims if self.numbers.mutation_rate is None else self.numbers.mutation_rate

    @property
    def _default_params(self) -> DirectParams:
        own = self.numbers
        return DirectParams(
            eta_crossover=own.eta_crossover,
            eta_mutation=own.eta_mutation,
            pair_rate=own.pair_rate,
            gene_rate=own.gene_rate,
            mutation_rate=self._rate,
            guest_pair_rate=own.guest_pair_rate,
        )

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
        """As many children as members live; the rows beyond are zeros, or children that nobody asked for."""
        k_parents, k_children = jax.random.split(key)
        keys = jax.random.split(k_children, 5)
        size, chunk = self.population_size, min(CHUNK, self.population_size + self.population_size % 2)
        pairs = -(-size // chunk) * chunk // 2  # rows 2i and 2i + 1 are the children of pair i
        live = jnp.arange(size) < state.live
        chosen = tournament(k_parents, state.fitness, live, 2 * pairs, self.numbers.tournament)
        chosen = chosen.reshape(-1, 2, chunk // 2)

        def children(i: jax.Array) -> jax.Array:
            first, second = (state.population[row] for row in chosen[i])
            return self._children(jax.vmap(jax.random.fold_in, (0, None))(keys, i), first, second, params)

        born = rows_of_living(children, size if self.everyone else state.live, 2 * pairs, chunk)
        return born[:size], state

    def _children(
        self,
        keys: jax.Array,
        first: Float[Array, "p n"],
        second: Float[Array, "p n"],
        params: DirectParams,
    ) -> Float[Array, "2*p n"]:
        """Two children of each of p pairs, some of which guests replace; a pair's children stand together."""
        k_invite, k_turn, k_sbx, k_own, k_step = keys
        pairs, genes = first.shape
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        visits, order = _places(pairs, 0.0 if params.guests is None else self.numbers.guest_rate)
        if params.guests is not None and visits:
            invited = invite(k_invite, first[:visits], second[:visits], params.guests)
            first, second = first.at[:visits].set(invited[0]), second.at[:visits].set(invited[1])
        rate = jnp.where(jnp.arange(pairs) < visits, params.guest_pair_rate, params.pair_rate)[:, None]
        born = jnp.stack(sbx(k_sbx, first, second, low, high, params.eta_crossover, rate, params.gene_rate))
        guest, own = (part.reshape(-1, genes) for part in (born[:, :visits], born[:, visits:]))
        if visits and self.step is not None:  # the first children step near, the second perhaps further
            guest = stepped(k_step, guest, self.step, self.free)
        most = self.most if jnp.ndim(params.mutation_rate) == 0 else None
        own = polynomial_mutation(k_own, own, low, high, params.eta_mutation, params.mutation_rate, most)
        born = jnp.concatenate([part.reshape(2, -1, genes) for part in (guest, own)], axis=1)
        turn = uniform_index(jax.random.uniform(k_turn), pairs)  # a species may live in a few of the places
        return born[:, jnp.roll(order, turn)].swapaxes(0, 1).reshape(2 * pairs, genes)

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


def _places(pairs: int, share: float) -> tuple[int, np.ndarray]:
    """How many of the pairs are guests', and where each place of a chunk takes its pair from, guests first:
    evenly mixed, since the first places may be all that a species lives in.
    """
    visits = round(share * pairs)
    place = np.concatenate([(np.arange(k) + 0.5) / max(k, 1) for k in (visits, pairs - visits)])
    return visits, np.argsort(place, kind="stable")


def _direct(decode: Callable, high: np.ndarray, setting: Setting) -> Species:
    space = setting.space
    everyone = not setting.config.resize.rate_limited
    step, free = (space.step, space.free) if isinstance(space, BitSpace) else (None, None)
    algorithm = DirectBits(setting.slots, space.low, high, setting.config.direct, everyone, step, free)

    def encode(phenotypes: Array) -> Float[Array, "k n"]:
        return phenotypes.astype(jnp.float32)

    return Species(
        algorithm=algorithm,
        params=algorithm.default_params,
        init=lambda key: encode(space.sample(key, setting.slots)),
        decode=lambda key, genotypes, live, data=None: jax.vmap(decode)(genotypes),
        encode=encode,
    )


def continuous(setting: Setting) -> Species:
    """Genes in [low, high], rounded to the nearest allowed bit-width."""
    return _direct(setting.space.nearest, setting.space.high, setting)


def floor(setting: Setting) -> Species:
    """Genes in [low, high + top], rounded down to an allowed bit-width: a bias to few bits.

    With top = 0 (`config.Direct.floor_top`), as in the paper, the highest bit-width needs a gene of
    exactly that value; top = 1 gives it a range of its own.
    """
    space, top = setting.space, setting.config.direct.floor_top
    high = np.where(space.high > space.low, space.high + np.float32(top), space.high)
    return _direct(space.floor, high, setting)
