"""The phase before the first generation: what is chosen, what enters the archive, and whole searches."""

import jax
import jax.numpy as jnp
import moocore
import numpy as np
import pytest

import nemojax as nemo
from nemojax.budgeted import Budgeted
from nemojax.calibration import QuantizerConfig
from nemojax.first_generation import uniform_bits
from nemojax.nemo import nemo as make
from nemojax.networks import Network
from nemojax.prices import Prices, predicted
from nemojax.quantized import quantize
from nemojax.quantizer_graph import quantizer_graph
from nemojax.sensitivity import Sensitivity
from nemojax.space import BitSpace
from nemojax.subset import most_hypervolume
from nemojax.task import fidelity, search_space
from nemojax.warm_start import WarmStart, best_spread, error_share, with_prior, with_sensitivity

CONFIG = nemo.NemoConfig(population=6, species=("continuous", "priced"), archive_capacity=16)


def apply(p, x):
    """Two matrix products: compiled in a moment."""
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return hidden @ p["b"]


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    shapes = {"a": (48, 16), "bias": (16,), "b": (16, 5)}
    params = {name: np.float32(rng.normal(size=s) / np.sqrt(s[0])) for name, s in shapes.items()}
    images = np.float32(rng.normal(size=(5, 4, 4, 3)))
    network = Network("tiny", apply, params)
    return fidelity(quantize(network, images[:2], QuantizerConfig(activation_range="minmax")), images[2:])


@pytest.fixture(scope="module")
def table(task):
    widths = task.space.widths
    values = np.arange(1, task.space.size + 1)[:, None] / 4.0 ** np.array(widths)[None]
    return Sensitivity(task.space.names, widths, values, "sqnr")


def rounds(task, warm, limits=None):
    """All rounds of a warm start, evaluated within the limits, and how many configurations each had."""
    limits = np.full(len(task.objectives), np.inf) if limits is None else limits
    evaluate, sizes = Budgeted(nemo.Evaluator(task), limits, nemo.reference(task)), []
    bits, costs = np.zeros((0, task.space.size), np.int32), np.zeros((0, len(task.objectives)), np.float32)
    while len(rows := warm(bits, costs)):
        sizes.append(len(rows))
        bits, costs = np.concatenate([bits, rows]), np.concatenate([costs, evaluate(rows)[0]])
    return bits, costs, sizes


def warm_bits(task, table, count, limits=None):
    return rounds(task, WarmStart(task, table, count, limits), limits)[0]


@pytest.mark.parametrize("count", [1, 5, 8, 28, 1000])
def test_warm_configurations_are_distinct_legal_and_no_more_than_wanted(task, table, count):
    bits, _, sizes = rounds(task, WarmStart(task, table, count))
    assert 1 <= len(bits) <= count
    assert len(np.unique(bits, axis=0)) == len(bits)
    assert task.space.contains(bits).all()
    assert bits.dtype == np.int32
    uniform = uniform_bits(task)
    first = bits[: min(-(-count // 2), len(uniform))]
    assert {row.tobytes() for row in first} <= {row.tobytes() for row in uniform}
    assert (np.diff(first[:, 0]) > 0).all(), "from the lowest width up"
    if count == 28:
        assert sizes == [14, 10, 4], "half of them, then rounds of at least ten"
    assert warm_bits(task, table, count).tobytes() == bits.tobytes()
    assert not len(warm_bits(task, table, 0))


def test_a_round_is_chosen_by_what_the_rounds_before_found(task, table):
    """Errors that say the opposite of the table move the next round's bits to where it was wrong."""
    warm = WarmStart(task, table, 40)
    empty = np.zeros((0, task.space.size), np.int32), np.zeros((0, 3), np.float32)
    first = warm(*empty)
    costs = nemo.Evaluator(task)(first)
    is_weight = np.array([name.endswith("weight") for name in task.space.names])

    def noise_of(quantizers):
        error = (4.0 ** (2.0 - first[:, quantizers])).sum(axis=1)
        return np.column_stack([error / error.max(), costs[:, 1:]]).astype(np.float32)

    told = {name: noise_of(q) for name, q in (("weights", is_weight), ("activations", ~is_weight))}
    prices = {name: warm.prices(first, costs).noise for name, costs in told.items()}
    ratio = np.log(prices["weights"] / prices["activations"]).mean(axis=1)
    assert ratio[is_weight].min() > ratio[~is_weight].max() + 1
    everything = np.stack(np.meshgrid(*task.space.allowed), -1).reshape(-1, task.space.size)
    for name, costs in told.items():  # against the best choice among all 2,401 configurations
        corrected = warm.prices(first, costs)
        known = predicted(task.space, corrected, first)
        known[:, 0] = error_share(task, costs[:, 0])[0]
        scale = np.concatenate([[1.0], predicted(task.space, corrected, everything)[:, 1:].max(axis=0)])

        def volume(bits, corrected=corrected, known=known, scale=scale):
            points = np.concatenate([known, predicted(task.space, corrected, bits)]) / scale
            return moocore.hypervolume(points, ref=np.ones(3))

        expected = predicted(task.space, corrected, everything) / scale
        best = everything[most_hypervolume(expected, 10, known / scale)]
        chosen, none = warm(first, costs), first[:1]
        assert len(chosen) == 10
        assert volume(chosen) - volume(none) > 0.8 * (volume(best) - volume(none)) > 0, name


def test_without_rounds_the_table_as_measured_chooses_everything(task, table):
    bits, costs, sizes = rounds(task, warm := WarmStart(task, table, 40, rounds=0))
    assert sizes == [40]
    np.testing.assert_array_equal(bits[:20], warm_bits(task, table, 40)[:20])
    measured = Prices.of(task.space, task.network.workload, table, np.log(5))
    np.testing.assert_array_equal(warm.prices(bits, costs).noise, measured.noise)
    with pytest.raises(ValueError, match="warm_rounds must be at least 0, got -1"):
        nemo.search(jax.random.key(0), task, budget=40, config=CONFIG, warm_start=table, warm_rounds=-1)


def test_a_round_adds_to_the_predicted_hypervolume_of_what_is_known(task, table):
    bits, costs, sizes = rounds(task, WarmStart(task, table, 40))
    assert len(sizes) == 3
    for done in np.cumsum(sizes)[:-1]:
        rows = bits[:done]
        assert not {r.tobytes() for r in bits[done:]} & {r.tobytes() for r in rows}
    scale = nemo.reference(task)
    names = task.objectives, task.space.names
    volumes = [nemo.Front.of(bits[:k], costs[:k] / scale, *names).hypervolume() for k in np.cumsum(sizes)]
    assert (np.diff(volumes) > 0).all()


def test_errors_against_labels_count_from_the_lowest(task):
    counted = nemo.classification(task.network, task.inputs, np.zeros(len(task.inputs), int), top_k=1)
    share, resolution = error_share(counted, np.array([0.2, 0.6, 1.0, np.inf]))
    np.testing.assert_allclose(share, [0, 0.5, 1, np.inf])
    np.testing.assert_allclose(resolution, 1 / len(task.inputs) / 0.8)
    np.testing.assert_array_equal(error_share(counted, np.full(2, np.inf))[0], np.inf)
    share, resolution = error_share(task, np.array([0.0, np.log(5) / 2]))
    np.testing.assert_allclose(share, [0, 0.5])
    assert resolution == 0


def test_warm_configurations_of_a_narrow_space(task, table):
    """Fewer configurations than wanted; each comes once."""
    space = search_space(task.network, (2, 8), {"*.weight": 8})
    narrow = task.replace(space=space)
    bits, costs, _ = rounds(narrow, WarmStart(narrow, table, 50))
    assert space.contains(bits).all()
    assert len(np.unique(bits, axis=0)) == len(bits) < 50
    every = np.stack(np.meshgrid(*space.allowed), -1).reshape(-1, space.size)
    np.testing.assert_array_equal(costs[:, 1:].min(axis=0), nemo.Evaluator(narrow)(every)[:, 1:].min(axis=0))
    np.testing.assert_array_equal(costs[:, 0].min(), nemo.Evaluator(narrow)(every)[:, 0].min())


# The archive

COSTS = np.array([[1, 4], [2, 2], [4, 1], [3, 3], [0.5, 0.5], [np.inf, np.inf]], np.float32)
OVER = np.array([0, 0, 0, 0, 0.2, 0], np.float32)  # the best one is over a budget
PRIOR = np.array([[2, 3], [3, 4], [4, 4], [5, 5], [6, 6], [7, 7]], np.int32)


@pytest.mark.long
def test_the_archive_takes_what_is_not_dominated_and_within_the_budgets():
    space = BitSpace.create(["a", "b"])
    algo = make(nemo.NemoConfig(population=4, species=("continuous",), archive_capacity=8), space, 2)
    state = with_prior(algo.init(jax.random.key(0)), PRIOR, COSTS, OVER)
    valid = np.asarray(state.archive.valid)
    np.testing.assert_array_equal(np.asarray(state.archive.bits)[valid], PRIOR[:3])
    np.testing.assert_array_equal(np.asarray(state.archive.costs)[valid], COSTS[:3])
    assert int(state.evaluations) == int(state.generation) == 0


def test_the_best_are_spread_along_the_first_cost():
    np.testing.assert_array_equal(best_spread(PRIOR, COSTS, OVER, 9), PRIOR[:3])
    np.testing.assert_array_equal(best_spread(PRIOR, COSTS, OVER, 2), PRIOR[[0, 2]])
    np.testing.assert_array_equal(best_spread(PRIOR, COSTS, OVER, 1), PRIOR[[0]])
    assert best_spread(PRIOR, COSTS, OVER, 0).shape == (0, 2)
    assert best_spread(PRIOR, COSTS, np.ones(6, np.float32), 3).shape == (0, 2)
    swapped = COSTS[:, ::-1]
    np.testing.assert_array_equal(best_spread(PRIOR, swapped, OVER, 9), PRIOR[[2, 1, 0]])


# The feature


def test_sensitivity_is_a_feature_from_0_to_1(task):
    """By hand: rows of 10⁻ᵏ at every width the table has are evenly spaced."""
    graph = quantizer_graph(task.network.workload, "chain")
    n = task.space.size
    values = np.repeat(10.0 ** -np.arange(n)[:, None], 3, axis=1)
    values[0, 1:] = np.nan  # not allowed, so not measured
    told = with_sensitivity(graph, Sensitivity(task.space.names, (2, 4, 8), values, "sqnr"))
    np.testing.assert_array_equal(told.nodes[:, :-1], graph.nodes)
    np.testing.assert_allclose(told.nodes[:, -1], np.linspace(1, 0, n), atol=1e-6)
    assert told.nodes.dtype == np.float32
    np.testing.assert_array_equal(with_sensitivity(graph, None).nodes[:, -1], 0)
    errors = np.column_stack([values[:, 0], np.zeros(n)])  # at its highest width nothing costs anything
    pinned, negative = errors.copy(), errors.copy()
    pinned[-1], negative[-1] = [np.nan, 0.0], [-0.1, 0.0]
    for wrong in (pinned, negative):
        nodes = with_sensitivity(graph, Sensitivity(task.space.names, (2, 8), wrong, "kl")).nodes
        np.testing.assert_allclose(nodes[:, -1], [*np.linspace(1, 0, n - 1), 0], atol=1e-6)
    flat = with_sensitivity(graph, Sensitivity(task.space.names, (2,), np.zeros((n, 1)), "sqnr"))
    np.testing.assert_array_equal(flat.nodes[:, -1], np.zeros(n))


# Searches


@pytest.fixture(scope="module")
def found(task, table):
    return nemo.search(jax.random.key(0), task, budget=40, config=CONFIG, warm_start=table, warm_share=0.5)


@pytest.mark.long
def test_the_prior_is_evaluated_first_and_counts(task, table, found):
    prior = warm_bits(task, table, 20)
    np.testing.assert_array_equal(found.bits[: len(prior)], prior)
    assert found.history["evaluations"][0] <= len(prior) + CONFIG.population
    assert found.history["evaluations"][0] >= len(prior)
    assert 40 - CONFIG.population < len(found.bits) <= 40
    assert task.space.contains(found.bits).all()


def test_a_warm_search_goes_on_bit_for_bit(task, table, found, tmp_path):
    file, arguments = tmp_path / "search.ckpt", {"budget": 40, "config": CONFIG, "warm_start": table}
    arguments["warm_share"] = 0.5
    half = nemo.search(
        jax.random.key(0), task, **arguments, checkpoint=file, on_chunk=lambda report: report.generation == 1
    )
    assert not half.finished
    whole = nemo.search(jax.random.key(0), task, **arguments, checkpoint=file)
    np.testing.assert_array_equal(whole.bits, found.bits)
    np.testing.assert_array_equal(whole.costs, found.costs)
    for one, two in zip(jax.tree.leaves(whole.state), jax.tree.leaves(found.state), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match=r"warm_share was 0\.5"):
        nemo.search(jax.random.key(0), task, **{**arguments, "warm_share": 0.2}, checkpoint=file)


def test_the_share_of_the_budget(task, table):
    less = nemo.search(jax.random.key(0), task, budget=40, config=CONFIG, warm_start=table, warm_share=0.25)
    np.testing.assert_array_equal(less.bits[:10], warm_bits(task, table, 10))
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"warm_share must be in \[0, 1\)"):
            nemo.search(jax.random.key(0), task, budget=40, config=CONFIG, warm_start=table, warm_share=share)


@pytest.mark.long
def test_seeds_come_before_the_warm_start(task, table):
    """Seeds that come twice, or that the table would choose as well, take no place of others."""
    empty = np.zeros((0, task.space.size), np.int32), np.zeros((0, 3))
    first = WarmStart(task, table, 11)(*empty)
    seeds = np.concatenate([np.asarray(task.space.sample(jax.random.key(9), 1)), first[[2, 2, 5]]])
    both = nemo.search(jax.random.key(0), task, budget=20, config=CONFIG, warm_start=table, seeds=seeds)
    np.testing.assert_array_equal(both.bits[:3], seeds[[0, 1, 3]])
    after = WarmStart(task, table, 11, seeds=seeds[[0, 1, 3]])(*empty)[3:]
    np.testing.assert_array_equal(both.bits[3 : 3 + len(after)], after)
    assert len(after) == 6
    assert not {row.tobytes() for row in after} & {row.tobytes() for row in seeds}


@pytest.mark.long
def test_species_that_take_no_seeds_search_as_well(task, table):
    config = nemo.NemoConfig(population=4, species=("priced",), archive_capacity=16)
    alone = nemo.search(jax.random.key(0), task, budget=20, config=config, warm_start=table)
    assert len(alone.front) > 1
    assert task.space.contains(alone.bits).all()


@pytest.mark.long
def test_a_measure_may_be_named_but_prices_need_one(task):
    config = nemo.NemoConfig(population=4, species=("continuous", "priced"), archive_capacity=16)
    named = nemo.search(jax.random.key(0), task, budget=12, config=config, warm_start="sqnr")
    assert len(named.bits) <= 12
    with pytest.raises(ValueError, match="measure must be"):
        nemo.search(jax.random.key(0), task, budget=12, config=config, warm_start="luck")
    with pytest.raises(ValueError, match="species 'priced' needs"):
        nemo.search(jax.random.key(0), task, budget=12, config=config, warm_start=None)


def test_a_table_of_another_network_is_refused(task):
    names = tuple(f"x{i}" for i in range(task.space.size))
    other = Sensitivity(names, task.space.widths, np.ones((len(names), len(task.space.widths))), "sqnr")
    with pytest.raises(ValueError, match="sensitivity is of another network"):
        nemo.search(jax.random.key(0), task, budget=12, config=CONFIG, warm_start=other)


@pytest.mark.long
def test_nothing_of_the_prior_over_a_limit_is_evaluated(task, table):
    limited = nemo.search(
        jax.random.key(0), task, budget=40, config=CONFIG, warm_start=table, limits={"model_ratio": 0.2}
    )
    assert len(limited.bits) > 5
    assert (limited.costs[:, 1] <= 0.2).all()
    kept = np.asarray(limited.state.archive.valid)
    assert (np.asarray(limited.state.archive.costs)[kept, 1] <= 0.2).all()
    asked = warm_bits(task, table, 30, np.array([np.inf, 0.2, np.inf]))
    assert (np.asarray(jax.vmap(task.costs_by_bits)(jnp.asarray(asked)))[:, 0] <= 0.2).all()
    assert len(asked) > 15, "places are not spent on what is not evaluated"
    np.testing.assert_array_equal(limited.bits[: len(asked)], asked)


def test_limits_of_further_costs_of_bits_hold_in_the_warm_start(task, table):
    """A cost of one's own, here even with the name of a built-in one."""
    costs = {
        "model_ratio": lambda b: b.sum().astype(jnp.float32),
        "first": lambda b: b[0].astype(jnp.float32),
    }
    own = fidelity(task.network, task.inputs, costs=costs)
    limits = np.array([np.inf, 14, 5])
    bits, _, _ = rounds(own, WarmStart(own, table, 30, limits), limits)
    assert len(bits) > 10
    assert (bits.sum(axis=1) <= 14).all()
    assert (bits[:, 0] <= 5).all()
