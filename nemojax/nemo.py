"""NEMO (Miret et al. 2022, arXiv 2106.07611): species that evolve apart and are ranked together.

One generation: every species makes as many children as it has members; all children are evaluated
as one batch; parents and children of all species are put into one order (NSGA-III); each species
keeps its best. The paper evaluates species after species, which changes no result.

Not yet as in the paper: the species have equal, fixed sizes and are the two direct ones. Sizes are
held per species and traced (`alloc`), so that a rule that moves them changes no shape.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from .archive import Archive, first_copies, init_archive, update_archive
from .pareto import non_dominated, succeeded
from .reference_points import most_divisions
from .space import BitSpace
from .species import SPECIES, Species
from .survival import SURVIVALS, Survival

Numbers = jax.Array | np.ndarray


@dataclass(frozen=True)
class NemoConfig:
    """What fixes shapes and branches. The paper's values are not known to us; these are ours."""

    population: int = 120  # N: members, and evaluations per generation, of all species together
    species: tuple[str, ...] = ("continuous", "floor")  # names in SPECIES
    survival: str = "nsga3"  # name in SURVIVALS
    divisions: int | None = None  # of NSGA-III's simplex; none: the most that give N directions or fewer
    archive_capacity: int = 1024
    demote_repeats: bool = True  # of equal bit-vectors one keeps its rank, the rest come behind all others

    def __post_init__(self):
        if not self.species:
            raise ValueError(f"species is empty: give at least one of {sorted(SPECIES)}")
        for name in self.species:
            if name not in SPECIES:
                raise ValueError(f"species holds {name!r}: the known ones are {sorted(SPECIES)}")
        if len(set(self.species)) != len(self.species):
            raise ValueError(f"species must be unique, got {list(self.species)}")
        for name in ("population", "archive_capacity"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        least = 2 * len(self.species)
        if self.population < least:
            raise ValueError(f"population must be at least {least}, 2 per species, got {self.population}")
        if self.survival not in SURVIVALS:
            raise ValueError(f"survival is {self.survival!r}: the known ones are {sorted(SURVIVALS)}")
        if self.divisions is not None and self.divisions < 1:
            raise ValueError(f"divisions must be at least 1 or none, got {self.divisions}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Members of each species at the start; they differ by at most one."""
        share, rest = divmod(self.population, len(self.species))
        return tuple(share + (s < rest) for s in range(len(self.species)))

    @property
    def slots(self) -> int:
        """C: places held for each species, living or not."""
        return max(self.sizes)


@struct.dataclass
class NemoState:
    """S species of C slots each, n quantizers, M objectives. Slot j of species s lives iff j < alloc[s]."""

    run_key: jax.Array  # (2,) uint32, data of the key that every generation's is folded from
    generation: jax.Array  # () int32, generations told
    evaluations: jax.Array  # () int32, candidates told, whether a cache had them or not
    params: tuple[Any, ...]  # each species' evosax parameters
    species: tuple[Any, ...]  # each species' evosax state
    bits: jax.Array  # (S, C, n) int32; bits[s, j] is always the decoded genotype j of species s
    costs: jax.Array  # (S, C, M) float32; +inf = not evaluated, failed or dead
    alloc: jax.Array  # (S,) int32, sums to N
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
    failed: Numbers  # () int32, candidates of this generation
    repeated: Numbers  # () int32, candidates whose bits were already in the population or batch
    alloc: Numbers  # (S,) int32, members of each species
    front: Numbers  # (S,) int32, those not dominated in the whole population


class Nemo(NamedTuple):
    """Pure functions; jit belongs to the caller. Build once and reuse: a new one compiles anew."""

    init: Callable[..., NemoState]  # key, seeds=None -> state
    ask: Callable[[NemoState], tuple[jax.Array, Ticket, NemoState]]  # -> bits (N, n) int32, ticket, state
    tell: Callable[..., tuple[NemoState, Metrics]]  # state, ticket, costs (N, M) -> state, metrics


def nemo(config: NemoConfig, space: BitSpace, num_objectives: int) -> Nemo:
    """The search over `space` with `num_objectives` costs, all minimised.

    Raises:
        ValueError: fewer than two objectives, or an archive smaller than their number.
    """
    if num_objectives < 2:
        raise ValueError(f"num_objectives must be at least 2, got {num_objectives}")
    count, slots, kinds = config.population, config.slots, len(config.species)
    worst = float(2 * kinds * slots)  # told for the dead: finite and all the same, as strategies expect
    init_archive(config.archive_capacity, space.size, num_objectives)  # for its ValueError
    survival = _survival(config, num_objectives)
    species = tuple(SPECIES[name](space, slots) for name in config.species)

    def init(key: jax.Array, seeds: Int[np.ndarray, "k n"] | None = None) -> NemoState:
        """Random members, with `seeds` in the place of the first of them; nothing is evaluated yet.

        Raises:
            ValueError: a key of another generator, too many seeds, or one outside the space.
        """
        given, usual = jax.random.key_impl(key), jax.random.key_impl(jax.random.key(0))
        if given != usual:
            raise ValueError(f"key must be of JAX's default generator {usual}, got {given}")
        planted = _plant(seeds, config, species, space)
        k_run, k_members = jax.random.split(key)
        states, bits = [], []
        for kind, k_init, size, own in zip(
            species, jax.random.split(k_members, kinds), config.sizes, planted, strict=True
        ):
            k_genotypes, k_state = jax.random.split(k_init)
            genotypes = kind.init(k_genotypes)
            if kind.encode is not None and len(own):
                genotypes = genotypes.at[: len(own)].set(kind.encode(jnp.asarray(own)))
            state = kind.algorithm.init(k_state, genotypes, jnp.full(slots, worst, jnp.float32), kind.params)
            states.append(state.replace(live=jnp.int32(size)) if hasattr(state, "live") else state)
            bits.append(kind.decode(genotypes))
        state = NemoState(
            run_key=jax.random.key_data(k_run),
            generation=jnp.int32(0),
            evaluations=jnp.int32(0),
            params=tuple(kind.params for kind in species),
            species=tuple(states),
            bits=jnp.stack(bits),
            costs=jnp.full((kinds, slots, num_objectives), jnp.inf, jnp.float32),
            alloc=jnp.asarray(config.sizes, jnp.int32),
            survival=survival.init(num_objectives),
            archive=init_archive(config.archive_capacity, space.size, num_objectives),
        )
        return jax.tree.map(_fixed, state)

    def ask(state: NemoState) -> tuple[jax.Array, Ticket, NemoState]:
        """N candidates: the initial members in generation 0, children after that."""
        k_children, _, _ = _keys(state)
        genotypes, states = [], []
        for kind, params, own, k_ask in zip(
            species, state.params, state.species, jax.random.split(k_children, kinds), strict=True
        ):
            children, asked = kind.algorithm.ask(k_ask, own, params)
            genotypes.append(jnp.where(state.generation == 0, own.population, children))
            states.append(asked)
        bits = jnp.stack([kind.decode(g) for kind, g in zip(species, genotypes, strict=True)])
        living = (jnp.arange(slots)[None] < state.alloc[:, None]).reshape(-1)
        packed = jnp.argsort(~living, stable=True)[:count].astype(jnp.int32)
        ticket = Ticket(tuple(genotypes), bits, packed)
        return bits.reshape(-1, space.size)[packed], ticket, replace(state, species=tuple(states))

    def tell(state: NemoState, ticket: Ticket, costs: Float[Array, "N M"]) -> tuple[NemoState, Metrics]:
        """Take the candidates' costs in; a row that is not finite throughout has failed.

        Raises:
            ValueError: costs of another shape than (N, M).
        """
        if costs.shape != (count, num_objectives):
            raise ValueError(f"costs must have the shape {(count, num_objectives)}, got {costs.shape}")
        _, k_survival, k_tell = _keys(state)
        costs = jnp.where(succeeded(costs)[:, None], costs, jnp.inf).astype(jnp.float32)
        told = jnp.full((kinds * slots, num_objectives), jnp.inf, jnp.float32).at[ticket.slots].set(costs)
        living = jnp.arange(slots)[None] < state.alloc[:, None]
        # Parents of all species before children of all species, so that ties keep the parent.
        everyone = _Joint(
            bits=jnp.stack([state.bits, ticket.bits]),
            costs=jnp.stack([state.costs, told.reshape(kinds, slots, num_objectives)]),
            living=jnp.stack([living, living]),
        )
        position, unique, survival_state = _joint_order(
            k_survival, survival, everyone, state.survival, config.demote_repeats
        )
        fitness = jnp.where(everyone.living, position.astype(jnp.float32), worst)

        states, bits, kept_costs = [], [], []
        keys = jax.random.split(k_tell, kinds)
        for s, (kind, params, own) in enumerate(zip(species, state.params, state.species, strict=True)):
            # Ranks hold for one generation only, so the parents' are renewed and evosax's record forgotten.
            own = own.replace(fitness=fitness[0, s], best_fitness=jnp.full_like(own.best_fitness, jnp.inf))
            parents = own.population
            own, _ = kind.algorithm.tell(keys[s], ticket.genotypes[s], fitness[1, s], own, params)
            # Survival is ours, whatever the strategy did: one permutation for genotypes, bits and costs.
            best = jnp.argsort(position[:, s].reshape(-1), stable=True)[:slots]
            genotypes = jnp.concatenate([parents, ticket.genotypes[s]])[best]
            score = jnp.where(living[s], fitness[:, s].reshape(-1)[best], worst)
            states.append(own.replace(population=genotypes, fitness=score))
            bits.append(everyone.bits[:, s].reshape(-1, space.size)[best])
            kept = everyone.costs[:, s].reshape(-1, num_objectives)[best]
            kept_costs.append(jnp.where(living[s][:, None], kept, jnp.inf))

        archive = update_archive(state.archive, ticket.bits.reshape(-1, space.size), told)
        new = replace(
            state,
            generation=state.generation + 1,
            evaluations=state.evaluations + count,
            species=tuple(states),
            bits=jnp.stack(bits),
            costs=jnp.stack(kept_costs),
            survival=survival_state,
            archive=archive,
        )
        valid = jnp.isfinite(told[:, 0]).reshape(kinds, slots)
        return new, Metrics(
            generation=new.generation,
            evaluations=new.evaluations,
            best=jnp.min(archive.costs, axis=0),
            archived=jnp.sum(archive.valid, dtype=jnp.int32),
            failed=count - jnp.sum(valid, dtype=jnp.int32),
            repeated=jnp.sum(valid & ~unique[1], dtype=jnp.int32),
            alloc=new.alloc,
            front=jnp.sum(
                non_dominated(new.costs.reshape(-1, num_objectives)).reshape(kinds, slots),
                axis=1,
                dtype=jnp.int32,
            ),
        )

    return Nemo(init, ask, tell)


class _Joint(NamedTuple):
    """Parents and children of all species, in this order along the first axis."""

    bits: Int[Array, "2 S C n"]
    costs: Float[Array, "2 S C M"]
    living: Bool[Array, "2 S C"]


def _joint_order(
    key: jax.Array, survival: Survival, everyone: _Joint, state: Any, demote_repeats: bool
) -> tuple[Int[Array, "2 S C"], Bool[Array, "2 S C"], Any]:
    """Position of each member in the one order of all, which are unique, and the survival's new state.

    First the members that succeeded (of equal bit-vectors only the first, if repeats are demoted),
    as the survival orders them; then repeats, failures and the dead, each by index.
    """
    shape = everyone.living.shape
    living = everyone.living.reshape(-1)
    costs = everyone.costs.reshape(-1, everyone.costs.shape[-1])
    valid = living & succeeded(costs)
    unique = first_copies(everyone.bits.reshape(-1, everyone.bits.shape[-1]), valid)
    ranked = unique if demote_repeats else valid
    order, state = survival.order(key, jnp.where(ranked[:, None], costs, jnp.inf), state)
    index = jnp.arange(living.size, dtype=jnp.int32)
    place = jnp.where(ranked, jnp.zeros_like(index).at[order].set(index), index)
    behind = jnp.where(ranked, 0, jnp.where(valid, 1, jnp.where(living, 2, 3)))
    position = jnp.zeros_like(index).at[jnp.lexsort((place, behind))].set(index)
    return position.reshape(shape), unique.reshape(shape), state


def _fixed(x: Any) -> jax.Array:
    """Of the type it will keep: evosax's Python numbers would change theirs in the first step, and recompile.

    32 bits also where JAX's 64-bit mode is on.
    """
    kind = jnp.result_type(x)
    return jnp.asarray(x, {"float64": jnp.float32, "int64": jnp.int32}.get(kind.name, kind))


def _survival(config: NemoConfig, num_objectives: int) -> Survival:
    if config.survival != "nsga3":
        return SURVIVALS[config.survival]()
    divisions = config.divisions or most_divisions(num_objectives, config.population)
    return SURVIVALS["nsga3"](divisions=divisions)


def _keys(state: NemoState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """This generation's keys for children, survival and the strategies' tell."""
    run_key = jax.random.wrap_key_data(state.run_key)
    k_children, k_survival, k_tell = jax.random.split(jax.random.fold_in(run_key, state.generation), 3)
    return k_children, k_survival, k_tell


def _plant(
    seeds: np.ndarray | None, config: NemoConfig, species: Sequence[Species], space: BitSpace
) -> list[np.ndarray]:
    """Deal the seeds in turn to the species that can encode a bit-vector, as far as they have room."""
    dealt: list[list[np.ndarray]] = [[] for _ in species]
    seeds = np.zeros((0, space.size), np.int32) if seeds is None else np.asarray(seeds, np.int32)
    if seeds.ndim != 2 or seeds.shape[1] != space.size:
        raise ValueError(f"seeds must have the shape (k, {space.size}), got {seeds.shape}")
    if not space.contains(seeds).all():
        row = int(np.argmin(space.contains(seeds)))
        raise ValueError(f"seeds[{row}] takes a bit-width that the space does not allow")
    open_to = [s for s, kind in enumerate(species) if kind.encode is not None]
    room = sum(config.sizes[s] for s in open_to)
    if len(seeds) > room:
        raise ValueError(f"seeds has {len(seeds)} rows, but there are {room} places for them")
    for seed in seeds:
        to = min((s for s in open_to if len(dealt[s]) < config.sizes[s]), key=lambda s: len(dealt[s]))
        dealt[to].append(seed)
    return [np.array(own, np.int32).reshape(-1, space.size) for own in dealt]
