"""Limits in a search: what exceeds one by its bits is not evaluated; violations by hand."""

import jax
import numpy as np
import pytest

from nemojax.budgeted import Budgeted
from nemojax.calibration import QuantizerConfig
from nemojax.evaluator import Evaluator
from nemojax.networks import Network
from nemojax.quantized import quantize
from nemojax.task import Task, fidelity

SCALE = np.array([2.0, 0.5, 0.25])


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
def bits(task):
    """Uniform from 2 to 8 bits: model_ratio and bitops_max rise with the row."""
    return np.stack([task.space.uniform(b) for b in range(2, 9)])


@pytest.fixture(scope="module")
def costs(task, bits):
    return Evaluator(task)(bits)


def test_without_limits_everything_is_evaluated(task, bits, costs):
    evaluator = Evaluator(task)
    found, over = Budgeted(evaluator, np.full(3, np.inf, np.float32), SCALE)(bits)
    np.testing.assert_array_equal(found, costs)
    np.testing.assert_array_equal(over, np.zeros(7))
    assert evaluator.evaluations == 7


def test_what_its_bits_put_over_a_limit_is_not_evaluated(task, bits, costs):
    """The limits lie between rows: 2 and 3 bits are within both, 4 and 5 beyond one, the rest beyond two."""
    upper = np.array([np.inf, costs[3:5, 1].mean(), costs[1:3, 2].mean()], np.float32)
    evaluator = Evaluator(task)
    found, over = Budgeted(evaluator, upper, SCALE)(bits)
    assert evaluator.evaluations == evaluator.asked == 2
    np.testing.assert_array_equal(evaluator.table()["bits"], bits[:2])
    np.testing.assert_array_equal(found[:2], costs[:2])
    assert np.isinf(found[2:, 0]).all()
    np.testing.assert_allclose(found[2:, 1:], costs[2:, 1:], rtol=1e-6)
    by_hand = [
        max(0, row[1] - upper[1]) / 0.5 + max(0, row[2] - upper[2]) / 0.25 for row in costs.astype(np.float64)
    ]
    assert by_hand[0] == by_hand[1] == 0 < by_hand[2]
    np.testing.assert_allclose(over, by_hand, rtol=1e-4, atol=1e-6)


def test_if_all_are_over_nothing_is_evaluated(task, bits, costs):
    evaluator = Evaluator(task)
    upper = np.array([np.inf, costs[0, 1], np.inf], np.float32)
    found, over = Budgeted(evaluator, upper, SCALE)(bits[1:])
    assert evaluator.asked == 0
    assert (over > 0).all()
    assert np.isinf(found[:, 0]).all()


def test_an_error_over_its_limit_is_known_after_the_evaluation(task, bits, costs):
    limit = float(np.median(costs[:, 0]))
    evaluator = Evaluator(task)
    found, over = Budgeted(evaluator, np.array([limit, np.inf, np.inf], np.float32), SCALE)(bits)
    assert evaluator.evaluations == 7
    np.testing.assert_array_equal(found, costs)
    np.testing.assert_allclose(over, np.maximum(0, costs[:, 0] - limit) / 2, rtol=1e-4, atol=1e-6)
    assert 0 < (over > 0).sum() < 7


def test_a_failed_evaluation_is_over_no_limit(task, bits, costs):
    """It has failed, which is worse; a violation of +inf would say that its bits are too many."""

    def nan(logits, target):
        return np.nan * logits.sum()

    nan.name = "nan"
    failing = Task(task.network, task.inputs, task.target, nan, task.costs_of_bits, task.space)
    upper = np.array([1.0, costs[3:5, 1].mean(), np.inf], np.float32)
    found, over = Budgeted(Evaluator(failing), upper, SCALE)(bits)
    assert np.isinf(found[:4]).all()
    np.testing.assert_array_equal(over[:4], np.zeros(4))
    assert (over[4:] > 0).all()
