"""Sensitivity tables: the measures against plain retellings, the table's files and bad input."""

import json
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.calibration import QuantizerConfig
from nemojax.evaluator import Evaluator
from nemojax.networks import Network
from nemojax.quantized import quantize
from nemojax.sensitivity import Sensitivity
from nemojax.sensitivity_measures import (
    error_sensitivity,
    fisher_sensitivity,
    measure_sensitivity,
    sqnr_sensitivity,
)
from nemojax.space import BitSpace
from nemojax.task import fidelity

WIDTHS = (2, 3, 5, 8)


def apply(p, x):
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return hidden @ p["b"]


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = {"a": (48, 16), "bias": (16,), "b": (16, 5)}
    return {name: np.float32(rng.normal(size=shape) / np.sqrt(shape[0])) for name, shape in shapes.items()}


def images(seed, count=3):
    return np.float32(np.random.default_rng(seed).normal(size=(count, 4, 4, 3)))


PARAMS = draw(0)


@pytest.fixture(scope="module")
def network():
    return quantize(Network("tiny", apply, PARAMS), images(0), QuantizerConfig(activation_range="minmax"))


@pytest.fixture(scope="module")
def task(network):
    return fidelity(network, images(1))


def rounded(x, low, high, bits):
    """Asymmetric uniform quantization of x between low and high (arrays that broadcast), in NumPy."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = (high - low) / (2**bits - 1)
    first = np.round(low / scale)
    return scale * np.round(np.clip(x / scale, first, first + 2**bits - 1))


def tensors(network, batch):
    """point -> (tensor with images first, or kernel; its low and high), by the network's formula."""
    x = batch.reshape(len(batch), -1)
    hidden = np.maximum(x @ PARAMS["a"] + PARAMS["bias"], 0)
    found = {}
    for i, point in enumerate(network.workload.points):
        if point.is_weight:
            kernel = PARAMS["a" if point.elems == 48 * 16 else "b"]
            found[i] = (kernel, kernel.min(0, keepdims=True), kernel.max(0, keepdims=True))
        else:
            values = x if point.elems == 48 else hidden
            found[i] = (values, float(network.ranges.low[i, 8]), float(network.ranges.high[i, 8]))
    assert len(found) == 4
    return found


def test_sqnr_is_noise_over_signal(network):
    found = sqnr_sensitivity(network, images(1, 5), WIDTHS)
    assert (found.names, found.widths, found.evaluations) == (network.workload.point_names, WIDTHS, 0)
    for i, (x, low, high) in tensors(network, images(1, 5)).items():
        for column, bits in enumerate(WIDTHS):
            noise = np.sum((rounded(x, low, high, bits) - x) ** 2) / np.sum(x**2)
            np.testing.assert_allclose(found.table[i, column], noise, rtol=2e-3)


def test_fisher_is_the_expected_squared_gradient_times_the_noise(network):
    batch = images(1, 4)

    def log_p(image, at_input, at_hidden, kernels):
        hidden = jax.nn.relu((image + at_input) @ kernels["a"] + PARAMS["bias"]) + at_hidden
        return jax.nn.log_softmax(hidden @ kernels["b"])

    kernels = {name: jnp.asarray(PARAMS[name]) for name in "ab"}
    squares = []  # per image: E_y of squared gradients, exact over the five classes
    for image in batch.reshape(4, -1):
        jacobian = jax.jacrev(log_p, (1, 2, 3))(image, jnp.zeros(48), jnp.zeros(16), kernels)
        p = np.exp(log_p(image, 0.0, 0.0, kernels))
        squares.append(jax.tree.map(lambda j, p=p: np.tensordot(p, np.asarray(j) ** 2, 1), jacobian))
    found = fisher_sensitivity(jax.random.key(3), network, batch, WIDTHS, labels=3000)
    for i, (x, low, high) in tensors(network, batch).items():
        for column, bits in enumerate(WIDTHS):
            noise = (rounded(x, low, high, bits) - x) ** 2
            if network.workload.points[i].is_weight:
                terms = [np.sum(s[2]["a" if x.shape[0] == 48 else "b"] * noise) for s in squares]
            else:
                terms = [
                    np.sum(s[0 if x.shape[1] == 48 else 1] * n) for s, n in zip(squares, noise, strict=True)
                ]
            np.testing.assert_allclose(found.table[i, column], np.mean(terms) / 2, rtol=0.08)


def test_fisher_foretells_a_small_kl(network, task):
    found = fisher_sensitivity(jax.random.key(0), network, images(1), (7, 8), labels=500)
    bits = np.full((1, 4), 7, np.int32)
    kl = Evaluator(task)(bits)[0, 0]
    assert 0.2 < found.additive(bits)[0] / kl < 5


def test_error_is_one_quantizer_at_a_time(task):
    found = error_sensitivity(evaluate := Evaluator(task))
    assert (found.evaluations, evaluate.evaluations, found.measure) == (1 + 4 * 6, 25, "kl")
    bits = np.full((2, 4), 8, np.int32)
    bits[0, 2] = 3
    errors = Evaluator(task)(bits)[:, 0]
    np.testing.assert_allclose(found.table[2, found.widths.index(3)], errors[0] - errors[1], atol=1e-7)
    np.testing.assert_array_equal(found.table[:, -1], 0)


def test_error_at_few_widths_is_interpolated_log_linearly(task):
    found = error_sensitivity(Evaluator(task), widths=(2, 4))
    whole = error_sensitivity(Evaluator(task))
    assert found.evaluations == 1 + 4 * 2
    np.testing.assert_allclose(found.table[:, [0, 2]], whole.table[:, [0, 2]], atol=1e-7)
    low, high = found.table[:, 0], found.table[:, 2]
    assert (high > 0).all()
    np.testing.assert_allclose(found.table[:, 1], np.sqrt(low * high))
    np.testing.assert_allclose(found.table[:, 4], high / 16)


def test_error_of_ties_and_under_pairs(network):
    names = network.workload.point_names
    feeds = [(op.weight_point, op.input_point) for op in network.workload.operations if op.weight_point >= 0]
    tied = BitSpace.create(names, (4, 8), ties=[[names[0], names[3]]])
    found = error_sensitivity(Evaluator(fidelity(network, images(1), space=tied)))
    assert found.evaluations == 1 + 3
    assert found.table[0, 0] == found.table[3, 0]
    bits = np.full((2, 4), 8, np.int32)
    bits[0, [0, 3]] = 4
    errors = Evaluator(fidelity(network, images(1)))(bits)[:, 0]
    np.testing.assert_allclose(found.table[0, 0] * 2, errors[0] - errors[1], atol=1e-7)
    paired = BitSpace.create(names, (4, 8), pairs=((4, 4), (8, 8)), feeds=feeds)
    found = error_sensitivity(evaluate := Evaluator(fidelity(network, images(1), space=paired)))
    assert (found.evaluations, evaluate.evaluations) == (1 + 4, 0)  # alone, no quantizer can be lowered


def test_pinned_widths_are_not_measured(network):
    names = network.workload.point_names
    space = BitSpace.create(names, (2, 4), pins={names[1]: 8})
    found = error_sensitivity(Evaluator(fidelity(network, images(1), space=space)))
    assert (found.widths, found.evaluations) == ((2, 4, 8), 1 + 3)
    np.testing.assert_array_equal(found.table[1], [np.nan, np.nan, 0])
    assert np.isnan(found.table[0, 2])
    assert found.table[0, 1] == 0


def test_measures_by_name(task):
    key = jax.random.key(0)
    assert [measure_sensitivity(key, task, m).measure for m in ("sqnr", "fisher", "kl")] == [
        "sqnr",
        "fisher",
        "kl",
    ]
    with pytest.raises(ValueError, match="measure must be 'sqnr', 'fisher' or 'kl', got 'hessian'"):
        measure_sensitivity(key, task, "hessian")


TABLE = np.array([[1.0, 0.5], [3.0, np.nan], [np.nan, 9.0], [3.0, 0.1]])


@pytest.fixture
def small():
    return Sensitivity(("a", "b", "c", "d"), (2, 4), TABLE, "kl", 7, 1.5)


def test_rank_and_text(small):
    assert small.rank().tolist() == [2, 1, 3, 0]
    lines = small.text(2).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["quantizer", "2", "bits", "4", "bits"],
        ["c", "-", "9"],
        ["b", "3", "-"],
    ]
    assert lines[3] == "2 of 4 quantizers (kl, 7 evaluations, 1.5 s)"


def test_additive_sums_entries(small):
    found = small.additive(np.array([[2, 2, 4, 4], [4, 4, 4, 4], [3, 2, 4, 4]]))
    np.testing.assert_allclose(found, [1 + 3 + 9 + 0.1, np.nan, np.nan])


def test_a_file_gives_the_same_table(small, tmp_path):
    small.to_json(tmp_path / "s.json")
    again = Sensitivity.from_json(tmp_path / "s.json")
    np.testing.assert_array_equal(again.table, small.table)
    for field in ("names", "widths", "measure", "evaluations", "seconds"):
        assert getattr(again, field) == getattr(small, field)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": 3}, "measure is not a string"),
        ({"widths": [2, 4.5]}, "widths is not a list of whole numbers"),
        ({"widths": [4, 2]}, "widths must be ascending"),
        ({"cost": {"evaluations": 1.5, "seconds": 0}}, "whole number of evaluations"),
        ({"table": {"a": [1, 2]}}, "table\\['a'\\] is not an object"),
        ({"table": {"a": {"3": 1}}}, "'3', which is not among widths"),
        ({"table": {"a": {"2": "x"}}}, "is not a number"),
        ({"schema": "other"}, "schema is"),
    ],
)
def test_a_bad_file_is_refused(small, tmp_path, change, message):
    path = tmp_path / "s.json"
    small.to_json(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        Sensitivity.from_json(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"table": TABLE[:2]}, "4 names by 2 widths"),
        ({"table": np.full((4, 2), np.inf)}, "holds inf for 'a' at 2 bits"),
        ({"widths": (2, 20)}, "widths must be ascending bit-widths in 2-16"),
        ({"names": ("a", "a", "c", "d")}, "'a'"),
        ({"evaluations": -1}, "must not be negative"),
    ],
)
def test_bad_tables(fields, message):
    good = {"names": ("a", "b", "c", "d"), "widths": (2, 4), "table": TABLE, "measure": "kl"}
    with pytest.raises(ValueError, match=message):
        Sensitivity(**{**good, **fields})


def test_bad_images_and_labels(network):
    with pytest.raises(ValueError, match="inputs has shape"):
        sqnr_sensitivity(network, np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="labels must be at least 1"):
        fisher_sensitivity(jax.random.key(0), network, images(1), labels=0)
    with pytest.raises(ValueError, match="is not finite"):
        sqnr_sensitivity(network, np.full((1, 4, 4, 3), np.nan, np.float32))


def test_files_keep_their_published_schema(small, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    text = resources.files("nemojax").joinpath("schemas", "sensitivity.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    small.to_json(tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    jsonschema.validate(data, schema)
    assert set(schema["required"]) == set(data) == set(schema["properties"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "widths": [1]}, schema)
