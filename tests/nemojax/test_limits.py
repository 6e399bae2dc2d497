"""Budgets: limits by name and by size, what is refused, and the violation against loops."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import bit_operations_ratio
from nemojax.calibration import QuantizerConfig
from nemojax.limits import bytes_of, full_precision_bytes, limits, violation
from nemojax.networks import Network
from nemojax.quantized import quantize
from nemojax.task import costs_by_name, fidelity, search_space


def two_layers(p, x):
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return hidden @ p["b"]


def draw(*shape):
    return np.float32(np.random.default_rng(0).normal(size=shape) / 7)


IMAGES = draw(4, 4, 4, 3)
PARAMS = {"a": draw(48, 16), "bias": draw(16), "b": draw(16, 5)}
WEIGHTS, BIASES = 48 * 16 + 16 * 5, 16


@functools.cache
def network():
    config = QuantizerConfig(activation_range="minmax")
    return quantize(Network("tiny", two_layers, PARAMS), IMAGES, config)


def latency(bits):
    return jnp.sum(bits).astype(jnp.float32)


def make_task(**options):
    costs = {name: costs_by_name(network())[name] for name in ("model_ratio", "bitops_max")}
    space = search_space(network(), **options)
    return fidelity(network(), IMAGES, space=space, costs={**costs, "latency": latency})


@pytest.fixture(scope="module")
def task():
    return make_task()


def test_points_are_as_the_tests_below_take_them():
    assert network().workload.point_names == ("input", "a.weight", "a.activation", "b.weight")


def test_limits_by_name_in_the_order_of_the_objectives(task):
    found = limits(task, {"bitops_max": 0.5, "kl": 2})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [2, np.inf, 0.5, np.inf], rtol=2e-6)
    np.testing.assert_array_equal(limits(task, {}), [np.inf] * 4)


def test_a_size_is_a_model_ratio(task):
    total = 4 * (WEIGHTS + BIASES)
    assert full_precision_bytes(network().workload) == total
    for size in (1000, "1000 B", "1kB", "1.0 kB", " 1e3B "):
        np.testing.assert_allclose(limits(task, {"size": size})[1], 1000 / total, rtol=2e-6)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1.2 MB", 1.2e6),
        ("3KiB", 3072),
        ("1.5 MiB", 1.5 * 2**20),
        ("2 GB", 2e9),
        ("1GiB", 2**30),
        (7, 7),
        (0.5, 0.5),
    ],
)
def test_units(text, count):
    assert bytes_of(text) == pytest.approx(count, rel=1e-12)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"top5_error": 0.1},
            r"there is no objective 'top5_error'; there are \['kl', 'model_ratio', 'bitops_max'",
        ),
        ({"kl": 0}, "limit of 'kl' must be above 0, got 0"),
        ({"kl": -1.0}, "must be above 0, got -1.0"),
        ({"kl": np.nan}, "must be above 0, got nan"),
        ({"kl": "1"}, "limit of 'kl' must be a number, got '1'"),
        ({"kl": True}, "limit of 'kl' must be a number, got True"),
        ({"size": "1.2"}, "limit of size must be a number and one of B, kB, MB"),
        ({"size": "1.2 mb"}, "got '1.2 mb'"),
        ({"size": "1.2.3 MB"}, "limit of size must start with a number, got '1.2.3 MB'"),
        ({"size": "-1 MB"}, "limit of size, '-1 MB', must be above 0"),
        ({"size": 0}, "limit of size must be above 0"),
        ({"size": 5000, "model_ratio": 0.5}, "model_ratio and size, which are the same cost: drop one"),
    ],
)
def test_impossible_limits_are_refused(task, wanted, message):
    with pytest.raises(ValueError, match=message):
        limits(task, wanted)


def test_a_size_needs_a_network_and_the_model_ratio():
    with pytest.raises(ValueError, match="a limit of size needs the objective model_ratio"):
        limits(SimpleNamespace(objectives=("f1", "f2")), {"size": 10})
    with pytest.raises(ValueError, match="a limit of size needs the task of a network"):
        limits(SimpleNamespace(objectives=("model_ratio",)), {"size": 10})
    of_two = limits(SimpleNamespace(objectives=("f1", "f2")), {"f2": 3})
    np.testing.assert_allclose(of_two, [np.inf, 3], rtol=2e-6)


LOWEST = (2 * WEIGHTS + 32 * BIASES) / (32 * (WEIGHTS + BIASES))  # of model_ratio


def test_a_limit_at_the_lowest_bit_widths_is_kept_and_one_below_refused(task):
    lowest = jnp.full(4, 2)
    for limit in (LOWEST, LOWEST * (1 - 1e-7)):  # rounding keeps nobody out
        assert task.costs_by_bits(lowest)[0] <= limits(task, {"model_ratio": limit})[1]
    assert limits(task, {"model_ratio": LOWEST})[1] < LOWEST * (1 + 2e-6)
    message = (
        rf"limit model_ratio <= 0.05 cannot be kept: .* it is {LOWEST:.4g} at least. Nothing but .* 2, and"
    )
    with pytest.raises(ValueError, match=message):
        limits(task, {"model_ratio": 0.05})
    with pytest.raises(ValueError, match=r"limit size <= 200 bytes \(model_ratio 0.05787\) cannot be kept"):
        limits(task, {"size": 200})


def test_a_refused_limit_names_what_keeps_the_cost_up():
    task = make_task(pins={"a.*": 8}, sets={"b.weight": (4, 8)})
    message = (
        r"Pins, .* keep it up: 'a.weight' \(lowest 8 bits, \+.*\), 'b.weight' \(lowest 4 bits, \+[^,]*\); "
    )
    with pytest.raises(ValueError, match=message):
        limits(task, {"model_ratio": 0.2})
    with pytest.raises(
        ValueError, match=r"bitops_max .* keep it up: 'a.weight' \(lowest 8 bits, .*'a.activation'"
    ):
        limits(task, {"bitops_max": 0.2})


def test_no_kept_limit_is_refused_under_crossed_pairs():
    """The lowest legal size needs the highest activations, so the lowest widths together are not legal."""
    task = make_task(pairs=((2, 8), (8, 2)))
    legal = [b for b in np.ndindex(7, 7, 7, 7) if task.space.contains(np.array([b]) + 2)[0]]
    rows = jnp.asarray(np.array(legal, np.int32) + 2)
    for column, (name, cost) in enumerate(task.costs_of_bits[:2], 1):
        least = float(jax.vmap(cost)(rows).min())
        np.testing.assert_allclose(limits(task, {name: least})[column], least, rtol=2e-6)


def test_costs_of_the_user_are_checked_only_if_they_grow(task):
    assert abs(limits(task, {"latency": 5})[3] - 5) < 1e-5
    with pytest.raises(ValueError, match=r"limit latency <= 5 cannot be kept: .* it is 8 at least"):
        limits(task, {"latency": 5}, growing=("latency",))
    with pytest.raises(ValueError, match="no objective 'speed'"):
        limits(task, {"latency": 5}, growing=("speed",))


def test_a_cost_of_the_user_under_a_built_in_name_is_the_users():
    def doubled(bits):
        return 2 * bit_operations_ratio(network().workload, bits)

    task = fidelity(network(), IMAGES, costs={"bitops_max": doubled})
    np.testing.assert_allclose(limits(task, {"bitops_max": 0.05})[1], 0.05, rtol=2e-6)  # not checked


def test_pairs_that_keep_a_limit_out_of_reach_are_named():
    """8x2 and 2x8 multiply at 8 bits whatever is chosen, though every quantizer may have 2."""
    task = make_task(pairs=((8, 2), (2, 8)))
    assert np.isfinite(limits(task, {"bitops_max": 0.26})[2])
    with pytest.raises(
        ValueError, match=r"bitops_max <= 0.2 cannot be kept by any configuration of the pairs"
    ):
        limits(task, {"bitops_max": 0.2})
    rows = np.array(list(np.ndindex(2, 2, 2, 2)), np.int32) * 6 + 2
    legal = jnp.asarray(rows[task.space.contains(rows)])
    size, work = (np.asarray(jax.vmap(cost)(legal)) for _, cost in task.costs_of_bits[:2])
    together = {"model_ratio": float(size.min()), "bitops_max": float(work[size <= size.min() * 1.001].min())}
    limits(task, together)
    if (work < together["bitops_max"] * 0.99).any():
        with pytest.raises(ValueError, match=r"model_ratio <= .* and bitops_max <= .* cannot"):
            limits(task, {**together, "bitops_max": float(work.min())})


def test_violation_against_loops():
    rng = np.random.default_rng(0)
    costs, scale = rng.uniform(0, 2, (50, 3)).astype(np.float32), np.float32([1, 2, 0.5])
    upper = np.float32([0.5, np.inf, 1])
    found = jax.jit(violation)(jnp.asarray(costs), jnp.asarray(upper), jnp.asarray(scale))
    expected = [
        sum(max(0.0, f - limit) / s for f, limit, s in zip(row, upper, scale, strict=True)) for row in costs
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert 0 < (np.asarray(found) == 0).sum() < 50


def test_violation_of_failed_evaluations_is_infinite_and_of_no_limits_zero():
    costs = jnp.asarray([[jnp.inf, jnp.inf], [jnp.nan, 0.0], [0.0, jnp.inf], [1.0, 9.0]])
    found = violation(costs, jnp.asarray([1.0, jnp.inf]), jnp.ones(2))
    np.testing.assert_array_equal(found, [np.inf, np.inf, 0.0, 0.0])
    on_host = violation(np.array(costs), np.float32([1, np.inf]), np.ones(2, np.float32))
    np.testing.assert_array_equal(on_host, found)
