"""The species whose genotype is a policy: a graph network that gives every quantizer a bit-width.

Policies are NEMO's GCN and Graph U-Net (Miret et al. 2022), and the same without edges as an ablation.
A genotype is the flat vector of a policy's parameters; children come from tournaments and SSNE.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from evosax.algorithms.population_based.base import (
    Params as BaseParams,
    PopulationBasedAlgorithm,
    State as BaseState,
)
from flax import struct
from jaxtyping import Array, Float, Int

from egrljax import (
    Genome,
    Policy,
    PolicyConfig,
    apply_population,
    genome,
    policy,
    ssne,
    tournament,
)

from ..live import rows_of_living
from ..space import BitSpace
from .protocol import Setting, Species

CHUNK = 16  # children made at a time; part of what a key means
SPREAD_BITS = 1.0  # ours: logits of the first policies fall by half a unit that many bits from their level


@struct.dataclass
class PolicyState(BaseState):
    """C policies of P parameters."""

    population: jax.Array  # (C, P) float32
    fitness: jax.Array  # (C,) float, minimised
    live: jax.Array  # () int32, members 0..live-1 may be parents
    best_fitness: jax.Array  # () float, evosax's own record; not used
    generation_counter: jax.Array  # () int32, likewise


@struct.dataclass
class PolicyParams(BaseParams):
    """Numbers of the graph species."""

    rates: ssne.SSNERates


class PolicyEvolution(PopulationBasedAlgorithm):
    """Tournaments, crossover and mutation by tensors of the policy's parameters."""

    def __init__(
        self,
        population_size: int,
        layout: Genome,
        operators: Any,  # egrljax.ssne's kind
        rates: ssne.SSNERates,
        tournament_size: int,
        everyone: bool,
    ):
        super().__init__(population_size, jnp.zeros(layout.size, jnp.float32))
        self.layout, self.operators, self.rates = layout, operators, rates
        self.tournament_size, self.everyone = tournament_size, everyone

    @property
    def _default_params(self) -> PolicyParams:
        return PolicyParams(self.rates)

    def _init(self, key: jax.Array, params: PolicyParams) -> PolicyState:
        return PolicyState(
            population=jnp.zeros((self.population_size, self.num_dims), jnp.float32),
            fitness=jnp.full(self.population_size, jnp.inf, jnp.float32),
            live=jnp.int32(self.population_size),
            best_solution=jnp.zeros(self.num_dims, jnp.float32),
            best_fitness=jnp.float32(jnp.inf),
            generation_counter=jnp.int32(0),
        )

    def _ask(
        self, key: jax.Array, state: PolicyState, params: PolicyParams
    ) -> tuple[Float[Array, "C P"], PolicyState]:
        """As many children as members live, zeros beyond; each of two parents."""
        k_parents, k_cross, k_mutate = jax.random.split(key, 3)
        size, chunk = self.population_size, min(CHUNK, self.population_size)
        rows = -(-size // chunk) * chunk
        live = jnp.arange(size) < state.live
        chosen = tournament(k_parents, state.fitness, live, 2 * rows, self.tournament_size)
        chosen = chosen.reshape(-1, 2, chunk)

        def children(i: jax.Array) -> jax.Array:
            first, second = (state.population[row] for row in chosen[i])
            k_own, k_noise = jax.random.fold_in(k_cross, i), jax.random.fold_in(k_mutate, i)
            born = ssne.crossover(k_own, first, second, self.layout, params.rates, self.operators)
            return ssne.mutate(k_noise, born, self.layout, params.rates, self.operators)

        return rows_of_living(children, size if self.everyone else state.live, size, chunk), state

    def _tell(
        self,
        key: jax.Array,
        population: Float[Array, "C P"],
        fitness: Float[Array, " C"],
        state: PolicyState,
        params: PolicyParams,
    ) -> PolicyState:
        """The best C of parents and children; ties to the parents, then to the lowest index."""
        everyone = jnp.concatenate([state.population, population])
        score = jnp.concatenate([state.fitness, fitness])
        best = jnp.argsort(score, stable=True)[: self.population_size]
        return state.replace(population=everyone[best], fitness=score[best])


def _graph_species(setting: Setting, block: str) -> Species:
    space, graph, own = setting.space, setting.graph, setting.config.graph
    if not isinstance(space, BitSpace):
        raise ValueError(
            f"species {block!r} chooses among bit-widths: give a BitSpace, not {type(space).__name__}"
        )
    if graph is None or int(np.asarray(graph.n_node)[0]) != space.size:
        found = "none" if graph is None else f"one of {int(np.asarray(graph.n_node)[0])} nodes"
        raise ValueError(
            f"species {block!r} needs a graph of the space's {space.size} quantizers, got {found}: "
            "give graph=quantizer_graph(workload) or chain_graph(n)"
        )
    graph = jax.tree.map(jnp.asarray, graph)
    widths = space.widths
    shape = PolicyConfig(
        block=block,  # type: ignore[arg-type]
        hidden=own.hidden,
        heads=own.heads,
        depth=own.depth,
        ratio=own.ratio,
        choices=len(widths),
        add_self_edges=False,  # the graphs of quantizer_graph and chain_graph have them
    )
    net = policy(shape)
    layout = genome(jax.eval_shape(net.init, jax.eval_shape(jax.random.key, 0), graph))
    algorithm = PolicyEvolution(
        setting.slots,
        layout,
        own.operators,
        ssne_rates(own.crossover_rate, own.mutation_rate),
        own.tournament,
        not setting.config.resize.rate_limited,
    )

    def choose(scores: Float[Array, "n W"]) -> Int[Array, " n"]:
        return space.resolve(space.by_choice(scores), ties=own.ties)  # type: ignore[arg-type]

    def decode(
        key: jax.Array,
        genotypes: Float[Array, "C P"],
        live: Int[Array, ""] | int,
        nodes: Float[Array, "n F"] = graph.nodes,
    ) -> Int[Array, "C n"]:
        read = graph._replace(nodes=nodes)
        logits = apply_population(net, layout, genotypes, read, chunk=own.chunk, live=live)[:, :, 0]
        if own.decision == "sample":  # Gumbel-max
            draws = jax.random.gumbel(key, (logits.size,), logits.dtype)
            logits = logits + draws.reshape(logits.shape)
        return jax.vmap(choose)(logits)

    first = _around_levels if own.init == "levels" else _as_drawn
    return Species(
        algorithm=algorithm,
        params=algorithm.default_params,
        init=partial(first, net, layout, graph, widths, setting.slots),
        decode=decode,
        encode=None,
        data=graph.nodes,
    )


def _as_drawn(
    net: Policy, layout: Genome, graph: jraph.GraphsTuple, widths: tuple[int, ...], count: int, key: jax.Array
) -> Float[Array, "C P"]:
    return jax.lax.map(lambda k: layout.ravel(net.init(k, graph)), jax.random.split(key, count))


def _around_levels(
    net: Policy, layout: Genome, graph: jraph.GraphsTuple, widths: tuple[int, ...], count: int, key: jax.Array
) -> Float[Array, "C P"]:
    """Policies that choose around a bit-width of their own, uniform between the lowest and the highest.

    Departs from policies as drawn, whose choices differ between quantizers by chance: one quantizer at 2 bits
    ruins a network, so such a generation holds nothing to select from. The bias of the logits falls with the
    squared distance to the level, and the logits' weights are scaled by a draw from [0, 1] per policy.
    """
    k_draw, k_level, k_scale = jax.random.split(key, 3)
    drawn = _as_drawn(net, layout, graph, widths, count, k_draw)
    level = jax.random.uniform(k_level, (count, 1), minval=widths[0], maxval=widths[-1])
    scale = jax.random.uniform(k_scale, (count, 1))
    distance = jnp.asarray(widths, jnp.float32)[None] - level
    kernel, bias = (_places(layout, f"params/logits/{part}") for part in ("kernel", "bias"))
    drawn = drawn.at[:, kernel].multiply(scale)
    return drawn.at[:, bias].set(-0.5 * (distance / SPREAD_BITS) ** 2)


def _places(layout: Genome, name: str) -> np.ndarray:
    return np.flatnonzero(layout.segments == layout.names.index(name))


def ssne_rates(crossover_rate: float | None, mutation_rate: float | None) -> ssne.SSNERates:
    rates = ssne.SSNERates()
    if crossover_rate is not None:
        rates = rates.replace(cr_dist=crossover_rate)  # type: ignore[attr-defined]
    if mutation_rate is not None:
        rates = rates.replace(mut_dist=mutation_rate)  # type: ignore[attr-defined]
    return rates


def gcn(setting: Setting) -> Species:
    """Graph convolution, graph attention, linear layers (Miret et al. 2022; Kipf & Welling 2017)."""
    return _graph_species(setting, "gcn")


def unet(setting: Setting) -> Species:
    """The same with a Graph U-Net as the first block (Gao & Ji 2019)."""
    return _graph_species(setting, "unet")


def mlp(setting: Setting) -> Species:
    """The same on the nodes' own features: an ablation, which no edge reaches."""
    return _graph_species(setting, "mlp")
