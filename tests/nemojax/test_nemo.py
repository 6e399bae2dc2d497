"""The search as a whole: its invariants, an enumerated problem, failures, seeds, many runs at once."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax.algorithms import DifferentialEvolution
from jax.errors import KeyReuseError
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from moocore import hypervolume, is_nondominated

from nemojax.loop import run, run_chunk
from nemojax.nemo import NemoConfig, nemo
from nemojax.pareto import pareto_rank
from nemojax.space import BitSpace
from nemojax.species import SPECIES, Species

SIX = BitSpace.create([f"q{i}" for i in range(6)])
SMALL = NemoConfig(population=21, archive_capacity=64)

# An additive proxy of three layers, each with a weight and an activation quantizer (w0 a0 w1 a1 w2 a2).
SENSITIVITY = np.array([3, 1, 0.6, 0.9, 0.25, 0.4], np.float32)
PARAMETERS = np.array([1, 0, 9, 0, 16, 0], np.float32)
MACS = np.array([4, 9, 2], np.float32)


def proxy(bits):
    """Noise ~ 4^-bits, size ratio, bit-operation ratio; (k, 6) -> (k, 3)."""
    b = jnp.asarray(bits).astype(jnp.float32)
    noise = jnp.sum(SENSITIVITY[None] * 4.0 ** (2 - b), axis=1) / SENSITIVITY.sum()
    size = jnp.sum(PARAMETERS[None] * b, axis=1) / (32 * PARAMETERS.sum())
    work = jnp.sum(MACS[None] * jnp.maximum(b[:, ::2], b[:, 1::2]), axis=1) / (32 * MACS.sum())
    return jnp.stack([noise, size, work], axis=1)


def with_failures(bits):
    """NaN wherever the first two bit-widths are equal, +inf in one objective where the last is 5."""
    costs = proxy(bits)
    costs = jnp.where((bits[:, 0] == bits[:, 1])[:, None], jnp.nan, costs)
    return costs.at[:, 0].set(jnp.where(bits[:, 5] == 5, jnp.inf, costs[:, 0]))


@pytest.fixture(scope="module")
def small():
    """A search of 11 + 10 members in 11 slots each, with jitted ask and tell."""
    algo = nemo(SMALL, SIX, 3)
    return algo._replace(ask=jax.jit(algo.ask), tell=jax.jit(algo.tell))


def check_invariants(algo_species, state, evaluate, population):
    """What holds after every generation, whatever happened."""
    for leaf in jax.tree.leaves(state):
        assert not np.isnan(np.asarray(leaf, np.float64)).any()
    assert int(state.alloc.sum()) == population
    slots = state.bits.shape[1]
    for s, (kind, own) in enumerate(zip(algo_species, state.species, strict=True)):
        np.testing.assert_array_equal(kind.decode(own.population), state.bits[s])
        live = int(state.alloc[s])
        assert np.isinf(state.costs[s, live:]).all()
        true = np.asarray(evaluate(state.bits[s]))
        known = np.isfinite(state.costs[s]).all(axis=1)
        np.testing.assert_allclose(np.asarray(state.costs[s])[known], true[known], rtol=1e-6)
        assert (np.diff(own.fitness[:live]) > 0).all(), "positions are distinct and ascending"
        assert np.isfinite(own.fitness).all()
        np.testing.assert_array_equal(own.fitness[live:], 2 * len(algo_species) * slots)  # the dead


# Configuration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": ()}, "species is empty"),
        (
            {"species": ("continuous", "gcn")},
            r"species holds 'gcn': the known ones are \['continuous'",
        ),
        ({"species": ("floor", "floor")}, "species must be unique"),
        ({"population": 3}, "population must be at least 4, 2 per species, got 3"),
        ({"population": True}, "population must be a whole number of at least 1, got True"),
        ({"archive_capacity": 0}, "archive_capacity must be a whole number of at least 1, got 0"),
        ({"survival": "nsga4"}, r"survival is 'nsga4': the known ones are \['nsga2', 'nsga3'\]"),
        ({"divisions": 0}, "divisions must be at least 1 or none, got 0"),
    ],
)
def test_configuration_errors_name_field_and_value(change, message):
    with pytest.raises(ValueError, match=message):
        NemoConfig(**change)


def test_construction_errors():
    with pytest.raises(ValueError, match="num_objectives must be at least 2, got 1"):
        nemo(SMALL, SIX, 1)
    with pytest.raises(ValueError, match="at least the number of objectives 3, got 2"):
        nemo(NemoConfig(archive_capacity=2), SIX, 3)


def test_sizes_differ_by_at_most_one():
    assert SMALL.sizes == (11, 10)
    assert SMALL.slots == 11
    assert NemoConfig().sizes == (60, 60)


# One generation


def test_generation_0_asks_for_the_initial_members(small):
    state = small.init(jax.random.key(0))
    bits, ticket, asked = small.ask(state)
    assert bits.shape == (21, 6)
    assert bits.dtype == jnp.int32
    np.testing.assert_array_equal(bits, np.concatenate([state.bits[0], state.bits[1, :10]]))
    state, metrics = small.tell(asked, ticket, proxy(bits))
    assert int(state.generation) == int(metrics.generation) == 1
    assert int(state.evaluations) == int(metrics.evaluations) == 21
    later, _, _ = small.ask(state)
    assert not np.array_equal(later, bits)


@pytest.mark.parametrize("evaluate", [proxy, with_failures])
def test_invariants_hold_in_every_generation(small, evaluate):
    species = [SPECIES[name](SIX, SMALL.slots) for name in SMALL.species]
    state, seen = small.init(jax.random.key(1)), []
    for generation in range(12):
        bits, ticket, state = small.ask(state)
        assert SIX.contains(np.asarray(bits)).all()
        costs = evaluate(bits)
        state, metrics = small.tell(state, ticket, costs)
        seen.append((np.asarray(bits), np.asarray(costs)))
        check_invariants(species, state, evaluate, 21)
        positions = np.concatenate(
            [own.fitness[:live] for own, live in zip(state.species, (11, 10), strict=True)]
        )
        assert len(set(positions)) == 21
        assert int(metrics.failed) == (~np.isfinite(seen[-1][1])).any(axis=1).sum()
        assert int(metrics.evaluations) == 21 * (generation + 1)
        np.testing.assert_array_equal(metrics.alloc, [11, 10])
        everything = np.concatenate([c for _, c in seen])
        everything = everything[np.isfinite(everything).all(axis=1)]
        np.testing.assert_array_equal(metrics.best, everything.min(axis=0))
        front = np.unique(everything[is_nondominated(everything.astype(float))], axis=0)
        found = np.asarray(state.archive.costs)[np.asarray(state.archive.valid)]
        np.testing.assert_array_equal(np.unique(found, axis=0), front)
        assert int(metrics.archived) == state.archive.valid.sum()


def test_each_species_keeps_its_best_by_the_joint_order(small):
    """No member that a species drops is on an earlier front than one that it keeps."""
    state = small.init(jax.random.key(2))
    for _ in range(4):
        before = state
        bits, ticket, state = small.ask(state)
        state, _ = small.tell(state, ticket, proxy(bits))
    everyone = np.concatenate([before.costs.reshape(-1, 3), proxy(ticket.bits.reshape(-1, 6))])
    genomes = np.concatenate([before.bits.reshape(-1, 6), ticket.bits.reshape(-1, 6)])
    _, first = np.unique(genomes, axis=0, return_index=True)
    unique = np.isin(np.arange(len(genomes)), first)
    everyone[~unique] = np.inf
    everyone[[21, 43]] = np.inf  # the dead slot of species 1, as parent and as child
    rank = np.asarray(pareto_rank(jnp.asarray(everyone))).reshape(2, 2, 11)
    for s in range(2):
        kept = {tuple(row) for row in np.asarray(state.bits[s])[: int(state.alloc[s])]}
        ranks = {
            tuple(b): r
            for b, r, u in zip(
                np.concatenate([before.bits[s], ticket.bits[s]]),
                rank[:, s].reshape(-1),
                unique.reshape(2, 2, 11)[:, s].reshape(-1),
                strict=True,
            )
            if u
        }
        own_first = set(ranks)
        if len(own_first) > len(kept):
            assert max(ranks[b] for b in kept & own_first) <= min(ranks[b] for b in own_first - kept)


def test_the_strategys_own_tell_agrees_with_the_core(small):
    """Telling the published species directly gives the population that the core writes."""
    species = [SPECIES[name](SIX, SMALL.slots) for name in SMALL.species]
    state = small.init(jax.random.key(3))
    for _ in range(3):
        before = state
        bits, ticket, state = small.ask(state)
        state, _ = small.tell(state, ticket, proxy(bits))
    for s, kind in enumerate(species):
        live = int(state.alloc[s])
        own = np.asarray(state.species[s].population[:live])
        both = np.concatenate([before.species[s].population, ticket.genotypes[s]])
        # The positions the core told are not kept for the dropped; any that are larger will do.
        score = np.full(len(both), 1000.0)
        for row, value in zip(own, np.asarray(state.species[s].fitness), strict=False):
            score[np.flatnonzero((both == row).all(axis=1) & (score == 1000.0))[0]] = value
        told, _ = kind.algorithm.tell(
            jax.random.key(0),
            ticket.genotypes[s],
            jnp.asarray(score[11:], jnp.float32),
            before.species[s].replace(fitness=jnp.asarray(score[:11], jnp.float32)),
            kind.params,
        )
        np.testing.assert_array_equal(told.population[:live], own)
        assert float(state.species[s].best_fitness) >= 0


def test_best_fitness_is_of_this_generation_only(small):
    """Positions of different generations do not compare: evosax's record is the best child's position."""
    state = small.init(jax.random.key(4))
    for _ in range(6):
        bits, ticket, state = small.ask(state)
        state, _ = small.tell(state, ticket, proxy(bits))
    worst = jnp.full((21, 3), jnp.inf)
    bits, ticket, state = small.ask(state)
    state, _ = small.tell(state, ticket, worst)
    assert all(float(own.best_fitness) >= 21 for own in state.species)


def test_a_generation_of_failures_changes_no_member(small):
    state = small.init(jax.random.key(5))
    for _ in range(3):
        bits, ticket, state = small.ask(state)
        state, _ = small.tell(state, ticket, proxy(bits))
    _, ticket, asked = small.ask(state)
    after, metrics = small.tell(asked, ticket, jnp.full((21, 3), jnp.nan))
    assert int(metrics.failed) == 21
    for s, live in enumerate((11, 10)):
        before = {tuple(row) for row in np.asarray(state.bits[s, :live])}
        assert {tuple(row) for row in np.asarray(after.bits[s, :live])} == before
    np.testing.assert_array_equal(after.archive.costs, state.archive.costs)


def test_costs_of_the_wrong_shape_are_refused(small):
    _, ticket, state = small.ask(small.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"costs must have the shape \(21, 3\), got \(21, 2\)"):
        small.tell(state, ticket, jnp.zeros((21, 2)))


@pytest.mark.parametrize("demote", [True, False])
def test_repeats_come_behind_every_other_member(demote):
    """Four configurations, eight members: the four have the first positions if repeats are demoted."""
    space = BitSpace.create(["a", "b"], bits=(2, 8))
    config = NemoConfig(
        population=8, species=("floor",), survival="nsga2", archive_capacity=8, demote_repeats=demote
    )
    algo = nemo(config, space, 2)

    def evaluate(bits):  # all four are on the front
        b = bits.astype(jnp.float32)
        return jnp.stack([b[:, 0] - 0.1 * b[:, 1], -b[:, 0] + 0.05 * b[:, 1]], axis=1) + 10

    state = algo.init(jax.random.key(0), np.array([[2, 2], [2, 8], [8, 2], [8, 8]]))
    step = jax.jit(lambda s: run_chunk(algo, evaluate, s, 2))
    after, _ = step(state)
    assert np.isfinite(after.costs).all(), "repeats come before what was never evaluated"
    state, metrics = step(after)
    first = state.bits[0, :4]  # a species holds its members in the order of their positions
    assert (len(np.unique(first, axis=0)) == 4) == demote
    assert (np.asarray(metrics.repeated) == 8).all()
    assert int(metrics.archived[-1]) == 4


# Seeds


def test_seeds_are_among_the_first_candidates(small):
    seeds = np.stack([SIX.uniform(b) for b in PAPER])
    state = small.init(jax.random.key(0), seeds)
    bits, _, _ = small.ask(state)
    assert {tuple(s) for s in seeds} <= {tuple(b) for b in np.asarray(bits)}
    np.testing.assert_array_equal(state.bits[0, :4], seeds[::2])
    np.testing.assert_array_equal(state.bits[1, :3], seeds[1::2])
    full = small.init(jax.random.key(0), np.tile(seeds, (3, 1)))
    np.testing.assert_array_equal(
        np.unique(np.concatenate([full.bits[0], full.bits[1, :10]]), axis=0), np.unique(seeds, axis=0)
    )


PAPER = (2, 3, 4, 5, 6, 7, 8)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (np.full((22, 6), 4), "seeds has 22 rows, but there are 21 places"),
        (
            np.array([[4] * 6, [4, 4, 9, 4, 4, 4]]),
            r"seeds\[1\] takes a bit-width that the space does",
        ),
        (np.full((2, 5), 4), r"seeds must have the shape \(k, 6\), got \(2, 5\)"),
    ],
)
def test_seed_errors(small, seeds, message):
    with pytest.raises(ValueError, match=message):
        small.init(jax.random.key(0), seeds)


# The enumerated problem


@pytest.fixture(scope="module")
def enumerated():
    """The configurations on the front, and its hypervolume."""
    everything = np.array(list(itertools.product(range(2, 9), repeat=6)), np.int32)
    costs = np.asarray(jax.jit(proxy)(everything), np.float64)
    on_front = is_nondominated(costs, keep_weakly=True)
    return {tuple(row) for row in everything[on_front]}, hypervolume(costs[on_front], ref=[1.1] * 3)


@pytest.mark.parametrize("survival", ["nsga3", pytest.param("nsga2", marks=pytest.mark.slow)])
def test_recovers_the_enumerated_front(survival, enumerated):
    """All 7^6 = 117,649 configurations; 953 are on the front. 50 generations of 120, three runs.

    A run must find 30 % of the front by 6,000 evaluations and 99.5 % of its hypervolume; as many
    uniform draws find about 5 %, and must stay below a quarter of the run's share.
    """
    front, volume = enumerated
    assert len(front) == 953
    algo = nemo(NemoConfig(survival=survival), SIX, 3)
    for seed in range(3):
        state, metrics = run(algo, proxy, algo.init(jax.random.key(seed)), generations=50, every=50)
        assert metrics.evaluations[-1] == 6000
        valid = np.asarray(state.archive.valid)
        found = {tuple(row) for row in np.asarray(state.archive.bits)[valid]}
        random = {tuple(row) for row in np.random.default_rng(seed).integers(2, 9, (6000, 6))}
        share = len(found & front) / len(front)
        assert share >= 0.3
        assert len(random & front) / len(front) <= share / 4
        found_costs = np.asarray(state.archive.costs, np.float64)[valid]
        assert hypervolume(found_costs, ref=[1.1] * 3) >= 0.995 * volume


# Several runs, plug-ins, keys


@pytest.fixture(scope="module")
def four_runs():
    """A search, four keys, and the states and metrics of the four runs under vmap."""
    algo = nemo(replace(SMALL, survival="nsga2", species=("floor",)), SIX, 3)
    keys = jax.random.split(jax.random.key(7), 4)
    together = jax.jit(jax.vmap(lambda key: run_chunk(algo, proxy, algo.init(key), 5)))
    return algo, keys, together, together(keys)


def test_vmapped_runs_equal_separate_ones(four_runs):
    algo, keys, _, batch = four_runs
    for row in range(4):
        one = run(algo, proxy, algo.init(keys[row]), generations=5, every=5)
        for x, y in zip(*map(jax.tree.leaves, (one, batch)), strict=True):
            np.testing.assert_array_equal(x, y[row].reshape(x.shape))


@pytest.mark.slow
def test_runs_sharded_over_devices_equal_those_on_one(four_runs):
    _, keys, together, batch = four_runs
    mesh = jax.make_mesh((4,), ("run",), axis_types=(AxisType.Auto,))
    sharded = together(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("run"))))
    assert len(jax.tree.leaves(sharded)[0].sharding.device_set) == 4
    for x, y in zip(*map(jax.tree.leaves, (sharded, batch)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_an_evosax_strategy_is_one_more_species(monkeypatch):
    """Differential evolution on real bit-widths, rounded; nothing of it is known to the core."""

    def evolution(space, size):
        algorithm = DifferentialEvolution(size, jnp.zeros(space.size))
        params = algorithm.default_params.replace(elitism=False)
        return Species(
            algorithm=algorithm,
            params=params,
            init=lambda key: space.sample(key, size).astype(jnp.float32),
            decode=jax.vmap(space.nearest),
            encode=None,
        )

    monkeypatch.setitem(SPECIES, "differential evolution", evolution)
    config = replace(SMALL, population=30, survival="nsga2", species=("differential evolution", "floor"))
    algo = nemo(config, SIX, 3)
    species = [SPECIES[name](SIX, config.slots) for name in config.species]
    state = algo.init(jax.random.key(0), np.full((2, 6), 8))
    assert (np.asarray(state.bits[1, :2]) == 8).all(), "seeds go to the species that can encode them"
    first = state.bits
    with jax.numpy_dtype_promotion("standard"):  # evosax needs it here
        state, metrics = jax.jit(lambda s: run_chunk(algo, proxy, s, 20))(state)
    check_invariants(species, state, proxy, 30)
    assert not np.array_equal(first[0], state.bits[0])
    assert int(metrics.front[-1, 0]) > 0


def test_no_key_is_used_twice():
    """The check runs while tracing; the second half shows that it would notice."""
    algo = nemo(SMALL, SIX, 3)

    def generation(state):
        bits, ticket, state = algo.ask(state)
        return algo.tell(state, ticket, proxy(bits))

    with jax.debug_key_reuse(True):
        jax.jit(generation).trace(algo.init(jax.random.key(0)))
        twice = jax.jit(lambda key: jax.random.bits(key) + jax.random.bits(key))
        with pytest.raises(KeyReuseError):
            twice.trace(jax.random.key(0))


def test_different_keys_differ_and_equal_keys_agree(small):
    a, b, c = (small.ask(small.init(jax.random.key(k)))[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
