"""Workload files: round trips, hand-written files, and what is refused."""

import json
import os

import pytest

from hwmodel import Workload, zoo
from hwmodel.random_graphs import random_workload
from hwmodel.workload_file import load_workload, save_workload


def document(*operations, **top):
    return {"schema": "hwmodel.workload", "version": 1, "operations": list(operations), **top}


def node(name, *parents, **fields):
    sizes = {"ifm": [1, 1, 4], "ofm": [1, 1, 4]}
    return {
        "name": name,
        "kind": "dense",
        "macs": 1,
        "w_elems": 0,
        "o_elems": 4,
        **sizes,
        "parents": list(parents),
    } | fields


def load(tmp_path, content) -> Workload:
    path = tmp_path / "work.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_workload(path)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_round_trip_of_the_built_in_networks(tmp_path, name):
    work = zoo.by_name(name)
    save_workload(tmp_path / "work.json", work)
    again = load_workload(tmp_path / "work.json")
    assert (again.name, again.operations) == (work.name, work.operations)


@pytest.mark.parametrize("seed", range(5))
def test_round_trip_of_random_graphs(tmp_path, seed):
    work = random_workload(
        seed, 40, 0.5, tied_probability=0.4, partial_probability=0.4, output_probability=0.2
    )
    save_workload(tmp_path / "work.json", work)
    assert load_workload(tmp_path / "work.json").operations == work.operations


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "work.json"
    save_workload(path, random_workload(0))
    save_workload(path, random_workload(1))
    assert load_workload(path).operations == random_workload(1).operations
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "work.json"
    save_workload(path, random_workload(0))
    before = path.read_text()

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        save_workload(path, random_workload(1))
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_hand_written_in_any_order_with_defaults(tmp_path):
    work = load(
        tmp_path,
        document(
            node("c", "b", {"from": "a", "elems": 3}, is_output=True),
            node("b", "a", w_elems=16, tied_to="a"),
            node("a", w_elems=16, ext_in=4),
        ),
    )
    assert [op.name for op in work.operations] == ["a", "b", "c"]
    assert [op.w_id for op in work.operations] == [0, 0, -1]
    assert work.operations[2].parents == ((1, 4), (0, 3))
    assert [op.w_reads for op in work.operations] == [16, 16, 0]
    assert work.operations[2].is_output
    assert work.name == "network"


GOOD = node("a")
BAD = {
    "truncated": ('{"schema": "hwmodel.workload", "ver', "is not JSON"),
    "empty": ("", "is not JSON"),
    "other": ([], "must be an object"),
    "schema": ({"schema": "else"}, "schema must be 'hwmodel.workload', got 'else'"),
    "no version": ({"schema": "hwmodel.workload"}, "version must be 1, got None"),
    "later version": (document(GOOD, version=2), "version must be 1, got 2"),
    "true is no version": (document(GOOD, version=True), "version must be 1, got True"),
    "unknown key": (document(GOOD, colour=1), "the file has the unknown key 'colour'"),
    "name": (document(GOOD, name=3), "name must be text, got 3"),
    "no operations": (document(), "operations must be a list with at least one entry"),
    "operations a number": (document() | {"operations": 7}, "operations must be a list"),
    "operation a number": (document(7), r"operations\[0\] must be an object with a name, got 7"),
    "operation without name": (document(node("")), r"operations\[0\] must be an object with a name"),
    "twice": (document(GOOD, GOOD), "operation 'a' is listed twice"),
    "unknown field": (document(node("a", colour=1)), "operation 'a' has the unknown key 'colour'"),
    "missing": (document({"name": "a"}), "operation 'a' lacks ifm, kind, macs, o_elems, ofm, w_elems"),
    "kind": (document(node("a", kind="magic")), "operation 'a': kind must be one of conv.*got 'magic'"),
    "kind a list": (document(node("a", kind=["conv"])), "operation 'a': kind must be one of"),
    "negative": (document(node("a", macs=-1)), r"'a': macs must be a whole number of \[0, 2\^53\], got -1"),
    "fraction": (document(node("a", macs=1.5)), "operation 'a': macs must be a whole number"),
    "bool": (document(node("a", macs=True)), "operation 'a': macs must be a whole number"),
    "text": (document(node("a", w_elems="4")), "operation 'a': w_elems must be a whole number"),
    "null": (document(node("a", w_elems=None)), "operation 'a': w_elems must be a whole number"),
    "huge": (document(node("a", macs=2**63)), "operation 'a': macs must be a whole number"),
    "digits": ('{"version": ' + "9" * 5000 + "}", "5000 digits"),
    "no output": (document(node("a", o_elems=0)), "empty output"),
    "sizes": (document(node("a", ifm=[1, 1])), "'a': ifm must be a list of 3 numbers, got a list of 2"),
    "pad": (document(node("a", pad=[0, 0])), "operation 'a': pad must be a list of 2 numbers, got 0"),
    "pad a number": (document(node("a", pad=0)), "operation 'a': pad must be two pairs, got 0"),
    "is_output": (document(node("a", is_output=1)), "operation 'a': is_output must be true or false, got 1"),
    "parents": (document(node("a") | {"parents": "b"}), "operation 'a': parents must be a list, got 'b'"),
    "parent": (document(node("a", 3)), "operation 'a': each of parents must be a name or an object"),
    "dangling": (document(node("a", "b")), "operation 'a': parents names 'b', which is no operation"),
    "dangling part": (document(node("a", {"from": "b", "elems": 1})), "operation 'a': parents names 'b'"),
    "reads too much": (document(GOOD, node("b", {"from": "a", "elems": 5})), "operation 'b' reads 5 of 4"),
    "reads a fraction": (document(GOOD, node("b", {"from": "a", "elems": 0.5})), "elems of parents must be"),
    "tie": (document(node("a", tied_to="z")), "operation 'a': tied_to names 'z'"),
    "tie without weights": (document(GOOD, node("b", tied_to="a")), "'b' is tied to 'a', which has no"),
    "tie sizes": (document(node("a", w_elems=3), node("b", w_elems=4, tied_to="a")), "'b' stores 4.*'a'"),
    "cycle": (document(node("a", "b"), node("b", "a")), "cycle: '.' -> '.' -> '.'"),
    "nan": ('{"schema": NaN}', "holds NaN"),
    "infinity": ('{"schema": -Infinity}', "holds -Infinity"),
    "repeated key": ('{"schema": 1, "schema": 2}', "repeats the key 'schema'"),
    "deep": ("[" * 100_000, "nested too deeply|is not JSON"),
    "total": (document(*(node(f"n{i}", macs=2**53) for i in range(2))), "macs in total, more than 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused(tmp_path, case):
    content, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert "work.json" in str(caught.value)
    assert len(str(caught.value)) < 700


def test_every_truncation_is_refused(tmp_path):
    save_workload(tmp_path / "whole.json", random_workload(0, 4))
    text = (tmp_path / "whole.json").read_text().rstrip()
    for end in range(0, len(text), 7):
        with pytest.raises(ValueError, match=r"work\.json"):
            load(tmp_path, text[:end])


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "work.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8"):
        load_workload(tmp_path / "work.json")


def test_a_file_beyond_all_networks_is_not_read(tmp_path):
    with (tmp_path / "work.json").open("wb") as file:
        file.truncate(2**28 + 1)  # sparse
    with pytest.raises(ValueError, match="at most 268435456"):
        load_workload(tmp_path / "work.json")


def test_a_missing_file_is_not_a_bad_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_workload(tmp_path / "none.json")
