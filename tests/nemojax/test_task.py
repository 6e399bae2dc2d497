"""Objectives of configurations: what a task puts together, on what it refuses to be built."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import bit_operations_ratio, model_ratio
from nemojax.calibration import QuantizerConfig
from nemojax.networks import Network
from nemojax.objectives import Disagreement, KLDivergence, TopKError
from nemojax.quantized import QuantizedNetwork, compiled_logits, quantize
from nemojax.space import BitSpace
from nemojax.task import Task, classification, costs_by_name, fidelity, search_space


def apply(p, x):
    """Two matrix products: compiled in a moment."""
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return hidden @ p["b"]


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a": (48, 16), "bias": (16,), "b": (16, 5)}
    return {name: np.float32(rng.normal(size=shape) / np.sqrt(shape[0])) for name, shape in shapes.items()}


def images(seed, count=6):
    return np.float32(np.random.default_rng(seed).normal(size=(count, 4, 4, 3)))


@pytest.fixture(scope="module")
def network():
    plain = Network("tiny", apply, draw(0))
    return quantize(plain, images(0, 4), QuantizerConfig(activation_range="minmax"))


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).integers(0, 5, 6)


@pytest.fixture(scope="module")
def bits(network):
    return search_space(network).sample(jax.random.key(2), 4)


@pytest.fixture(scope="module")
def kl_task(network):
    return fidelity(network, images(3), costs=("model_ratio", "bitops_max", "bitops_product"))


def test_costs_are_the_error_and_the_workloads_ratios(network, kl_task, bits):
    assert kl_task.objectives == ("kl", "model_ratio", "bitops_max", "bitops_product")
    found = jax.jit(Task.costs)(kl_task, bits)
    logits = compiled_logits(network, bits, jnp.asarray(images(3)))
    expected = [
        [
            KLDivergence()(row, kl_task.target),
            model_ratio(network.workload, b),
            bit_operations_ratio(network.workload, b),
            bit_operations_ratio(network.workload, b, "product"),
        ]
        for row, b in zip(logits, bits, strict=True)
    ]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4, atol=1e-6)
    assert len(np.unique(np.asarray(found)[:, 0])) == 4


@pytest.mark.parametrize("options", [{"chunk": 2}, {"chunk": 4, "members": 3}, {"members": 4}], ids=str)
def test_chunk_and_members_change_nothing(kl_task, bits, options):
    run = jax.jit(Task.costs, static_argnames=("chunk", "members"))
    np.testing.assert_allclose(run(kl_task, bits, **options), run(kl_task, bits), rtol=1e-3, atol=1e-6)


def test_a_row_is_the_cost_of_one(kl_task, bits):
    rows = jax.jit(Task.costs)(kl_task, bits[:2])
    np.testing.assert_allclose(jax.jit(Task.cost)(kl_task, bits[0]), rows[0], rtol=1e-4, atol=1e-6)
    logits = compiled_logits(kl_task.network, bits[:1], kl_task.inputs)[0]
    np.testing.assert_allclose(kl_task.cost_of_logits(bits[0], logits), rows[0], rtol=1e-4, atol=1e-6)


def test_full_precision(network, kl_task, labels):
    np.testing.assert_allclose(kl_task.full_precision(), [0, 1, 1, 1], atol=1e-6)
    task = classification(network, images(3), labels, top_k=2)
    logits = np.asarray(jax.jit(QuantizedNetwork.logits)(network, images(3)))
    misses = [label not in row.argsort()[-2:] for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(task.full_precision(), [np.mean(misses), 1, 1], atol=1e-6)


def test_without_labels_the_target_is_full_precision(network, kl_task):
    np.testing.assert_allclose(
        kl_task.target, jax.jit(QuantizedNetwork.logits)(network, images(3)), atol=1e-5
    )
    task = fidelity(network, images(3), measure="disagreement")
    assert task.score == Disagreement()
    assert task.objectives == ("disagreement", "model_ratio", "bitops_max")
    np.testing.assert_allclose(task.full_precision(), [0, 1, 1], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_cost_that_is_not_finite_makes_the_row_infinite(network, bits, value):
    first = int(bits[0, 0])
    costs = {"latency": lambda b: jnp.where(b[0] == first, value, 1.0)}
    found = np.asarray(jax.jit(Task.costs)(fidelity(network, images(3), costs=costs), bits))
    failed = np.asarray(bits[:, 0]) == first
    assert failed.any()
    assert not failed.all()
    assert (found[failed] == np.inf).all()
    assert np.isfinite(found[~failed]).all()


def test_an_image_that_is_not_a_number_makes_the_row_infinite(network, bits):
    task = fidelity(network, images(3))
    broken = task.replace(inputs=task.inputs.at[0, 0, 0, 0].set(jnp.nan))
    assert (np.asarray(jax.jit(Task.costs)(broken, bits[:1])) == np.inf).all()


def test_any_function_of_the_bits_is_a_cost(network, bits):
    costs = costs_by_name(network) | {"sum": lambda b: jnp.sum(b)}  # whole numbers are taken too
    task = fidelity(network, images(3), costs=costs)
    assert task.objectives == ("kl", "model_ratio", "bitops_max", "bitops_product", "sum")
    found = jax.jit(Task.costs)(task, bits)
    np.testing.assert_allclose(found[:, 4], np.asarray(bits).sum(1))


def test_one_trace_for_rebuilt_tasks(network, labels, bits):
    """Built-in costs, scores and spaces are compared by value, so an equal task hits the cache."""
    traces = 0

    @jax.jit
    def run(task, bits):
        nonlocal traces
        traces += 1
        return task.costs(bits)

    for seed in (4, 5):
        run(classification(network, images(seed), labels, top_k=2), bits)
    assert traces == 1


def test_on_other_images(network, labels, bits):
    space = search_space(network, (2, 8))
    task = classification(network, images(3), labels, top_k=2, space=space)
    report = task.on(images(6, 9), np.arange(9) % 5, score=TopKError(1))
    assert report.objectives == ("top1_error", "model_ratio", "bitops_max")
    assert (report.space, report.network) == (space, network)
    logits = np.asarray(compiled_logits(network, bits[:1], jnp.asarray(images(6, 9)))[0])
    expected = (logits.argmax(1) != np.arange(9) % 5).mean()
    assert jax.jit(Task.cost)(report, bits[0])[0] == pytest.approx(expected)
    assert task.on(images(6, 9), np.arange(9) % 5).score == TopKError(2)
    unlabelled = task.on(images(3), score=KLDivergence())
    np.testing.assert_allclose(unlabelled.target, fidelity(network, images(3)).target)
    assert (unlabelled.inputs == task.inputs).all()


def test_on_refuses_a_target_of_the_other_kind(network, labels, kl_task):
    task = classification(network, images(3), labels, top_k=2)
    with pytest.raises(ValueError, match="top2_error needs labels: give target=labels"):
        task.on(images(3))
    with pytest.raises(ValueError, match="kl compares with the full-precision logits: leave target out"):
        kl_task.on(images(3), labels)
    with pytest.raises(ValueError, match=r"labels has shape \(6,\) for 2 inputs"):
        task.on(images(3, 2), labels)


def test_search_space(network):
    names = network.workload.point_names
    assert search_space(network).allowed == ((2, 3, 4, 5, 6, 7, 8),) * len(names)
    pinned = search_space(network, (4, 8), {"*.weight": 4})
    assert [a == (4,) for a in pinned.allowed] == [name.endswith(".weight") for name in names]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 2])}, r"labels has shape \(3,\) for 6 inputs: give one class index each"),
        (
            {"labels": np.array([0, 1, 2, 3, 4, 5])},
            "labels must be in 0-4, got 0 to 5: are they of this network",
        ),
        ({"labels": np.array([0, 1, 2, 3, 4, -1])}, "labels must be in 0-4, got -1 to 4"),
        ({"inputs": images(0)[:0]}, r"inputs are empty: give at least one sample"),
        ({"inputs": images(0)[:, :2]}, r"inputs has shape \(6, 2, 4, 3\) and type float32, the network was"),
        ({"top_k": 0}, "k must be at least 1, got 0"),
        ({"costs": ("latency",)}, "costs holds 'latency'; by name there are .*'bitops_max'"),
        ({"costs": ()}, "costs is empty"),
        ({"costs": {}}, "costs is empty"),
        ({"costs": {"top2_error": jnp.sum}}, "costs holds 'top2_error', which is the error's name"),
        ({"space": BitSpace.create(["a", "b"])}, "space is of another network: make it with search_space"),
    ],
)
def test_classification_refuses(network, labels, change, message):
    options = {"inputs": images(3), "labels": labels, "top_k": 2} | change
    with pytest.raises(ValueError, match=message):  # past the type check of the tests
        inspect.unwrap(classification)(network, options.pop("inputs"), options.pop("labels"), **options)


def test_fidelity_refuses_an_unknown_measure(network):
    with pytest.raises(ValueError, match=r"measure must be one of \['disagreement', 'kl'\], got 'l2'"):
        inspect.unwrap(fidelity)(network, images(3), measure="l2")


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda bits: bits.astype(jnp.float32), r"'mine'\] must give one number, got shape \("),
        (
            lambda bits: jnp.float32(jnp.nan) * bits[0].astype(jnp.float32),
            r"'mine'\] must be finite, got nan at 2 bits",
        ),
        (lambda bits: np.log(bits).sum(), r"'mine'\] must be a JAX function of bits"),
        (lambda bits, more: bits.sum(), r"'mine'\] must be a JAX function of bits"),
    ],
)
def test_a_cost_that_gives_no_finite_number_is_refused_by_name(network, cost, message):
    with pytest.raises(ValueError, match=message):
        fidelity(network, images(3), costs={"mine": cost})
