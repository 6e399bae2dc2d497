"""Bits by operation as JSON: what stands there, its schema, and the way back."""

import importlib.util
import json
import re
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.configuration import Configuration
from nemojax.export import load_operation_bits, save_operation_bits

spec = importlib.util.spec_from_file_location(
    "export_reference", Path(__file__).with_name("export_reference.py")
)
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)

X = ref.draw(0, (2, 6, 6, 3))


def fn(p, x):
    """A convolution, one with a shortcut, a pooling, and a layer that is run twice."""
    names = ("NHWC", "HWIO", "NHWC")
    x = jax.nn.relu(jax.lax.conv_general_dilated(x, p["stem"], (1, 1), "SAME", dimension_numbers=names))
    x = x + jax.lax.conv_general_dilated(x, p["block"], (1, 1), "SAME", dimension_numbers=names)
    y = x.mean((1, 2))
    for _ in range(2):
        y = jnp.tanh(y @ p["layer"])
    return y @ p["fc"]


@pytest.fixture(scope="module")
def net():
    params = {
        "stem": ref.kernel(0, 3, 3, 3, 8), "block": ref.kernel(1, 3, 3, 8, 8), "layer": ref.kernel(2, 8, 8),
        "fc": ref.kernel(3, 8, 5),
    }  # fmt: skip
    return ref.network(fn, params, X)


def configuration(net, seed=0):
    bits = np.random.default_rng(seed).choice((2, 3, 4, 5, 6, 7, 8, 16, 32), len(net.workload.points))
    costs = {"error": 0.25, "model_ratio": 0.125}
    return Configuration(bits, net.workload.point_names, costs, {"report_error": 0.3}, {"run": {"seed": 4}})


@pytest.mark.parametrize("seed", range(3))
def test_it_comes_back(net, seed, tmp_path):
    chosen = configuration(net, seed)
    save_operation_bits(tmp_path / "ops.json", net, chosen)
    found = load_operation_bits(tmp_path / "ops.json", net)
    assert found.as_dict() == chosen.as_dict()
    for field in ("costs", "held_out", "settings"):
        assert getattr(found, field) == getattr(chosen, field)
    save_operation_bits(tmp_path / "again.json", net, found.bits)
    assert load_operation_bits(tmp_path / "again.json", net).costs == {}


def test_what_stands_there(net, tmp_path):
    chosen = configuration(net)
    bits = chosen.as_dict()
    save_operation_bits(tmp_path / "ops.json", net, chosen)
    data = json.loads((tmp_path / "ops.json").read_text())
    assert data["inputs"] == {"input": bits["input"]}
    assert list(data["operations"]) == ["stem", "block", "pool", "layer", "layer_2", "fc"]
    assert data["operations"]["block"] == {
        "kind": "conv",
        "macs": 6 * 6 * 8 * 8 * 9,
        "weight_bits": bits["block.weight"],
        "input_bits": bits["stem.activation"],
        "output_bits": {"block.linear": bits["block.linear"], "block.sum": bits["block.sum"]},
    }
    assert data["operations"]["pool"]["weight_bits"] is None
    assert data["operations"]["layer_2"]["weight_bits"] == bits["layer.weight"]
    assert data["operations"]["fc"]["output_bits"] == {}


def test_the_file_keeps_its_published_schema(net, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(
        resources.files("nemojax").joinpath("schemas", "operation_bits.schema.json").read_text()
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    save_operation_bits(tmp_path / "ops.json", net, configuration(net))
    data = json.loads((tmp_path / "ops.json").read_text())
    jsonschema.validate(data, schema)
    assert set(schema["required"]) == set(data) == set(schema["properties"])
    row = schema["properties"]["operations"]["additionalProperties"]
    assert set(row["required"]) == set(row["properties"]) == set(data["operations"]["stem"])
    validator = jsonschema.Draft202012Validator(schema)
    for bits, right in (
        (2, True),
        (16, True),
        (32, True),
        (None, True),
        (17, False),
        (1, False),
        (8.5, False),
    ):
        data["operations"]["stem"]["weight_bits"] = bits
        assert validator.is_valid(data) == right


def edit(path, value):
    def apply(data):
        place = data
        for step in path[:-1]:
            place = place[step]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(["operations", "block"], None), "it lacks operation 'block' of this network"),
        (edit(["operations", "other"], {}), "it holds operation 'other', which"),
        (edit(["operations", "block", "macs"], 5), "['block'].macs is 5, this network's is 20736"),
        (edit(["operations", "block", "kind"], "dwconv"), "operations['block'].kind is 'dwconv'"),
        (edit(["operations", "block", "kind"], None), "operations['block'] must have the fields kind, macs"),
        (
            edit(["operations", "block", "input_bits"], 9),
            "['block'].input_bits is 9, but operations['stem'].output_bits['stem.activation'] says 4",
        ),
        (
            edit(["operations", "layer_2", "weight_bits"], 9),
            "operations['layer_2'].weight_bits is 9, but operations['layer'].weight_bits says",
        ),
        (edit(["operations", "stem", "input_bits"], 9), "['stem'].input_bits is 9, but inputs['input'] says"),
        (edit(["operations", "pool", "weight_bits"], 8), "['pool'].weight_bits is 8, but there is no quanti"),
        (edit(["operations", "fc", "weight_bits"], "8"), "['fc'].weight_bits is '8', not a whole number"),
        (edit(["operations", "fc", "weight_bits"], True), "['fc'].weight_bits is True, not a whole"),
        (edit(["operations", "fc", "weight_bits"], 10**30), "['fc'].weight_bits is too many bits"),
        (edit(["operations", "fc", "weight_bits"], 17), "bits of 'fc.weight' in row 0 are 17"),
        (edit(["operations", "fc", "output_bits"], []), "operations['fc'].output_bits is no object"),
        (edit(["operations", "fc", "output_bits", "fc.sum"], 8), "holds an unknown quantizer 'fc.sum'"),
        (edit(["operations", "block", "output_bits", "block.sum"], None), "lacks quantizer 'block.sum'"),
        (edit(["inputs"], {}), "inputs lacks quantizer 'input'"),
        (edit(["schema"], "frugaljax.nemo.bits/1"), "schema is"),
        (edit(["costs"], None), "has no field 'costs'"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(net, change, message, tmp_path):
    bits = configuration(net).as_dict() | {"stem.activation": 4, "input": 6}
    save_operation_bits(tmp_path / "ops.json", net, bits)
    data = json.loads((tmp_path / "ops.json").read_text())
    change(data)
    (tmp_path / "ops.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_operation_bits(tmp_path / "ops.json", net)
    assert str(tmp_path / "ops.json") in str(error.value)
    assert "\n" not in str(error.value)
