"""Baselines: all with one signature, within the budget, legal and different; seeds of a search."""

import jax
import numpy as np
import pytest

from nemojax.baselines.draws import BASELINES
from nemojax.calibration import QuantizerConfig
from nemojax.first_generation import uniform_bits
from nemojax.networks import Network
from nemojax.quantized import quantize
from nemojax.sensitivity import Sensitivity
from nemojax.task import fidelity


def apply(p, x):
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"]) @ p["b"]


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    params = {name: np.float32(rng.normal(size=shape)) for name, shape in (("a", (12, 8)), ("b", (8, 5)))}
    images = np.float32(rng.normal(size=(3, 2, 2, 3)))
    return fidelity(
        quantize(Network("tiny", apply, params), images, QuantizerConfig(activation_range="minmax")), images
    )


@pytest.fixture(scope="module")
def sensitivity(task):
    table = np.exp(np.random.default_rng(1).normal(size=(4, 1))) * 4.0 ** -np.arange(2.0, 9)
    return Sensitivity(task.space.names, tuple(range(2, 9)), table, "sqnr")


def rows(bits):
    return {tuple(row) for row in bits.tolist()}


@pytest.mark.parametrize("budget", [1, 7, 8, 30])
@pytest.mark.parametrize("name", BASELINES)
def test_within_the_budget_legal_and_distinct(task, sensitivity, name, budget):
    bits = BASELINES[name](jax.random.key(0), task, budget, sensitivity)
    assert bits.dtype == np.int32
    assert 1 <= len(bits) <= budget
    assert len(rows(bits)) == len(bits)
    assert task.space.contains(bits).all()
    assert len(bits) == min(budget, 7) if name == "uniform" else len(bits) >= min(budget, 8) * 0.8
    if budget >= 7:
        assert rows(uniform_bits(task)) <= rows(bits)


@pytest.mark.parametrize("name", ["random", "perturbed"])
def test_draws_follow_the_key(task, name):
    first, again, other = (BASELINES[name](jax.random.key(seed), task, 30, None) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert rows(first) != rows(other)


@pytest.mark.parametrize("name", ["greedy", "knapsack"])
def test_evaluations_of_the_sensitivity_count(task, sensitivity, name):
    dear = Sensitivity(sensitivity.names, sensitivity.widths, sensitivity.table, "kl", evaluations=25)
    assert len(BASELINES[name](jax.random.key(0), task, 35, dear)) <= 10
    with pytest.raises(ValueError, match="budget is 25 evaluations, of which the sensitivity took 25"):
        BASELINES[name](jax.random.key(0), task, 25, dear)
    with pytest.raises(ValueError, match=f"{name} needs a sensitivity"):
        BASELINES[name](jax.random.key(0), task, 25, None)


def test_no_budget_is_refused(task, sensitivity):
    for baseline in BASELINES.values():
        with pytest.raises(ValueError, match="budget"):
            baseline(jax.random.key(0), task, 0, sensitivity)
