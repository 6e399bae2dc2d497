"""Files of tensors: what is written comes back, and nothing else is believed."""

import json
import struct

import numpy as np
import pytest

from fewshotjax.tensor_files import Like, TensorFile, check_tensors

FILE = TensorFile("kept things", "save_things", schema=3)


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "a.safetensors"
    given = {
        "scalar": np.float32(3),
        "turned": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "flags": np.array([True, False]),
        "none": np.zeros((0, 4), np.uint8),
    }
    FILE.write(path, given, {"name": "x", "sizes": [1, 2]})
    told, found = FILE.read(path)
    assert told == {"name": "x", "sizes": [1, 2]}
    assert found.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    FILE.write(path, given)
    assert FILE.read(path)[0] == {}


def raw(path, kind, metadata):
    header = {"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 4]}, "__metadata__": metadata}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    right = {"format": "fewshotjax kept things", "schema": "3", "things": "{}"}
    raw(path, "F16", right)
    np.testing.assert_array_equal(FILE.read(path)[1]["a"], np.zeros(2, np.float16), strict=True)
    raw(path, "BF16", right)
    with pytest.raises(ValueError, match="tensor 'a' is of type BF16: save it as F32"):
        FILE.read(path)
    for changed, message in (
        ({"format": "fewshotjax things"}, "is no file of save_things: give one that it wrote"),
        ({"schema": "2"}, "has schema version 2, this library reads 3: load it with the library that wrote"),
        ({"things": "{"}, "is damaged: save it again with save_things"),
        ({"things": "3"}, "is damaged: save it again with save_things"),
        ({"things": "[" * 100_000}, "is damaged: save it again with save_things"),
    ):
        raw(path, "F16", right | changed)
        with pytest.raises(ValueError, match=message):
            FILE.read(path)


def test_what_cannot_be_understood_is_the_files_fault():
    for fault, message in (
        (KeyError("name"), "x: is damaged: save it again with save_things"),
        (json.JSONDecodeError("no", "text", 0), "x: is damaged: save it again with save_things"),
        (ValueError("width must be positive"), "x: width must be positive"),
    ):
        with pytest.raises(ValueError, match=message), FILE.understood("x"):
            raise fault
    with pytest.raises(OSError, match="disk"), FILE.understood("x"):
        raise OSError("disk")


def test_tensors_are_what_is_wanted():
    wanted = {"a": Like((2, None), np.float32), "b": Like((), np.int32)}
    good = {"a": np.zeros((2, 5), np.float32), "b": np.array(1, np.int32)}
    check_tensors("x", good, wanted, "its config")
    many = {f"n{i}": np.zeros(1) for i in range(7)}
    for tensors, message in (
        ({"a": good["a"]}, "x: 1 tensors are missing for its config: b"),
        (good | many, r"x: 7 tensors are unexpected for its config: n0, n1, n2, n3, n4, \.\.\."),
        (
            good | {"a": good["a"][:1]},
            r"'a' is float32 of shape \(1, 5\), its config needs float32 of shape \(2",
        ),
        (good | {"a": good["a"][0]}, r"'a' is float32 of shape \(5,\)"),
        (good | {"b": np.array(1)}, "'b' is int64 of shape .*, its config needs int32"),
        (good | {"a": np.full((2, 1), np.inf, np.float32)}, "'a' holds NaN or infinite values"),
    ):
        with pytest.raises(ValueError, match=message):
            check_tensors("x", tensors, wanted, "its config")
