"""Buffers in minimalloc's CSV, and allocations in JSON and CSV: there and back, and what is refused."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from hwmodel.addresses import (
    Buffer,
    allocate,
    load_placement,
    pack,
    read_minimalloc,
    save_placement,
    write_minimalloc,
)
from hwmodel.bits import Bits
from hwmodel.chip import Chip, Level, Rate
from hwmodel.workload import Edge, Operation, Workload

pytest.importorskip("omnimalloc", reason="needs frugaljax[addresses]")

CHIP = Chip(
    name="two",
    levels=(Level("dram", 1e9, 1e9), Level("sram", 1e10, 1e10, capacity_bytes=4096)),
    compute=(Rate(8, 8, 1e12),),
)


def chain(n=4, weights=100, outputs=200):
    ops = []
    for i in range(n):
        ops.append(
            Operation(
                f"op{i}", "conv", 10, weights, weights, i, 0, outputs,
                (Edge(i - 1, outputs),) if i else (), (1, 1, 1), (1, 1, 1), is_output=i == n - 1,
            )
        )  # fmt: skip
    return Workload(tuple(ops), name="chain")


@pytest.fixture
def allocation():
    placement = np.zeros((4, 2), np.int64)
    placement[:3] = 1
    return allocate(chain(), CHIP, placement, pins={"op0.output": "sram"})


def test_buffers_come_back(tmp_path):
    buffers = (Buffer("a", 0, 3, 4), Buffer("b, c", -2, 9, 5), Buffer("d", 1, 2, 6))
    write_minimalloc(tmp_path / "x.csv", buffers)
    assert (tmp_path / "x.csv").read_text().splitlines()[0] == "id,lower,upper,size"
    assert read_minimalloc(tmp_path / "x.csv") == buffers


def test_offsets_are_a_fifth_column(tmp_path):
    buffers = [Buffer("a", 0, 3, 4), Buffer("b", 1, 9, 5)]
    found = pack(buffers, 9)
    write_minimalloc(tmp_path / "x.csv", buffers, found.offsets)
    assert [b.offset for b in read_minimalloc(tmp_path / "x.csv")] == list(found.offsets)
    some = (Buffer("a", 0, 3, 4, 8), Buffer("b", 1, 9, 5))
    write_minimalloc(tmp_path / "y.csv", some)
    assert read_minimalloc(tmp_path / "y.csv") == some
    with pytest.raises(ValueError, match="offsets must be 2"):
        write_minimalloc(tmp_path / "x.csv", buffers, (1,))


def test_public_instances_come_back(data_dir, tmp_path):
    for path in sorted((data_dir / "minimalloc").glob("*.csv")):
        write_minimalloc(tmp_path / "copy.csv", read_minimalloc(path))
        assert (tmp_path / "copy.csv").read_text() == path.read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1 must be id,lower,upper,size"),
        ("id,lower,size\na,0,1\n", "line 1 must be"),
        ("id,lower,upper,size\na,0,3,4\nb,0,3\n", "line 3: has 3 cells, not 4; is the file cut off"),
        ("id,lower,upper,size\na,0,3,-4\n", "line 2: .*size must be at least 1 byte, got -4"),
        ("id,lower,upper,size\na,3,3,4\n", "line 2: .*upper must be greater than lower"),
        ("id,lower,upper,size\na,5,3,4\n", "line 2: .*upper must be greater than lower"),
        ("id,lower,upper,size\na,0,3,4\na,0,3,4\n", "line 3: id 'a' came before"),
        ("id,lower,upper,size\na,0,3,4.5\n", "line 2: size must be a whole number, got '4.5'"),
        ("id,lower,upper,size\na,0,three,4\n", "line 2: upper must be a whole number, got 'three'"),
        ("id,lower,upper,size\na,0,3,nan\n", "line 2: size must be a whole number"),
        ("id,lower,upper,size\na,0,3,99999999999999999999999\n", "line 2: size must be a whole number"),
        ("id,lower,upper,size\na,0,3,9999999999999999999\n", "line 2: size must stay below"),
        ("id,lower,upper,size\n,0,3,4\n", "line 2: id is empty"),
        ("id,lower,upper,size,offset\na,0,3,4,-1\n", "line 2: .*offset must be at least 0"),
        ('id,lower,upper,size\n"a,0,3,4\n', "is not a CSV file"),
    ],
)
def test_bad_buffer_files_are_refused_with_their_line(tmp_path, text, says):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_minimalloc(path)


def test_no_such_file_and_no_text(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_minimalloc(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"id,lower,upper,size\n\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        read_minimalloc(tmp_path / "x.csv")


def test_an_allocation_comes_back(tmp_path, allocation):
    save_placement(tmp_path / "x.json", allocation)
    found = load_placement(tmp_path / "x.json", chain(), CHIP)
    assert (found.addresses, found.levels, found.demoted) == (
        allocation.addresses,
        allocation.levels,
        allocation.demoted,
    )
    np.testing.assert_array_equal(found.placement, allocation.placement)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.json"]  # nothing left beside it


def test_the_table_of_tensors(tmp_path, allocation):
    save_placement(tmp_path / "x.csv", allocation)
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "level", "offset", "bytes", "copies", "birth", "death", "pinned"]
    assert [r["name"] for r in rows] == [a.name for a in allocation.addresses]
    by_name = {r["name"]: r for r in rows}
    assert by_name["op0.output"]["pinned"] == "True"
    assert by_name["op1.weight"] | {"offset": "128"} == by_name["op1.weight"]  # above op0's, aligned to 64
    with pytest.raises(ValueError, match="an allocation is saved as"):
        save_placement(tmp_path / "x.txt", allocation)


def test_a_broken_write_leaves_the_old_file(tmp_path, allocation, monkeypatch):
    path = tmp_path / "x.json"
    save_placement(path, allocation)
    old = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        save_placement(path, replace(allocation, workload="other"))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("schema"), "schema must be"),
        (lambda d: d.update(version=2), "version must be 1"),
        (lambda d: d.update(tensors=3), "tensors must be a list"),
        (lambda d: d["tensors"].pop(), "lists 7 tensors and workload 'chain' has 8"),
        (lambda d: d["tensors"].append(d["tensors"][0]), "listed twice"),
        (lambda d: d["tensors"][0].update(bytes=101), "has bytes 101, and 100 in workload"),
        (lambda d: d["tensors"][5].update(death=3), "has death 3, and 2"),
        (lambda d: d["tensors"][0].update(offset=1.5), "offset of 'op0.weight' must be of type"),
        (lambda d: d["tensors"][0].update(offset=True), "offset of 'op0.weight' must be of type"),
        (lambda d: d["tensors"][0].update(pinned=1), "pinned of 'op0.weight' must be of type"),
        (lambda d: d["tensors"][0].update(offset=64 * 63), "above the capacity"),
        (lambda d: d["tensors"][0].update(offset=32), "not a multiple of 64"),
        (lambda d: d["tensors"][0].update(offset=128), "overlap"),
        (lambda d: d["tensors"][0].update(level="tcm"), "has levels .*not 'tcm'"),
        (lambda d: d["tensors"][0].pop("level"), "must be an object with"),
        (lambda d: d["levels"].pop(), "has levels"),
    ],
)
def test_bad_placement_files_are_refused(tmp_path, allocation, change, says):
    path = tmp_path / "x.json"
    save_placement(path, allocation)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=says):
        load_placement(path, chain(), CHIP)


def test_cut_off_and_other_bits(tmp_path, allocation):
    path = tmp_path / "x.json"
    save_placement(path, allocation)
    with pytest.raises(ValueError, match="has bytes 100, and 50"):
        load_placement(path, chain(), CHIP, Bits(4, 8, 8))
    whole = path.read_text()
    path.write_text(whole.replace("{", '{"schema": 1,', 1))
    with pytest.raises(ValueError, match=r"x\.json: repeats the key 'schema'"):
        load_placement(path, chain(), CHIP)
    path.write_text(whole[:-200])
    with pytest.raises(ValueError, match="is it cut off"):
        load_placement(path, chain(), CHIP)
