"""The search loop on a real quantized network, small: budget, limits, cache, history, resume, hooks."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import nemojax as nemo
from nemojax import loop
from nemojax.search import fingerprint

pytestmark = pytest.mark.long  # `make test-long`; CI runs them

CONFIG = nemo.NemoConfig(population=10, species=("continuous", "floor"), archive_capacity=64)
WHOLE = nemo.NemoConfig(  # all four species, with small policies
    population=12, archive_capacity=64, graph=nemo.Graph(hidden=8, heads=2, depth=1)
)


@pytest.fixture(scope="module")
def task(small_network):
    network = small_network()
    images = jax.random.normal(jax.random.key(1), (6, 16, 16, 3))
    return nemo.fidelity(nemo.quantize(network, images[:2]), images[2:])


@pytest.fixture(scope="module")
def found(task):
    return nemo.search(jax.random.key(0), task, budget=45, config=CONFIG, warm_share=0.35)


def test_the_budget_is_kept_and_every_evaluation_is_distinct(task, found):
    assert 45 - CONFIG.population < len(found.bits) <= 45
    assert len(np.unique(found.bits, axis=0)) == len(found.bits)
    assert found.finished
    assert task.space.contains(found.bits).all()
    assert len({len(shape) for shape in task.network.traced.compilations}) == 1  # one shape


def test_the_front_is_that_of_everything_evaluated(task, found):
    costs = found.costs.astype(np.float64)
    for row in found.front.costs:
        assert not ((costs <= row).all(1) & (costs < row).any(1)).any()
    dominated = [((costs <= c).all(1) & (costs < c).any(1)).any() for c in costs]
    assert len(found.front) == len(np.unique(costs[~np.array(dominated)], axis=0))
    again = np.asarray(task.costs(found.front.bits))
    np.testing.assert_allclose(again, found.front.costs, rtol=1e-4, atol=1e-6)


def test_the_first_generation_holds_the_uniform_configurations(task, found):
    uniform = {row.tobytes() for row in nemo.uniform_bits(task)}
    assert len(uniform) == 7
    assert uniform <= {row.tobytes() for row in found.bits[: CONFIG.population]}


def test_history_has_a_row_per_generation(found):
    count, kinds = len(found.history["evaluations"]), len(found.species)
    assert found.species == CONFIG.species
    for name in ("alloc", "r2", "utility", "front"):
        assert found.history[name].shape == (count, kinds)
    np.testing.assert_array_equal(found.history["alloc"].sum(axis=1), CONFIG.population)
    assert found.history["evaluations"][-1] == len(found.bits)
    assert int(found.state.generation) == count
    assert found.policies == {}, "no species of graph policies"
    np.testing.assert_array_equal(found.history["alloc"][-1], found.state.alloc)


def test_history_rises(found):
    assert (np.diff(found.history["evaluations"]) >= 0).all()
    assert (np.diff(found.history["hypervolume"]) >= 0).all()
    assert 0 < found.history["hypervolume"][-1] < 1


def assert_same(one, two):
    np.testing.assert_array_equal(one.bits, two.bits)
    np.testing.assert_array_equal(one.costs, two.costs)
    for x, y in zip(jax.tree.leaves(one.state), jax.tree.leaves(two.state), strict=True):
        np.testing.assert_array_equal(x, y)
    for name, column in two.history.items():
        np.testing.assert_array_equal(one.history[name], column)


def after(generation):
    return lambda report: np.int32(report.generation) == generation  # NumPy's True, as a comparison gives it


@pytest.fixture(scope="module")
def four(task):
    """All four species, whose sizes follow their success."""
    return nemo.search(jax.random.key(0), task, budget=60, config=WHOLE, warm_share=0.25)


def test_a_stopped_search_goes_on_bit_for_bit(task, four, tmp_path):
    file, arguments = tmp_path / "search.ckpt", {"budget": 60, "config": WHOLE, "warm_share": 0.25}
    half = nemo.search(jax.random.key(0), task, **arguments, checkpoint=file, on_chunk=after(2))
    assert not half.finished
    assert len(half.bits) < len(four.bits)
    whole = nemo.search(jax.random.key(0), task, **arguments, checkpoint=file)
    assert_same(whole, four)
    assert len(np.unique(four.history["alloc"], axis=0)) > 1, "sizes moved"
    for name in ("gcn", "unet"):
        np.testing.assert_array_equal(whole.policies[name], four.policies[name])


@pytest.mark.long
def test_policies_are_handed_over_to_another_search(task, four):
    """They come first among their species; a search with them is another search."""
    assert sorted(four.policies) == ["gcn", "unet"]
    again = nemo.search(
        jax.random.key(1), task, budget=12, config=WHOLE, policies=four.policies, warm_start=None
    )
    without = nemo.search(jax.random.key(1), task, budget=12, config=WHOLE, warm_start=None)
    assert not np.array_equal(again.bits, without.bits)
    seen = {row.tobytes() for row in four.bits}
    share = [np.mean([row.tobytes() in seen for row in x.bits]) for x in (again, without)]
    assert share[0] > share[1]


@pytest.mark.slow
def test_another_sensitivity_table_compiles_nothing_anew(task):
    """Prices and node features are in the state, each search's own."""
    one, two = (
        nemo.Sensitivity(task.space.names, task.space.widths, table, "mine")
        for table in np.random.default_rng(0).uniform(size=(2, task.space.size, len(task.space.widths)))
    )
    config = replace(WHOLE, species=("priced", "gcn"))
    first = nemo.search(jax.random.key(0), task, budget=12, config=config, warm_start=one, warm_share=0.0)
    compiled = loop._ask._cache_size(), loop._tell._cache_size()
    other = nemo.search(jax.random.key(0), task, budget=12, config=config, warm_start=two, warm_share=0.0)
    assert (loop._ask._cache_size(), loop._tell._cache_size()) == compiled
    assert not np.array_equal(first.bits, other.bits)
    fresh = nemo.search(jax.random.key(0), task, budget=12, config=config, warm_start=one, warm_share=0.0)
    np.testing.assert_array_equal(first.bits, fresh.bits)


# Limits


def test_nothing_beyond_a_limit_is_evaluated(task):
    limit = 0.15
    found = nemo.search(
        jax.random.key(0), task, budget=40, config=CONFIG, limits={"model_ratio": limit, "bitops_max": 0.2}
    )
    names = list(task.objectives)
    ratio, work = (found.costs[:, names.index(name)] for name in ("model_ratio", "bitops_max"))
    assert len(found.bits) > 20
    assert (ratio <= limit).all()
    assert (work <= 0.2).all()
    assert (found.front.costs[:, names.index("model_ratio")] <= limit).all()
    assert len(found.front) > 1


@pytest.mark.long
def test_a_limit_of_an_error_keeps_the_front_within(task, found):
    """It cannot be known before: candidates are evaluated, but those beyond are not of the front."""
    worst = float(np.median(found.costs[:, 0]))
    limited = nemo.search(
        jax.random.key(0), task, budget=45, config=CONFIG, limits={task.objectives[0]: worst}
    )
    assert (limited.costs[:, 0] > worst).any()
    assert len(limited.front) > 0
    assert (limited.front.costs[:, 0] <= worst).all()
    archive = limited.state.archive
    assert (np.asarray(archive.costs)[np.asarray(archive.valid), 0] <= worst).all()


def test_a_limit_that_cannot_be_met_is_refused_before_any_evaluation(task, tmp_path):
    seen = []
    with pytest.raises(ValueError, match=r"limit model_ratio <= 0\.01 cannot be kept"):
        nemo.search(
            jax.random.key(0),
            task,
            budget=40,
            config=CONFIG,
            limits={"model_ratio": 0.01},
            on_chunk=seen.append,
            checkpoint=tmp_path / "none",
        )
    assert not seen
    assert not list(tmp_path.iterdir())


# A cache


def test_a_cache_saves_evaluations(task, found, tmp_path):
    """The same search again finds all it asks for, so the budget is left for new configurations."""
    file = tmp_path / "cache"
    key, arguments = jax.random.key(0), {"budget": 45, "config": CONFIG, "warm_share": 0.35, "cache": file}
    first = nemo.search(key, task, **arguments)
    assert_same(first, found)
    counts = []

    class Watch:
        def __call__(self, report):
            return report.generation == int(found.state.generation)

        def on_evaluated(self, count):
            counts.append(count)

    again = nemo.search(key, task, **arguments, on_chunk=Watch())
    np.testing.assert_array_equal(again.bits, found.bits)
    np.testing.assert_array_equal(again.costs, found.costs)
    assert not counts
    assert again.history["evaluations"][-1] == 0
    other = task.on(task.inputs + 1)
    with pytest.raises(ValueError, match="other settings: task was"):
        nemo.search(key, other, **arguments)


@pytest.mark.long
def test_a_stopped_search_with_a_cache_goes_on_bit_for_bit(task, tmp_path):
    """The cache knows some of what the search asks for, and learns more between its two halves."""
    key, arguments = jax.random.key(0), {"budget": 50, "config": CONFIG, "warm_share": 0.25}
    one, two = tmp_path / "one", tmp_path / "two"
    for file in (one, two):
        nemo.search(key, task, budget=20, config=CONFIG, cache=file)
    whole = nemo.search(key, task, **arguments, cache=one)
    saved = tmp_path / "search.ckpt"
    assert not nemo.search(key, task, **arguments, cache=two, checkpoint=saved, on_chunk=after(2)).finished
    nemo.search(jax.random.key(9), task, budget=20, config=CONFIG, cache=two)
    again = nemo.search(key, task, **arguments, cache=two, checkpoint=saved)
    assert_same(again, whole)


@pytest.mark.long
def test_a_cache_that_knows_everything_does_not_end_the_search(task, tmp_path):
    """Generations of looked-up configurations alone are no reason to stop."""
    config = nemo.NemoConfig(population=4, species=("continuous",), archive_capacity=64)
    arguments = {"budget": 130, "config": config, "warm_start": None, "cache": tmp_path / "cache"}
    first = nemo.search(jax.random.key(0), task, **arguments)
    again = nemo.search(jax.random.key(0), task, **arguments)
    np.testing.assert_array_equal(again.bits[: len(first.bits)], first.bits)
    assert len(first.history["alloc"]) > 25
    assert len(again.bits) > len(first.bits) + 100


# Seeds


@pytest.mark.long
def test_seeds_are_moved_into_the_space(task):
    space = nemo.search_space(task.network, bits=(2, 4, 8))
    seeds = np.stack([np.full(space.size, width) for width in (3, 7)]).astype(np.int32)
    seeds[0, 0] = 16
    found = nemo.search(jax.random.key(0), task.replace(space=space), budget=20, config=CONFIG, seeds=seeds)
    wanted = np.asarray(jax.vmap(space.snap)(seeds))
    assert space.contains(wanted).all()
    assert wanted[0, 0] == 8
    assert {row.tobytes() for row in wanted.astype(np.int32)} <= {row.tobytes() for row in found.bits}


# Other searches


@pytest.mark.parametrize(
    ("change", "name"),
    [({"key": 1}, "key"), ({"config": replace(CONFIG, population=12)}, "config"), ({"images": True}, "task")],
)
def test_a_checkpoint_of_another_search_is_refused(task, tmp_path, change, name):
    file = tmp_path / "search.ckpt"
    nemo.search(jax.random.key(0), task, budget=10, config=CONFIG, checkpoint=file)
    before = file.read_bytes()
    other = task.on(task.inputs + 1) if "images" in change else task
    with pytest.raises(ValueError, match=f"other settings.*{name} was"):
        nemo.search(
            jax.random.key(change.get("key", 0)),
            other,
            budget=20,
            config=change.get("config", CONFIG),
            checkpoint=file,
        )
    assert file.read_bytes() == before


def test_the_time_limit_ends_it_after_a_generation(task):
    found = nemo.search(jax.random.key(3), task, budget=1000, config=CONFIG, time_limit_s=0.0)
    assert not found.finished
    assert len(found.bits) <= CONFIG.population  # the first part of the warm start


def test_a_budget_below_the_population_is_refused(task):
    with pytest.raises(ValueError, match=r"at least the population, 10 evaluations.*got 9: raise it"):
        nemo.search(jax.random.key(0), task, budget=9, config=CONFIG)


@pytest.mark.long
def test_a_space_of_one_configuration_runs_dry(task):
    space = nemo.search_space(task.network, bits=(8,))
    found = nemo.search(jax.random.key(0), task.replace(space=space), budget=100, config=CONFIG)
    assert len(found.bits) == 1


@pytest.mark.long
def test_a_search_that_ran_dry_stays_so_when_resumed(task, tmp_path):
    space = nemo.search_space(task.network, bits=(8,))
    small, file = task.replace(space=space), tmp_path / "search.ckpt"
    once = nemo.search(jax.random.key(0), small, budget=100, config=CONFIG, checkpoint=file)
    again = nemo.search(jax.random.key(0), small, budget=100, config=CONFIG, checkpoint=file)
    assert len(again.history["evaluations"]) == len(once.history["evaluations"])


def test_fingerprints_tell_objectives_and_lowerings_apart(task):
    score = {"e": lambda bits: bits.sum().astype("float32")}
    other = {"e": lambda bits: -bits.sum().astype("float32")}
    marks = {
        fingerprint(nemo.fidelity(task.network, task.inputs, costs=costs)) for costs in (score, other, score)
    }
    assert len(marks) == 2
    assert fingerprint(task) == fingerprint(task.on(task.inputs))


def test_a_pin_outside_the_bit_set_leaves_the_first_generation_alone(task):
    free = nemo.search_space(task.network)
    pinned = nemo.search_space(task.network, pins={"input": 16})
    one, two = (nemo.initial_bits(jax.random.key(0), space, 30) for space in (free, pinned))
    rest = np.array(free.names) != "input"
    np.testing.assert_array_equal(one[:, rest], two[:, rest])


@pytest.mark.long
def test_pins_hold_in_every_configuration(task):
    space = nemo.search_space(task.network, bits=(2, 4, 8), pins={"stem.*": 4, "input": 8})
    found = nemo.search(jax.random.key(0), task.replace(space=space), budget=20, config=CONFIG)
    names = np.array(space.names)
    assert (found.bits[:, [n.startswith("stem.") for n in names]] == 4).all()
    assert (found.bits[:, names == "input"] == 8).all()
    assert set(np.unique(found.bits)) <= {2, 4, 8}


def test_initial_bits_are_of_the_space_and_uniform_first(task):
    drawn = nemo.initial_bits(jax.random.key(0), task.space, 50)
    assert drawn.shape == (50, task.space.size)
    assert task.space.contains(drawn).all()
    assert [len(set(row)) == 1 for row in drawn[:7].tolist()] == [True] * 7
    spread = drawn[7:].std(axis=1)
    assert 0.2 < spread.mean() < 0.8  # around half a bit
    assert spread.min() < 0.3 < 0.7 < spread.max()


def test_reference_counts_a_flat_guess_as_nothing(task):
    np.testing.assert_allclose(nemo.reference(task), [np.log(1000), 1, 1], rtol=1e-6)


def test_progress_prints_a_line_per_generation_into_a_pipe(task, tmp_path):
    with (tmp_path / "log").open("w+") as file:
        bar = nemo.progress(file)
        nemo.search(jax.random.key(0), task, budget=20, config=CONFIG, on_chunk=bar)
        bar.close()
        file.seek(0)
        lines = file.read().splitlines()
    assert lines[0].startswith("search 10/20 evaluations")
    assert "hypervolume 0." in lines[-1]
