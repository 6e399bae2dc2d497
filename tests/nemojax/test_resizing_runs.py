"""Species that change their sizes: all four in one scan, refills, the preset of the paper, resuming."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egrljax.checkpoint import load_state, save_state
from nemojax.config import Graph, NemoConfig, Resize, preset
from nemojax.loop import run, run_chunk
from nemojax.nemo import nemo
from nemojax.quantizer_graph import chain_graph
from nemojax.space import BitSpace
from nemojax.species import SPECIES, Setting

pytestmark = pytest.mark.long  # `make test-long`

SIX = BitSpace.create([f"q{i}" for i in range(6)])
POLICY = Graph(hidden=8, heads=2, depth=1)
GENERATIONS = 60

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


@dataclass
class Record:
    """What every generation left, generations first."""

    config: NemoConfig
    traces: int
    candidates: np.ndarray  # (T, N, 6)
    state: Any
    metrics: Any
    decoded: np.ndarray  # (T, S, C, 6), what the genotypes decode to

    @property
    def alloc(self):
        return self.state.alloc

    def living(self, table):
        """Rows of living members of a (T, S, C, ...) table, all generations together."""
        slots = np.arange(table.shape[2])
        return table[slots[None, None] < self.alloc[:, :, None]]


def record(config, generations=GENERATIONS, seed=0):
    graph, traces = chain_graph(6), []
    algo = nemo(config, SIX, 3, graph=graph)
    kinds = [SPECIES[name](Setting(SIX, config.slots, config, graph)) for name in config.species]

    def generation(state, _):
        traces.append(1)
        bits, ticket, state = algo.ask(state)
        costs = proxy(bits)
        state, metrics = algo.tell(state, ticket, costs)
        decoded = [
            kind.decode(jax.random.key(0), own.population, live)
            for kind, own, live in zip(kinds, state.species, state.alloc, strict=True)
        ]
        return state, (bits, costs, state, metrics, jnp.stack(decoded))

    many = jax.jit(lambda key: jax.lax.scan(generation, algo.init(key), length=generations)[1])
    bits, costs, state, metrics, decoded = many(jax.random.key(seed))
    told = SimpleNamespace(
        evaluated=np.asarray(costs).reshape(-1, 3),
        bits=np.asarray(state.bits),
        costs=np.asarray(state.costs),
        alloc=np.asarray(state.alloc),
        fitness=np.stack([own.fitness for own in state.species], axis=1),
        archived=np.asarray(state.archive.costs)[-1][np.asarray(state.archive.valid)[-1]],
    )
    return Record(config, len(traces), np.asarray(bits), told, jax.device_get(metrics), np.asarray(decoded))


@pytest.fixture(scope="module")
def whole():
    """Whole NEMO: four species, sizes that move, one trace."""
    return record(NemoConfig(population=24, archive_capacity=512, graph=POLICY))


def test_whole_nemo_is_traced_once(whole):
    assert whole.traces == 1
    assert whole.candidates.shape == (GENERATIONS, 24, 6)
    np.testing.assert_array_equal(whole.metrics.evaluations, 24 * np.arange(1, GENERATIONS + 1))


def test_sizes_sum_to_the_population_and_stay_within_their_bounds(whole):
    np.testing.assert_array_equal(whole.alloc.sum(axis=1), 24)
    assert whole.alloc.min() >= whole.config.least
    assert whole.alloc.max() <= whole.config.slots
    assert len(np.unique(whole.alloc, axis=0)) > 3, "they move"
    np.testing.assert_array_equal(whole.metrics.alloc, whole.alloc)


def test_no_species_more_than_doubles_or_halves(whole):
    sizes = np.concatenate([[whole.config.sizes], whole.alloc])
    assert (sizes[1:] <= 2 * sizes[:-1]).all()
    assert (2 * sizes[1:] >= sizes[:-1]).all()


def test_a_living_genotype_decodes_to_its_bits(whole):
    np.testing.assert_array_equal(whole.living(whole.decoded), whole.living(whole.state.bits))
    assert SIX.contains(whole.candidates.reshape(-1, 6)).all()


def test_costs_of_the_living_are_their_evaluation(whole):
    """All but in the first generation, when parents were never evaluated apart from the children."""
    bits, costs = whole.living(whole.state.bits), whole.living(whole.state.costs)
    known = np.isfinite(costs).all(axis=1)
    np.testing.assert_allclose(costs[known], np.asarray(proxy(bits))[known], rtol=1e-6)
    assert (~known).sum() <= 24
    last = whole.state.costs[-1][np.arange(whole.config.slots)[None] < whole.alloc[-1][:, None]]
    assert np.isfinite(last).all()


def test_the_dead_are_unknown_and_ranked_alike(whole):
    slots = np.arange(whole.config.slots)
    dead = slots[None, None] >= whole.alloc[:, :, None]
    assert np.isinf(whole.state.costs[dead]).all()
    fitness = whole.state.fitness
    np.testing.assert_array_equal(fitness[dead], 2 * 4 * whole.config.slots)
    assert (fitness[~dead] < 2 * 24).all()
    for t in range(GENERATIONS):
        kept = fitness[t][~dead[t]]
        assert len(np.unique(kept)) == 24, "positions are distinct"


def test_the_archive_is_the_front_of_everything(whole):
    costs = whole.state.evaluated
    archived = whole.state.archived
    for row in archived:
        assert not ((archived <= row).all(1) & (archived < row).any(1)).any()
        assert not ((costs <= row).all(1) & (costs < row).any(1)).any()
    np.testing.assert_array_equal(whole.metrics.best[-1], costs.min(axis=0))
    assert whole.metrics.archived[-1] == len(archived) > 24


def test_utilities_decide_the_sizes(whole):
    """Over the run, species of higher utility have more members."""
    later = slice(10, None)
    utility = whole.metrics.utility[later].mean(axis=0)
    share = whole.alloc[later].mean(axis=0)
    assert share[np.argmax(utility)] > share[np.argmin(utility)]
    assert (whole.metrics.utility >= 0).all()
    assert np.isfinite(whole.metrics.r2).all()


@pytest.mark.long
def test_strategies_are_told_a_permutation(monkeypatch):
    """Living parents and children have the positions 0 to 2N - 1; all others the same finite worst."""
    told = []

    def recorded(make):
        def build(setting):
            species = make(setting)
            tell = species.algorithm.tell

            def watched(key, population, fitness, state, params):
                jax.debug.callback(
                    lambda *seen: told.append(np.stack(seen)), state.fitness, fitness, ordered=True
                )
                return tell(key, population, fitness, state, params)

            species.algorithm.tell = watched
            return species

        return build

    config = NemoConfig(population=15, species=("continuous", "floor"), survival="nsga2")
    for name in config.species:
        monkeypatch.setitem(SPECIES, name, recorded(SPECIES[name]))
    algo = nemo(config, SIX, 3)
    state = algo.init(jax.random.key(0))
    _, metrics = jax.block_until_ready(jax.jit(lambda s: run_chunk(algo, proxy, s, 8))(state))
    jax.effects_barrier()
    sizes = np.concatenate([[config.sizes], metrics.alloc])
    assert len(told) == 16
    for t in range(8):
        both = np.stack(told[2 * t : 2 * t + 2])  # species, parents and children, slots
        alive = np.arange(config.slots)[None] < sizes[t][:, None]
        alive = np.broadcast_to(alive[:, None], both.shape)
        np.testing.assert_array_equal(np.sort(both[alive]), np.arange(30))
        np.testing.assert_array_equal(both[~alive], 2 * 2 * config.slots)
    assert len(np.unique(sizes, axis=0)) > 1


# Without a limit to the change of sizes


def free(refill, **changes):
    rules = Resize(rate_limited=False, refill=refill, least=1, exploration=0.0, smoothing=0.0, **changes)
    kinds = ("continuous", "floor", "mlp")  # of three, one can grow from 7 to 18
    return NemoConfig(population=20, species=kinds, archive_capacity=64, resize=rules, graph=POLICY)


@pytest.mark.parametrize(
    "refill", [pytest.param("fresh", marks=pytest.mark.long), pytest.param("repeats", marks=pytest.mark.slow)]
)
def test_sizes_may_jump_and_the_new_places_are_filled(refill):
    found = record(free(refill), generations=30)
    sizes = np.concatenate([[found.config.sizes], found.alloc])
    np.testing.assert_array_equal(sizes.sum(axis=1), 20)
    assert sizes.min() >= 1
    jumps = sizes[1:] > 2 * sizes[:-1]
    assert jumps.any()
    np.testing.assert_array_equal(found.living(found.decoded), found.living(found.state.bits))
    assert SIX.contains(found.living(found.state.bits)).all()
    assert (found.metrics.evaluations == 20 * np.arange(1, 31)).all(), "refills cost no evaluation"
    for t, s in np.argwhere(jumps):
        costs = found.state.costs[t, s, : found.alloc[t, s]]
        known = np.isfinite(costs).all(axis=1)
        # So many of its parents and children were evaluated, each with costs of its own.
        assert known[: 2 * sizes[t, s]].sum() >= 1
        if refill == "fresh":
            assert known.sum() <= 2 * sizes[t, s] < len(costs)
        else:
            bits = found.state.bits[t, s, : found.alloc[t, s]]
            assert len(np.unique(bits, axis=0)) <= 2 * sizes[t, s]
            if t:
                assert known.all()
    costs, bits = found.living(found.state.costs), found.living(found.state.bits)
    known = np.isfinite(costs).all(axis=1)
    np.testing.assert_allclose(costs[known], np.asarray(proxy(bits))[known], rtol=1e-6)


@pytest.mark.slow
def test_the_preset_of_the_paper_runs():
    """Roulette, no smoothing, no rate limit, policies as drawn; two species to save time."""
    config = preset(
        "paper",
        population=14,
        species=("floor", "gcn"),
        archive_capacity=64,
        graph=replace(POLICY, init="raw"),
    )
    found = record(config, generations=20)
    assert found.traces == 1
    np.testing.assert_array_equal(found.alloc.sum(axis=1), 14)
    assert found.alloc.min() >= config.least
    assert len(np.unique(found.alloc, axis=0)) > 5, "a roulette moves even between equal scores"
    np.testing.assert_array_equal(found.living(found.decoded), found.living(found.state.bits))


# Resuming


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_as_if_it_had_not_been(tmp_path):
    """100 generations; each time only the file is left, and a search that was built anew takes it."""
    config = NemoConfig(population=16, species=("continuous", "floor", "SNES"), archive_capacity=64)
    settings, file = {"seed": 5}, tmp_path / "state"
    algo = nemo(config, SIX, 3)
    whole, _ = run(algo, proxy, algo.init(jax.random.key(5)), generations=100, every=1)

    ends = [*np.sort(np.random.default_rng(0).choice(np.arange(1, 100), 10, replace=False)), 100]
    state, done = algo.init(jax.random.key(5)), 0
    for end in ends:
        again = nemo(config, SIX, 3)
        if done:
            state = load_state(file, again.init(jax.random.key(0)), settings)
        assert int(state.generation) == done
        # The last stretch is also compiled anew.
        state, _ = run(again if end == 100 else algo, proxy, state, generations=int(end) - done, every=1)
        save_state(file, state, settings)
        done = int(end)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, two)
    assert len(np.unique(np.asarray(whole.alloc))) > 1
