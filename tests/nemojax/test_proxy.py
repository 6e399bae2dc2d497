"""The predicted front: predictions against the table and hwmodel, choice, limits, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nemojax as nemo
from hwmodel import bit_operations_ratio, model_ratio
from nemojax.baselines import greedy_front, proxy_front
from nemojax.networks import Network
from nemojax.prices import Prices, bargains, predicted
from nemojax.task import search_space


def two_layers(p, x):
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return jax.nn.relu(hidden @ p["b"]) @ p["c"]


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    shapes = {"a": (48, 24), "bias": (24,), "b": (24, 12), "c": (12, 5)}
    params = {name: np.float32(rng.normal(size=shape) / 5) for name, shape in shapes.items()}
    return nemo.quantize(Network("tiny", two_layers, params), np.float32(rng.normal(size=(4, 4, 4, 3))))


def table_of(space, seed=0):
    level = np.random.default_rng(seed).lognormal(size=(space.size, 1))
    return nemo.Sensitivity(space.names, space.widths, level / 4.0 ** np.array(space.widths)[None], "fisher")


@pytest.fixture(scope="module")
def space(network):
    return search_space(network)


def test_predictions_are_the_tables_sum_and_the_costs_of_hwmodel(network, space):
    workload, table = network.workload, table_of(space)
    prices = Prices.of(space, workload, table, 0.7)
    bits = np.asarray(space.sample(jax.random.key(0), 30))
    error, size, work = predicted(space, prices, bits).T
    np.testing.assert_allclose(error, 1 - np.exp(-table.additive(bits) / 0.7), rtol=1e-5)
    rows = jnp.asarray(bits)
    for found, cost in (
        (size, lambda b: model_ratio(workload, b)),
        (work, lambda b: bit_operations_ratio(workload, b, "max")),
    ):
        given = np.asarray(jax.vmap(cost)(rows))
        rest = given - found  # what no quantizer holds
        np.testing.assert_allclose(rest, rest[0], atol=1e-6)
        assert rest[0] >= -1e-6


def test_noise_over_signal_counts_from_four_bits(network, space):
    table = table_of(space)
    noise = nemo.Sensitivity(table.names, table.widths, table.table, "sqnr")
    prices = Prices.of(space, network.workload, noise, 5.0)
    assert abs(predicted(space, prices, space.uniform(4)[None])[0, 0] - (1 - np.exp(-1))) < 1e-5


@pytest.mark.parametrize("count", [1, 4, 30])
def test_the_choice_is_legal_distinct_and_of_the_predicted_front(network, space, count):
    workload, table = network.workload, table_of(space)
    bits = proxy_front(space, workload, table, count)
    assert len(bits) == count
    assert space.contains(bits).all()
    assert len(np.unique(bits, axis=0)) == len(bits)
    np.testing.assert_array_equal(bits, proxy_front(space, workload, table, 40)[:count])


def test_it_promises_more_than_as_many_of_a_greedy_front(network, space):
    workload, table = network.workload, table_of(space)
    prices = Prices.of(space, workload, table)
    ours, greedy = (
        nemo.Front.of(rows, predicted(space, prices, rows) / [1, 0.25, 0.25], ("e", "s", "w"), space.names)
        for rows in (proxy_front(space, workload, table, 12), greedy_front(space, workload, table, 12))
    )
    assert ours.hypervolume() > greedy.hypervolume()


def test_entries_of_a_table_of_errors_count_at_least_a_little(network, space):
    """Of errors on few images many are 0 or negative; no quantizer is free for that."""
    table = table_of(space).table.copy()
    table[0], table[1, 0] = 0.0, -0.3
    rows = {
        measure: Prices.of(
            space, network.workload, nemo.Sensitivity(space.names, space.widths, table, measure), 2.0
        ).noise
        for measure in ("top1_error", "fisher")
    }
    np.testing.assert_allclose(rows["top1_error"][0], 5e-3 * 2.0 / 4.0 ** np.arange(7), rtol=1e-6)
    np.testing.assert_allclose(rows["top1_error"][1, 0], 5e-3 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(rows["fisher"][0], 1e-12, rtol=1e-6)
    large = table[2:] > 5e-3 * 2
    assert large.any()
    np.testing.assert_allclose(rows["top1_error"][2:][large], table[2:][large], rtol=1e-6)


@pytest.mark.parametrize(
    "rules",
    [
        {"pins": {"input": 8}},
        pytest.param({"pairs": [(8, 8), (4, 8)], "bits": (4, 8)}, marks=pytest.mark.long),
    ],
)
def test_the_rules_of_the_space_hold(network, rules):
    own = search_space(network, **rules)
    bits = proxy_front(own, network.workload, table_of(own), 12)
    assert own.contains(bits).all()
    logs, rows = bargains(own, Prices.of(own, network.workload, table_of(own)))
    assert len(logs) == len(rows)
    assert own.contains(rows).all()


def test_bad_input(network, space):
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        proxy_front(space, network.workload, table_of(space), 0)
    other = nemo.Sensitivity(("x",), (2, 8), np.ones((1, 2)), "fisher")
    with pytest.raises(ValueError, match="of other"):
        proxy_front(space, network.workload, other, 3)
