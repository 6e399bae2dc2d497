"""Files of a front: exact round trips, whole or absent, and nothing but ValueErrors from damaged ones."""

import csv
import json
import os
import random
from importlib import resources

import numpy as np
import pytest

from nemojax.configuration import load_bits, save_bits
from nemojax.front import Front
from nemojax.front_io import write_csv, write_json, write_text

NAMES = ("input", 'odd "name", with\ncomma é', "stem.weight")


@pytest.fixture
def front():
    """Costs with awkward digits: thirds, the smallest and nearly the largest double."""
    costs = [[1 / 3, 0.1 + 0.2, 5e-324], [0.1, 1e308, 2 / 3], [np.nextafter(1, 2), 0.0, 1e-17]]
    bits = [[2, 16, 32], [8, 4, 3], [5, 6, 7]]
    settings = {"seed": 7, "weights": "ab12", "quantizer": {"per_channel": True}, "versions": ["1", None]}
    held_out = {"report_top1_error": np.array([0.25, 1 / 7, 3e-9])}
    return Front(
        np.array(bits), np.array(costs), ("kl", "model_ratio", "bitops_max"), NAMES, settings, held_out
    )


def test_json_round_trip_is_exact(front, tmp_path):
    path = tmp_path / "front.json"
    front.to_json(path)
    again = Front.from_json(path)
    np.testing.assert_array_equal(again.bits, front.bits)
    np.testing.assert_array_equal(again.costs, front.costs)
    np.testing.assert_array_equal(again.held_out["report_top1_error"], front.held_out["report_top1_error"])
    assert (again.bits.dtype, again.costs.dtype) == (front.bits.dtype, front.costs.dtype)
    assert (again.objectives, again.names, again.settings) == (front.objectives, front.names, front.settings)
    again.to_json(str(tmp_path / "again.json"))
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert len(path.read_text().splitlines()) < 30  # a row a line


@pytest.mark.parametrize("what", ["front", "bits"])
def test_files_keep_their_published_schema(front, tmp_path, what):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(resources.files("nemojax").joinpath("schemas", f"{what}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    path = tmp_path / "file.json"
    if what == "front":
        front.to_json(path)
    else:
        save_bits(path, front.knee())
    data = json.loads(path.read_text())
    jsonschema.validate(data, schema)
    assert set(schema["required"]) == set(data) == set(schema["properties"])
    for width, right in (
        (1, False),
        (2, True),
        (16, True),
        (17, False),
        (31, False),
        (32, True),
        (4.5, False),
    ):
        if what == "front":
            data["bits"][0][0] = width
        else:
            data["bits"]["input"] = width
        assert jsonschema.Draft202012Validator(schema).is_valid(data) == right


def test_csv_holds_every_number(front, tmp_path):
    path = tmp_path / "front.csv"
    front.to_csv(path)
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    means = ["mean_weight_bits", "mean_activation_bits"]
    assert head == [*front.objectives, "report_top1_error", *means, *NAMES]
    numbers = np.array(rows, float)
    np.testing.assert_array_equal(numbers[:, :3], front.costs)
    np.testing.assert_array_equal(numbers[:, 3], front.held_out["report_top1_error"])
    np.testing.assert_array_equal(numbers[:, 4], front.bits[:, 2])
    np.testing.assert_array_equal(numbers[:, 5], front.bits[:, :2].mean(1))
    np.testing.assert_array_equal(numbers[:, 6:], front.bits)


# --- writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, "s/1", {"a": 1})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, "s/1", {"a": float("nan")})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\)"):
            write_json(path, "s/1", {"a": 2})
    with pytest.raises(ValueError, match="surrogates"):
        write_csv(path, ["\ud800"], [])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_write_replaces_the_file_and_keeps_usual_permissions(tmp_path):
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    write_text(path, "one")
    write_text(path, "two\r\n")
    other.write_text("")
    assert path.read_bytes() == b"two\r\n"
    assert path.stat().st_mode == other.stat().st_mode


def test_writing_to_no_folder_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("absent/a.json", "file/a.json"):
        with pytest.raises(ValueError, match=r"a\.json: cannot be written .*: check the folder"):
            write_text(tmp_path / place, "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="cannot be written"):
        write_text(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# --- reading


def damage(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("schema"), "has no field 'schema'"),
        (
            lambda d: d.update(schema="frugaljax.nemo.front/2"),
            "schema is .*front/2.*, not 'frugaljax.nemo.front/1'",
        ),
        (lambda d: d.update(schema=None), "schema is null, not"),
        (lambda d: d.pop("bits"), "has no field 'bits'"),
        (lambda d: d.update(extra=1), 'has a field "extra" that frugaljax.nemo.front/1 does not have'),
        (lambda d: d.update(objectives="kl"), 'objectives is "kl", not a list'),
        (lambda d: d["objectives"].pop(), r"costs\[0\] has 3 numbers, not 2"),
        (lambda d: d["objectives"].__setitem__(0, 3), r"objectives\[0\] is 3, not a string"),
        (lambda d: d["objectives"].__setitem__(0, "bitops_max"), "objectives must be unique"),
        (lambda d: d["names"].append("more"), r"bits\[0\] has 3 numbers, not 4"),
        (lambda d: d["names"].__setitem__(0, ""), "names must be non-empty strings"),
        (lambda d: d["costs"].pop(), r"held_out\[\"report_top1_error\"\] has 3 numbers, not 2"),
        (lambda d: d["costs"].__setitem__(1, 5), r"costs\[1\] is 5, not a list"),
        (lambda d: d["costs"][1].pop(), r"costs\[1\] has 2 numbers, not 3"),
        (lambda d: d["costs"][1].__setitem__(0, "x"), r"costs\[1\]\[0\] is \"x\", not a finite number"),
        (lambda d: d["costs"][1].__setitem__(0, 10**400), "not a finite number"),
        (lambda d: d["costs"][1].__setitem__(0, False), "is false, not a finite number"),
        (lambda d: d["costs"].__setitem__(1, [1, 1, 1]), "row 1 is dominated"),
        (lambda d: d["bits"].pop(), "costs must be 2 rows"),
        (lambda d: d["bits"][2].__setitem__(1, 4.0), r"bits\[2\]\[1\] is 4.0, not a whole number"),
        (lambda d: d["bits"][2].__setitem__(1, 2**63), "not a whole number"),
        (
            lambda d: d["bits"][2].__setitem__(2, 1),
            "bits of 'stem.weight' in row 2 are 1: a bit-width is 2-16, or 32",
        ),
        (lambda d: d["held_out"].update(x=[1, 2]), r"held_out\[\"x\"\] has 2 numbers, not 3"),
        (
            lambda d: d["held_out"].update(x=[1, 2, None]),
            r"held_out\[\"x\"\]\[2\] is null, not a finite number",
        ),
        (lambda d: d["held_out"].update(kl=[1, 2, 3]), "held_out 'kl' is also an objective"),
        (lambda d: d.update(held_out=[]), "held_out is .*, not an object"),
        (lambda d: d.update(settings=3), "settings is 3, not an object"),
        (lambda d: d.update(costs=[], bits=[], held_out={}), "not empty"),
    ],
)
def test_a_damaged_field_is_named(front, tmp_path, change, message):
    path = tmp_path / "front.json"
    front.to_json(path)
    damage(path, change)
    with pytest.raises(ValueError, match=message) as error:
        Front.from_json(path)
    check_message(error.value, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON .*utf-8"),
        (b"[1, 2]", "holds no JSON object"),
        (b"3", "holds no JSON object"),
        (b"[" * 100_000, "is not valid JSON .*recursion"),
        (b'{"schema": "frugaljax.nemo.front/1", "schema": 1}', '"schema" stands twice in one object'),
        (b'{"schema": NaN}', "NaN is no JSON number"),
        (b'{"schema": -Infinity}', "-Infinity is no JSON number"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b'{"schema": ' + b"[" * 900 + b"]" * 900 + b"}", "schema is|recursion"),
    ],
)
def test_a_file_that_is_no_such_json(tmp_path, content, message):
    path = tmp_path / "front.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        Front.from_json(path)
    check_message(error.value, path)


def test_an_infinite_number_in_the_settings(front, tmp_path):
    path = tmp_path / "front.json"
    front.to_json(path)
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 1e999'))
    with pytest.raises(ValueError, match="settings cannot be JSON"):
        Front.from_json(path)


@pytest.mark.parametrize("read", [Front.from_json, load_bits])
def test_a_missing_file_or_a_folder(tmp_path, read):
    for place in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(ValueError, match=r"cannot be read .*: give a file of") as error:
            read(place)
        check_message(error.value, place)


def check_message(error, path):
    assert str(error).startswith(f"{path}: ")
    assert "\n" not in str(error)
    assert len(str(error)) < 400


VALUES = (None, True, -1, 0, 3, 31, 2**70, 0.5, 1e400, "", "x", "kl", [], [[]], [1], {}, {"a": 1}, "\n")


def mutate(rng, value):
    """One random change somewhere inside a JSON value."""
    inside = []
    if isinstance(value, dict | list):
        inside = list(value.items() if isinstance(value, dict) else enumerate(value))
    if not inside or rng.random() < 0.15:
        return rng.choice(VALUES)
    key, part = rng.choice(inside)
    act = rng.random()
    if act < 0.15:
        del value[key]
    elif act < 0.25 and isinstance(value, list):
        value.insert(key, part)
    elif act < 0.3 and isinstance(value, dict):
        value[rng.choice(["", "new", "kl", "a\nb"])] = value.pop(key)
    else:
        value[key] = mutate(rng, part)
    return value


def attempt(read, path):
    """What it returns, or its ValueError; other exceptions pass."""
    try:
        return read(path), None
    except ValueError as error:
        return None, error


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", ["front", "bits"])
def test_fuzzed_files_give_a_checked_result_or_a_value_error(front, tmp_path, what, seed):
    path, rng, failures = tmp_path / "file.json", random.Random(seed), 0
    if what == "front":
        front.to_json(path)
    else:
        save_bits(path, front.knee())
    text = path.read_text()
    read = Front.from_json if what == "front" else load_bits
    for trial in range(300):
        if trial % 2:
            data = mutate(rng, json.loads(text))
            path.write_text(json.dumps(data))
        else:  # bytes
            raw = bytearray(text.encode())
            place = rng.randrange(len(raw))
            raw[place : place + rng.choice([0, 1, 1, 20])] = rng.randbytes(rng.choice([0, 1, 2]))
            path.write_bytes(raw)
        result, error = attempt(read, path)
        if error is not None:
            failures += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
        else:
            for bits in result.bits.ravel().tolist():
                assert 2 <= bits <= 16 or bits == 32
            for number in np.ravel(result.costs if what == "front" else list(result.costs.values())):
                assert np.isfinite(number)
    assert failures > 150
