"""One choice of bit-widths: its views, its text and its file."""

import json
import math

import numpy as np
import pytest

from nemojax.configuration import Configuration, OperationBits, checked_names, load_bits, save_bits

BITS = {
    "input": 8,
    "stem.weight": 4,
    "stem.activation": 6,
    "blocks_0/project.weight": 3,
    "blocks_0/project.linear": 5,
    "blocks_0/project.sum": 7,
    "pool.pool": 32,
    "layer1.0": 2,
    "fc.weight": 16,
}


def make(bits=None, **more):
    bits = BITS if bits is None else bits
    return Configuration(
        np.array(list(bits.values())), tuple(bits), {"kl": 0.25, "model_ratio": 1 / 3}, **more
    )


def test_views():
    point = make()
    assert point.as_dict() == BITS
    assert list(point.as_dict()) == list(BITS)
    assert all(type(bits) is int for bits in point.as_dict().values())
    assert point.objectives == ("kl", "model_ratio")
    assert point.mean_bits() == ((4 + 3 + 16) / 3, (8 + 6 + 5 + 7 + 32 + 2) / 6)
    assert point.bits.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        point.bits[0] = 3


def test_operations_join_a_weight_and_the_output_and_lose_nothing():
    assert make().operations() == (
        OperationBits("input", None, 8),
        OperationBits("stem", 4, 6),
        OperationBits("blocks_0/project", 3, 5),
        OperationBits("blocks_0/project.sum", None, 7),
        OperationBits("pool", None, 32),
        OperationBits("layer1.0", None, 2),
        OperationBits("fc", 16, None),
    )
    odd = make({"a.sum": 2, "a": 3, "a.weight": 4, "a.linear": 5, ".weight": 6}).operations()
    assert odd == (
        OperationBits("a", 4, 2),
        OperationBits("a", None, 3),
        OperationBits("a.linear", None, 5),
        OperationBits(".weight", 6, None),
    )


def test_mean_bits_without_activations():
    weights, activations = make({"a.weight": 4}).mean_bits()
    assert weights == 4
    assert math.isnan(activations)


def test_table_names_costs_and_every_operation():
    lines = make(held_out={"report_top1_error": 0.125}).table().splitlines()
    assert lines[0] == "kl 0.25, model_ratio 0.3333, report_top1_error 0.125"
    assert " ".join(lines[1].split()) == "operation weight bits activation bits"
    assert lines[3].split() == ["stem", "4", "6"]
    assert lines[2].split() == ["input", "-", "8"]
    assert lines[-1].split() == ["mean", "over", "quantizers", "7.667", "10"]
    assert len(lines) == 2 + 7 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"costs": {"kl": math.inf}}, r"costs\['kl'\] must be finite, got inf"),
        ({"held_out": {"x": math.nan}}, r"held_out\['x'\] must be finite"),
        ({"bits": np.array([2, 3])}, "bits must have one column for each of 1 names"),
        ({"bits": np.array([33])}, "bits of 'a' in row 0 are 33"),
        ({"names": ()}, "names is empty"),
        ({"settings": {"f": make}}, "settings cannot be JSON"),
    ],
)
def test_construction_says_what_is_wrong(change, message):
    right = {"bits": np.array([2]), "names": ("a",), "costs": {"kl": 1.0}}
    assert Configuration(**right).index is None
    with pytest.raises(ValueError, match=message):
        Configuration(**{**right, **change})


def test_names_must_be_text():
    with pytest.raises(ValueError, match="names must be non-empty strings, got 3"):
        checked_names(("a", 3), "names")


def test_round_trip(tmp_path):
    path = tmp_path / "bits.json"
    point = make(
        held_out={"report": 0.1 + 0.2}, settings={"seed": 1, "digest": "é✓", "list": [1, None, True]}
    )
    save_bits(path, point)
    again = load_bits(path)
    assert again.as_dict() == point.as_dict()
    assert (again.names, again.costs, again.held_out) == (point.names, point.costs, point.held_out)
    assert again.settings == point.settings
    save_bits(tmp_path / "again.json", again)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_load_bits_in_the_order_of_another_trace(tmp_path):
    save_bits(tmp_path / "bits.json", make())
    names = tuple(reversed(BITS))
    again = load_bits(tmp_path / "bits.json", names)
    assert again.names == names
    assert again.bits.tolist() == [BITS[name] for name in names]


def test_load_bits_names_quantizers_that_do_not_match(tmp_path):
    path = tmp_path / "bits.json"
    save_bits(path, make())
    with pytest.raises(
        ValueError, match=r"bits\.json: bits lacks 'head.weight' of this network: use a file of"
    ):
        load_bits(path, (*BITS, "head.weight"))
    with pytest.raises(ValueError, match="bits holds 'input' and 1 more, which this network lacks"):
        load_bits(path, [name for name in BITS if name not in ("input", "fc.weight")])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", "frugaljax.nemo.bits/2", "schema is .*bits/2.*, not 'frugaljax.nemo.bits/1'"),
        ("bits", [["a", 3]], "bits is .*, not an object"),
        ("bits", {}, "names is empty"),
        ("bits", {"a": 3.0}, r"bits\[\"a\"\] is 3.0, not a whole number"),
        ("bits", {"a": True}, r"bits\[\"a\"\] is true, not a whole number"),
        ("bits", {"a": 10**40}, "not a whole number"),
        ("bits", {"a": 17}, "bits of 'a' in row 0 are 17"),
        ("bits", {"": 4}, "names must be non-empty strings"),
        ("costs", {"kl": "low"}, r"costs\[\"kl\"\] is \"low\", not a finite number"),
        ("costs", {"kl": None}, "not a finite number"),
        ("held_out", 3, "held_out is 3, not an object"),
        ("settings", [], "settings is .*, not an object"),
    ],
)
def test_load_bits_says_what_is_wrong(tmp_path, field, value, message):
    path = tmp_path / "bits.json"
    save_bits(path, make())
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=message) as error:
        load_bits(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
