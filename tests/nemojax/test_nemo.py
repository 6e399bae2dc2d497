"""One generation after another: what always holds, failures, repeats, seeds, keys."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import KeyReuseError
from jaxtyping import TypeCheckError
from moocore import is_nondominated

from nemojax.config import NemoConfig, Resize
from nemojax.loop import run_chunk
from nemojax.nemo import nemo
from nemojax.pareto import pareto_rank
from nemojax.space import BitSpace
from nemojax.species import SPECIES, Setting

SIX = BitSpace.create([f"q{i}" for i in range(6)])
SMALL = NemoConfig(  # sizes stay as they are, and the archive has room for all of 12 generations
    population=21, species=("continuous", "floor"), archive_capacity=256, resize=Resize(rule="equal")
)

SETTING = Setting(SIX, SMALL.slots, SMALL, None)

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
    """A search of 11 + 10 members in 11 slots each, with jitted ask and tell, each compiled once."""
    algo = nemo(SMALL, SIX, 3)
    told = jax.jit(algo.tell)

    def tell(state, ticket, costs, over=0.0):
        over = jnp.full(21, over, jnp.float32) if jnp.ndim(over) == 0 else over
        return told(state, ticket, jnp.asarray(costs, jnp.float32), over)

    return algo._replace(ask=jax.jit(algo.ask), tell=tell)


def check_invariants(algo_species, state, evaluate, population):
    """What holds after every generation, whatever happened."""
    for leaf in jax.tree.leaves(state):
        assert not np.isnan(np.asarray(leaf, np.float64)).any()
    assert int(state.alloc.sum()) == population
    slots = state.bits.shape[1]
    for s, (kind, own) in enumerate(zip(algo_species, state.species, strict=True)):
        live = int(state.alloc[s])
        decoded = kind.decode(jax.random.key(0), own.population, live)[:live]
        np.testing.assert_array_equal(decoded, state.bits[s, :live])
        assert np.isinf(state.costs[s, live:]).all()
        true = np.asarray(evaluate(state.bits[s]))
        known = np.isfinite(state.costs[s]).all(axis=1)
        np.testing.assert_allclose(np.asarray(state.costs[s])[known], true[known], rtol=1e-6)
        assert (np.diff(own.fitness[:live]) > 0).all(), "positions are distinct and ascending"
        assert np.isfinite(own.fitness).all()
        np.testing.assert_array_equal(own.fitness[live:], 2 * len(algo_species) * slots)  # the dead


# Construction


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": ("continuous", "gnc")}, r"species holds 'gnc': the known ones are \['CMA_ES'"),
        ({"survival": "nsga4"}, r"survival is 'nsga4': the known ones are \['nsga2', 'nsga3'\]"),
        ({"archive_capacity": 2}, "at least the number of objectives 3, got 2"),
        ({"species": ("floor", "gcn")}, "species 'gcn' needs a graph of the space's 6 quantizers, got none"),
    ],
)
def test_what_cannot_be_built_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        nemo(replace(SMALL, **change), SIX, 3)


def test_objectives_and_their_scale_are_checked():
    with pytest.raises(ValueError, match="num_objectives must be at least 2, got 1"):
        nemo(SMALL, SIX, 1)
    for scale in ([1.0, 1.0], [1.0, 0.0, 1.0], [1.0, np.inf, 1.0]):
        with pytest.raises(ValueError, match="scale must be 3 positive numbers"):
            nemo(SMALL, SIX, 3, scale=scale)


def test_a_key_of_another_generator_is_refused(small):
    """Only the numbers of the key are saved, so its generator must be the one assumed on loading."""
    with pytest.raises(ValueError, match="key must be of JAX's default generator threefry2x32, got rbg"):
        small.init(jax.random.key(0, impl="rbg"))


# One generation


def test_generation_0_asks_for_the_initial_members(small):
    state = small.init(jax.random.key(0))
    bits, ticket, asked = small.ask(state)
    assert bits.shape == (21, 6)
    assert bits.dtype == jnp.int32
    genes = [own.population[:live] for own, live in zip(state.species, (11, 10), strict=True)]
    np.testing.assert_array_equal(bits, np.concatenate(genes))  # whole numbers of bits to start with
    assert not np.asarray(state.bits).any(), "nothing is decoded before it is asked for"
    state, metrics = small.tell(asked, ticket, proxy(bits))
    assert int(state.generation) == int(metrics.generation) == 1
    assert int(state.evaluations) == int(metrics.evaluations) == 21
    later, _, _ = small.ask(state)
    assert not np.array_equal(later, bits)


@pytest.mark.parametrize("evaluate", [proxy, with_failures])
def test_invariants_hold_in_every_generation(small, evaluate):
    species = [SPECIES[name](SETTING) for name in SMALL.species]
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
    species = [SPECIES[name](SETTING) for name in SMALL.species]
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
    with pytest.raises((ValueError, TypeCheckError), match="violation"):  # whoever looks first
        small.tell(state, ticket, jnp.zeros((21, 3)), jnp.zeros(20))


@pytest.mark.long
@pytest.mark.parametrize("demote", [True, False])
def test_repeats_come_behind_every_other_member(demote):
    """Four configurations, eight members: the four have the first positions if repeats are demoted."""
    space = BitSpace.create(["a", "b"], bits=(2, 8))
    config = NemoConfig(
        population=8,
        species=("floor",),
        survival="nsga2",
        archive_capacity=8,
        demote_repeats=demote,
        resize=Resize(rule="equal"),
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
    np.testing.assert_array_equal(bits[:4], seeds[::2])
    np.testing.assert_array_equal(bits[11:14], seeds[1::2])
    full = small.init(jax.random.key(0), np.tile(seeds, (3, 1)))
    np.testing.assert_array_equal(np.unique(small.ask(full)[0], axis=0), np.unique(seeds, axis=0))
    assert small.room == 21


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


def test_genotypes_are_handed_over_to_their_species(small):
    """More than the species has members for: the first are taken, also in the place of seeds."""
    genes = np.random.default_rng(0).uniform(2, 8, (12, 6)).astype(np.float32)
    state = small.init(jax.random.key(0), np.full((1, 6), 5), {"floor": genes})
    np.testing.assert_array_equal(state.species[1].population[:10], genes[:10])
    np.testing.assert_array_equal(state.species[0].population[0], np.full(6, 5))
    np.testing.assert_array_equal(small.ask(state)[0][11:], np.floor(genes[:10]))


@pytest.mark.parametrize(
    ("genotypes", "message"),
    [
        ({"gcn": np.zeros((1, 6))}, r"genotypes holds 'gcn', the species are \['continuous', 'floor'\]"),
        ({"floor": np.zeros((1, 5))}, r"genotypes of 'floor' must be finite \(k, 6\), got shape \(1, 5\)"),
        ({"floor": np.zeros(6)}, r"genotypes of 'floor' must be finite \(k, 6\), got shape \(6,\)"),
        ({"floor": np.full((1, 6), np.nan)}, "genotypes of 'floor' must be finite"),
    ],
)
def test_genotype_errors(small, genotypes, message):
    with pytest.raises(ValueError, match=message):
        small.init(jax.random.key(0), None, genotypes)


# Budgets


def beyond(bits):
    """Excess over a budget of 30 bits in all, in bits; costs of those beyond are not known."""
    over = jnp.maximum(jnp.sum(bits, axis=1) - 30, 0).astype(jnp.float32)
    return jnp.where(over[:, None] > 0, jnp.inf, proxy(bits)), over


def test_candidates_beyond_a_budget_rank_by_excess_and_are_not_archived(small):
    state, counts = small.init(jax.random.key(4)), []
    for _ in range(6):
        bits, ticket, state = small.ask(state)
        costs, over = beyond(bits)
        costs = jnp.where(bits[:, :1] == 2, jnp.nan, costs)  # failures, some of them beyond the budget, too
        state, metrics = small.tell(state, ticket, costs, over)
        failed = np.isnan(costs).any(axis=1) & (np.asarray(over) == 0)
        assert int(metrics.over_budget) == (np.asarray(over) > 0).sum()
        assert int(metrics.failed) == failed.sum()
        counts.append((int(metrics.over_budget), int(metrics.failed)))
        archived = np.asarray(state.archive.bits)[np.asarray(state.archive.valid)]
        assert (archived.sum(axis=1) <= 30).all()
        for s, live in enumerate((11, 10)):
            excess = np.maximum(np.asarray(state.bits[s, :live]).sum(axis=1) - 30, 0)
            np.testing.assert_array_equal(state.violation[s, :live], excess)
            # Members stand in the order of their positions: within, then beyond by excess, then failed.
            known = np.isfinite(state.costs[s, :live]).all(axis=1)
            kind = np.where(excess > 0, 1, np.where(known, 0, 2))
            assert (np.diff(kind) >= 0).all()
            assert (np.diff(excess[kind == 1]) >= 0).all()
    assert max(over for over, _ in counts) > 0 < max(failed for _, failed in counts)
    assert len(archived) > 3


# Keys


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


def test_64_bit_mode_changes_no_type():
    """A scan refuses a state whose types change from one step to the next; it does so while tracing."""
    algo = nemo(SMALL, SIX, 3)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        state = algo.init(jax.random.key(0))
        jax.jit(lambda s: run_chunk(algo, proxy, s, 2)).trace(state)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32", "uint32", "bool"}


def test_an_objective_in_other_units_leaves_the_search_alone(small):
    """Seconds for microseconds, or almost so: a power of two changes no rounding."""
    size = np.array([1, 1, 2.0**-20], np.float32)
    scaled = nemo(SMALL, SIX, 3, scale=size, units=size)
    ask, tell = jax.jit(scaled.ask), jax.jit(scaled.tell)
    one, two = small.init(jax.random.key(3)), scaled.init(jax.random.key(3))
    for _ in range(3):
        rows, ticket, one = small.ask(one)
        others, other_ticket, two = ask(two)
        np.testing.assert_array_equal(rows, others)
        costs = proxy(rows)
        one, _ = small.tell(one, ticket, costs)
        two, _ = tell(two, other_ticket, costs * size[None])
    np.testing.assert_array_equal(one.bits, two.bits)
    np.testing.assert_array_equal(one.costs * size[None, None], two.costs)
    for a, b in zip(jax.tree.leaves(one.survival), jax.tree.leaves(two.survival), strict=True):
        np.testing.assert_array_equal(a, b)
