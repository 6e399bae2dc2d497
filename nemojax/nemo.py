"""NEMO (Miret et al. 2022, arXiv 2106.07611): species that evolve apart and are ranked together.

One generation: every species makes as many children as it has members; all children are evaluated
as one batch; parents and children of all species are put into one order (NSGA-III); the species'
sizes follow their utility (R2) by a bandit's score (UCB); each species keeps its best. The paper
evaluates species after species, which changes no result.

Shapes never change: each species holds C places, of which the first `alloc` are alive, and the sizes
sum to N in every generation, so that exactly N candidates leave `ask` and N costs enter `tell`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from . import resize
from .archive import Archive, init_archive, update_archive
from .box import Space
from .config import NemoConfig
from .first_members import handed, planted
from .pareto import non_dominated, succeeded
from .prices import Prices
from .ranking import joint_order
from .reference_points import das_dennis, most_divisions
from .species import SPECIES, Setting, Species
from .species.protocol import ask as ask_species, start, tell as tell_species
from .survival import SURVIVALS, Survival
from .survivors import spread, survivors

Numbers = jax.Array | np.ndarray


@struct.dataclass
class NemoState:
    """S species of C slots each, n quantizers, M objectives. Slot j of species s lives iff j < alloc[s]."""

    run_key: jax.Array  # (2,) uint32, data of the key that every generation's is folded from
    generation: jax.Array  # () int32, generations told
    evaluations: jax.Array  # () int32, candidates told, whether a cache had them or not
    params: tuple[Any, ...]  # each species' evosax parameters
    data: tuple[Any, ...]  # what each species' decoding reads; see `Species`
    species: tuple[Any, ...]  # each species' evosax state
    bits: jax.Array  # (S, C, n) int32; decoded genotype j of species s at [s, j] if j lives; 0 before tell
    costs: jax.Array  # (S, C, M) float32; +inf = not evaluated, failed or dead
    violation: jax.Array  # (S, C) float32; how far a member exceeds the budgets; 0 = within
    alloc: jax.Array  # (S,) int32, sums to N
    asked: jax.Array  # (S,) int32, candidates of each species so far
    utility: jax.Array  # (S,) float32, smoothed
    survival: Any  # the survival's own state
    archive: Archive


@struct.dataclass
class Ticket:
    """What tell must know about the candidates that ask gave out."""

    genotypes: tuple[jax.Array, ...]  # per species (C, G) float
    bits: jax.Array  # (S, C, n) int32
    slots: jax.Array  # (N,) int32, place of each candidate among the S·C


@struct.dataclass
class Metrics:
    """One generation, for logging; from `loop.run` as NumPy arrays with the generations in front."""

    generation: Numbers  # () int32, counted from 1
    evaluations: Numbers  # () int32, since the start
    best: Numbers  # (M,) float32, lowest cost in the archive
    archived: Numbers  # () int32, members of the archive
    failed: Numbers  # () int32, candidates of this generation, those over a budget not among them
    over_budget: Numbers  # () int32, candidates of this generation
    repeated: Numbers  # () int32, candidates whose bits were already in the population or batch
    alloc: Numbers  # (S,) int32, members of each species in the next generation
    r2: Numbers  # (S,) float32, of each species' parents and children; lower is better
    utility: Numbers  # (S,) float32, smoothed
    front: Numbers  # (S,) int32, members not dominated in the whole population


class Nemo(NamedTuple):
    """Pure functions; jit belongs to the caller. Build once and reuse: a new one compiles anew."""

    init: Callable[..., NemoState]  # key, seeds=None, genotypes=None -> state
    ask: Callable[[NemoState], tuple[jax.Array, Ticket, NemoState]]  # -> bits (N, n) int32, ticket, state
    tell: Callable[..., tuple[NemoState, Metrics]]  # state, ticket, costs (N, M), violation -> state, metrics
    room: int  # seeds that the first generation has places for


def nemo(
    config: NemoConfig,
    space: Space,
    num_objectives: int,
    *,
    graph: jraph.GraphsTuple | None = None,
    prices: Prices | None = None,
    scale: Sequence[float] | np.ndarray | None = None,
    units: Sequence[float] | np.ndarray | None = None,
) -> Nemo:
    """The search over `space` with `num_objectives` costs, all minimised.

    Args:
        graph: of the n quantizers, for the graph species; `quantizer_graph` and `chain_graph` make one.
        prices: of bits, from a sensitivity table, for the species "priced".
        scale: (M,) the worst cost that counts, by which costs are divided for a species' utility; default 1
            each.
        units: (M,) by which costs are divided for the ranking: NSGA-III's tolerances are absolute, for costs
            of the order of 1, and would take all latencies in seconds for equal; default 1 each.

    Raises:
        ValueError: fewer than two objectives, an archive smaller than their number, an unknown species
            or survival, a graph species without a graph of this space.
    """
    if num_objectives < 2:
        raise ValueError(f"num_objectives must be at least 2, got {num_objectives}")
    count, slots, kinds = config.population, config.slots, len(config.species)
    worst = float(2 * kinds * slots)  # told for the dead: finite and all the same, as strategies expect
    empty = init_archive(config.archive_capacity, space.size, num_objectives)
    survival = _survival(config, num_objectives)
    species = _species(config, Setting(space, slots, config, graph, prices))
    unit, ranked = _scale("scale", scale, num_objectives), _scale("units", units, num_objectives)
    rules, least = config.resize, config.least
    weights = das_dennis(num_objectives, rules.weight_divisions)
    dtype = space.dtype

    def living(alloc: Int[Array, " S"]) -> Int[Array, " N"]:
        """Places of the N living members among the S·C, species by species."""
        ends = jnp.cumsum(alloc)
        index = jnp.arange(count, dtype=jnp.int32)
        own = jnp.sum(index[:, None] >= ends[None], axis=1, dtype=jnp.int32)
        return own * slots + index - (ends - alloc)[own]

    def init(
        key: jax.Array,
        seeds: np.ndarray | None = None,
        genotypes: Mapping[str, np.ndarray] | None = None,
    ) -> NemoState:
        """Random members; nothing is evaluated yet.

        Args:
            seeds: (k, n) configurations in the place of the first members of species that can encode them.
            genotypes: species -> (k, G), for its first members: `policies` of another search, say.

        Raises:
            ValueError: a key of another generator, too many seeds, or one outside the space.
        """
        given, usual = jax.random.key_impl(key), jax.random.key_impl(jax.random.key(0))
        if given != usual:
            raise ValueError(f"key must be of JAX's default generator {usual}, got {given}")
        own_seeds = planted(seeds, config, species, space)
        own_genes = handed(genotypes, config, species)
        k_run, k_members = jax.random.split(key)
        states = []
        for kind, k_init, size, own, given_genes in zip(
            species, jax.random.split(k_members, kinds), config.sizes, own_seeds, own_genes, strict=True
        ):
            k_genotypes, k_state = jax.random.split(k_init)
            genes = kind.init(k_genotypes)
            if kind.encode is not None and len(own):
                genes = genes.at[: len(own)].set(kind.encode(jnp.asarray(own)))
            if len(given_genes):
                genes = genes.at[: len(given_genes)].set(jnp.asarray(given_genes, genes.dtype))
            states.append(start(kind, k_state, genes, size, worst))
        state = NemoState(
            run_key=jax.random.key_data(k_run),
            generation=jnp.int32(0),
            evaluations=jnp.int32(0),
            params=tuple(kind.params for kind in species),
            data=tuple(kind.data for kind in species),
            species=tuple(states),
            bits=jnp.zeros((kinds, slots, space.size), dtype),
            costs=jnp.full((kinds, slots, num_objectives), jnp.inf, jnp.float32),
            violation=jnp.zeros((kinds, slots), jnp.float32),
            alloc=jnp.asarray(config.sizes, jnp.int32),
            asked=jnp.zeros(kinds, jnp.int32),
            utility=jnp.zeros(kinds, jnp.float32),
            survival=survival.init(num_objectives),
            archive=replace(empty, bits=empty.bits.astype(dtype)),
        )
        return jax.tree.map(_fixed, state)

    def ask(state: NemoState) -> tuple[jax.Array, Ticket, NemoState]:
        """N candidates: the initial members in generation 0, children after that."""
        k_children, k_decode, *_ = _keys(state)
        # Without a rate limit a species may grow into places of children that were never evaluated.
        made = state.alloc if rules.rate_limited else jnp.full_like(state.alloc, slots)
        genotypes, states, bits = [], [], []
        for s, (kind, params, own) in enumerate(zip(species, state.params, state.species, strict=True)):
            children, asked = ask_species(kind, jax.random.fold_in(k_children, s), own, params, state.archive)
            k_own = jax.random.fold_in(k_decode, s)
            if hasattr(own, "population"):  # a distribution has no members to start with: it draws them
                children = jnp.where(state.generation == 0, own.population, children)
            bits.append(kind.decode(k_own, children, made[s], state.data[s]).astype(dtype))
            genotypes.append(children)
            states.append(asked)
        ticket = Ticket(tuple(genotypes), jnp.stack(bits), living(state.alloc))
        candidates = ticket.bits.reshape(-1, space.size)[ticket.slots]
        return candidates, ticket, replace(state, species=tuple(states))

    def tell(
        state: NemoState,
        ticket: Ticket,
        costs: Float[Array, "N M"],
        violation: Float[Array, " N"] | None = None,
    ) -> tuple[NemoState, Metrics]:
        """Take the candidates' costs in; a row that is not finite throughout has failed.

        Args:
            violation: how far each candidate exceeds the budgets, 0 = within; see `ranking.joint_order`.

        Raises:
            ValueError: costs of another shape than (N, M), or violations of another than (N,).
        """
        if costs.shape != (count, num_objectives):
            raise ValueError(f"costs must have the shape {(count, num_objectives)}, got {costs.shape}")
        over = jnp.zeros(count, jnp.float32) if violation is None else jnp.asarray(violation, jnp.float32)
        if over.shape != (count,):
            raise ValueError(f"violation must have the shape {(count,)}, got {over.shape}")
        _, _, k_survival, k_tell, k_resize = _keys(state)
        # The first candidates are the members themselves: one that is kept unevaluated has their bits, too.
        state = replace(state, bits=jnp.where(state.generation == 0, ticket.bits, state.bits))
        costs = jnp.where(succeeded(costs)[:, None], costs, jnp.inf).astype(jnp.float32)
        alive = ticket.slots
        told = spread(costs, alive, kinds, slots, jnp.inf)
        told_over = spread(over, alive, kinds, slots, 0)

        # Parents of all species before children of all species, so that ties keep the parent.
        parents_bits = state.bits.reshape(-1, space.size)[alive]
        children_bits = ticket.bits.reshape(-1, space.size)[alive]
        order = joint_order(
            k_survival,
            survival,
            state.survival,
            jnp.concatenate([parents_bits, children_bits]),
            jnp.concatenate([state.costs.reshape(-1, num_objectives)[alive], costs]) / ranked[None],
            jnp.concatenate([state.violation.reshape(-1)[alive], over]),
            config.demote_repeats,
        )
        within = jnp.where(told_over[:, :, None] > 0, jnp.inf, told)
        both = jnp.concatenate([jnp.where(state.violation[:, :, None] > 0, jnp.inf, state.costs), within], 1)
        asked = state.asked + state.alloc
        old_utility = jnp.where(state.generation == 0, jnp.nan, state.utility)  # there is none yet
        sized = resize.resized(
            k_resize, both / unit[None, None], weights, old_utility, asked, state.alloc, count, least, rules
        )
        alloc = sized.alloc

        position = jnp.stack([spread(half, alive, kinds, slots, -1) for half in jnp.split(order.position, 2)])
        fates = jax.vmap(lambda p, live: survivors(p, live, worst, rules.refill))(
            jnp.swapaxes(position, 0, 1), alloc
        )
        keys = jax.random.split(k_tell, kinds)
        states = tuple(
            tell_species(
                kind, keys[s], own, params, ticket.genotypes[s], jax.tree.map(lambda x, s=s: x[s], fates)
            )
            for s, (kind, params, own) in enumerate(zip(species, state.params, state.species, strict=True))
        )
        evaluated = (jnp.arange(slots)[None] < alloc[:, None]) & (fates.kept < worst)
        pick = jax.vmap(lambda parents, children, best: jnp.concatenate([parents, children])[best])
        kept_costs = pick(state.costs, told, fates.best)
        kept_over = pick(state.violation, told_over, fates.best)

        archived = jnp.where(over[:, None] > 0, jnp.inf, costs)
        new = replace(
            state,
            generation=state.generation + 1,
            evaluations=state.evaluations + count,
            species=states,
            bits=pick(state.bits, ticket.bits, fates.best),
            costs=jnp.where(evaluated[:, :, None], kept_costs, jnp.inf),
            violation=jnp.where(evaluated, kept_over, 0),
            alloc=alloc,
            asked=asked,
            utility=sized.utility,
            survival=order.state,
            archive=update_archive(state.archive, children_bits, archived),
        )
        return new, _metrics(new, living(alloc), costs, over, order.unique[count:], sized.r2)

    room = sum(size for size, kind in zip(config.sizes, species, strict=True) if kind.encode is not None)
    return Nemo(init, ask, tell, room)


def _metrics(
    new: NemoState,
    alive: Int[Array, " N"],
    costs: Float[Array, "N M"],
    over: Float[Array, " N"],
    unique: Array,
    indicator: Float[Array, " S"],
) -> Metrics:
    kinds, slots, objectives = new.costs.shape
    valid = jnp.isfinite(costs[:, 0]) & (over <= 0)
    members = jnp.where(new.violation[:, :, None] > 0, jnp.inf, new.costs).reshape(-1, objectives)[alive]
    own = jnp.zeros(kinds, jnp.int32).at[alive // slots]
    return Metrics(
        generation=new.generation,
        evaluations=new.evaluations,
        best=jnp.min(new.archive.costs, axis=0),
        archived=jnp.sum(new.archive.valid, dtype=jnp.int32),
        failed=jnp.sum(~valid & (over <= 0), dtype=jnp.int32),
        over_budget=jnp.sum(over > 0, dtype=jnp.int32),
        repeated=jnp.sum(valid & ~unique, dtype=jnp.int32),
        alloc=new.alloc,
        r2=indicator,
        utility=new.utility,
        front=own.add(non_dominated(members).astype(jnp.int32)),
    )


def _fixed(x: Any) -> jax.Array:
    """Of the type it will keep: evosax's Python numbers would change theirs in the first step, and recompile.

    32 bits also where JAX's 64-bit mode is on.
    """
    kind = jnp.result_type(x)
    return jnp.asarray(x, {"float64": jnp.float32, "int64": jnp.int32}.get(kind.name, kind))


def _survival(config: NemoConfig, num_objectives: int) -> Survival:
    if config.survival not in SURVIVALS:
        raise ValueError(f"survival is {config.survival!r}: the known ones are {sorted(SURVIVALS)}")
    if config.survival != "nsga3":
        return SURVIVALS[config.survival]()
    divisions = config.divisions or most_divisions(num_objectives, config.population)
    return SURVIVALS["nsga3"](divisions=divisions)


def _species(config: NemoConfig, setting: Setting) -> tuple[Species, ...]:
    for name in config.species:
        if name not in SPECIES:
            raise ValueError(f"species holds {name!r}: the known ones are {sorted(SPECIES)}")
    return tuple(SPECIES[name](setting) for name in config.species)


def _scale(name: str, scale: Sequence[float] | np.ndarray | None, num_objectives: int) -> Float[Array, " M"]:
    values = np.ones(num_objectives) if scale is None else np.asarray(scale, np.float64)
    if values.shape != (num_objectives,) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{name} must be {num_objectives} positive numbers, got {values.tolist()}")
    return jnp.asarray(values, jnp.float32)


def _keys(state: NemoState) -> jax.Array:
    """This generation's keys for children, their decoding, survival, the strategies' tell and sizes."""
    run_key = jax.random.wrap_key_data(state.run_key)
    return jax.random.split(jax.random.fold_in(run_key, state.generation), 5)
