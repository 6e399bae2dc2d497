"""A resumed search equals one that was never stopped, and a bad file says what is wrong with it."""

import hashlib
import json
import os
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

from egrljax import Keep
from egrljax.checkpoint import load_state, save_state
from nemojax.config import NemoConfig
from nemojax.loop import run
from nemojax.nemo import nemo
from nemojax.space import BitSpace

SPACE = BitSpace.create([f"q{i}" for i in range(4)])
CONFIG = NemoConfig(population=10, species=("floor",), archive_capacity=16)
SETTINGS = {"config": asdict(CONFIG), "seed": 3, "objectives": ["error", "size"]}


TRACES = []


def evaluate(bits):
    TRACES.append(bits.shape)
    b = bits.astype(jnp.float32)
    return jnp.stack([jnp.sum(2.0**-b, axis=1), jnp.sum(b, axis=1)], axis=1)


@pytest.fixture(scope="module")
def algo():
    return nemo(CONFIG, SPACE, 2)


@pytest.fixture
def saved(algo, tmp_path):
    path = tmp_path / "run" / "state.nemo"
    state, _ = run(algo, evaluate, algo.init(jax.random.key(3)), generations=2, every=1)
    save_state(path, state, SETTINGS)
    return path, state


def assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_resume_equals_uninterrupted(algo, saved):
    """2 + 3 generations through a file, against 5 that were never stopped, with one trace for all."""
    path, _ = saved
    like = algo.init(jax.random.key(99))
    resumed, _ = run(algo, evaluate, load_state(path, like, SETTINGS), generations=3, every=1)
    uninterrupted, _ = run(algo, evaluate, algo.init(jax.random.key(3)), generations=5, every=1)
    assert_trees_equal(resumed, uninterrupted)
    assert TRACES == [(10, 4)]


def test_round_trip_and_file_layout(algo, saved):
    path, state = saved
    assert_trees_equal(load_state(path, algo.init(jax.random.key(0)), SETTINGS), state)
    header = json.loads(path.read_bytes().split(b"\n", 1)[0])
    assert header["schema"] == 2
    assert header["arrays"]["bits"] == ["int32", [1, 10, 4]]
    assert header["written_by"]["jax"] == jax.__version__
    assert header["settings"]["config"]["population"] == 10
    assert sorted(os.listdir(path.parent)) == ["state.nemo"], "no temporary file is left"


def test_order_and_kind_of_settings_do_not_matter(algo, saved):
    path, state = saved
    same = {"objectives": ("error", "size"), "seed": np.int64(3), "config": SETTINGS["config"]}
    loaded = load_state(path, algo.init(jax.random.key(0)), same)
    np.testing.assert_array_equal(loaded.bits, state.bits)


def refusal(path, like, settings=SETTINGS):
    with pytest.raises(ValueError, match=str(path)) as caught:
        load_state(path, like, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_truncation_is_noticed(algo, saved):
    path, _ = saved
    whole, like = path.read_bytes(), algo.init(jax.random.key(0))
    header = whole.index(b"\n")
    for length in (0, 1, header // 2, header, header + 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        message = refusal(path, like)
        assert ("not a saved search state" in message) == (length < header)
        assert ("cut short" in message) == (length >= header)
    path.write_bytes(whole + b"x")
    assert "bytes" in refusal(path, like)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 1.0])
def test_a_flipped_bit_is_noticed(algo, saved, place):
    path, _ = saved
    whole = bytearray(path.read_bytes())
    body = whole.index(b"\n") + 1
    whole[body + int(place * (len(whole) - 1 - body))] ^= 1
    path.write_bytes(whole)
    message = refusal(path, algo.init(jax.random.key(0)))
    assert "does not match its checksum: damaged; start the search anew" in message


def test_changed_settings_in_the_header_are_noticed(algo, saved):
    path, _ = saved
    path.write_bytes(path.read_bytes().replace(b'"seed": 3', b'"seed": 4', 1))
    message = refusal(path, algo.init(jax.random.key(0)), {**SETTINGS, "seed": 4})
    assert "does not match its checksum" in message


def test_other_settings_are_named(algo, saved):
    path, _ = saved
    like = algo.init(jax.random.key(0))
    message = refusal(path, like, {"seed": 4, "config": SETTINGS["config"], "budget": 100})
    assert (
        "budget was 'nothing' and is now 100; objectives was ['error', 'size'] and is now 'nothing'"
        in message
    )
    assert "seed was 3 and is now 4; use the same settings, or another file for a new search" in message
    assert "config" not in message


def test_another_shape_is_named(saved):
    path, _ = saved
    other = nemo(replace(CONFIG, archive_capacity=8), SPACE, 2).init(jax.random.key(0))
    message = refusal(path, other)
    assert "['archive']['bits'] as ((16, 4), 'int32'), this search needs ((8, 4), 'int32')" in message


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"[1]\n", b'{"format": "other"}\n', b"null\nx"])
def test_other_files_are_refused(algo, tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    assert "is not a saved search state; give a file that save_state wrote" in refusal(
        path, algo.init(jax.random.key(0))
    )


def test_a_later_version_is_named_and_version_1_is_read(algo, saved):
    path, state = saved
    first, _, payload = path.read_bytes().partition(b"\n")
    header = json.loads(first)
    path.write_bytes(json.dumps({**header, "schema": 3}).encode() + b"\n" + payload)
    like = algo.init(jax.random.key(0))
    assert "has schema version 3, this library reads 1 to 2; load it with the library" in refusal(path, like)
    # As release 1 wrote it: a checksum of the settings and the state alone.
    digest = hashlib.sha256(json.dumps(header["settings"], sort_keys=True).encode() + b"\n" + payload)
    old = {name: header[name] for name in ("format", "settings", "length")}
    old |= {"schema": 1, "sha256": digest.hexdigest()}
    path.write_bytes(json.dumps(old).encode() + b"\n" + payload)
    assert_trees_equal(load_state(path, like, SETTINGS), state)


def sealed(path, payload, **fields):
    """A file of these fields and this payload with the checksum that it should have."""
    header = json.loads(path.read_bytes().partition(b"\n")[0]) | {"length": len(payload)} | fields
    del header["sha256"]
    text = json.dumps(header, sort_keys=True).encode()
    header["sha256"] = hashlib.sha256(text + b"\n" + payload).hexdigest()
    path.write_bytes(json.dumps(header).encode() + b"\n" + payload)


@pytest.mark.parametrize(
    "tree",
    [
        b"\xc1",  # no msgpack
        msgpack.packb([1, 2]),
        msgpack.packb({"a": "text"}),
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb([[2], "float3:", b"12345678"]))}),
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb([[2], "V4", b"12345678"]))}),
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb([[10**12], "float32", b"12345678"]))}),
    ],
)
def test_a_forged_state_is_refused_though_its_checksum_fits(algo, saved, tree):
    path, _ = saved
    sealed(path, tree)
    assert "start the search anew" in refusal(path, algo.init(jax.random.key(0)))
    sealed(path, tree, settings=None)
    assert "damaged" in refusal(path, algo.init(jax.random.key(0)))


def test_the_last_checkpoints_are_kept(tmp_path):
    place = Keep(tmp_path / "run.ckpt", 3)
    for step in range(5):
        save_state(place, {"step": np.int32([step])}, {})
    like = {"step": np.zeros(1, np.int32)}
    assert [int(load_state(p, like, {})["step"][0]) for p in (place, place.older(1), place.older(2))] == [
        4,
        3,
        2,
    ]
    assert sorted(os.listdir(tmp_path)) == ["run.ckpt", "run.ckpt.1", "run.ckpt.2"]
    (tmp_path / "run.ckpt").write_bytes((tmp_path / "run.ckpt").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"cut short; .* copy; .*run\.ckpt\.1 is older"):
        load_state(place, like, {})
    with pytest.raises(ValueError, match="count must be a whole number"):
        Keep("x", 0)


def test_a_failed_write_leaves_the_old_file(saved, algo, monkeypatch):
    path, state = saved

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_state(path, algo.init(jax.random.key(1)), SETTINGS)
    monkeypatch.undo()
    assert os.listdir(path.parent) == ["state.nemo"]
    assert_trees_equal(load_state(path, state, SETTINGS), state)


def test_settings_must_be_json(tmp_path):
    with pytest.raises(ValueError, match=r"settings must hold JSON values only: .* is a object"):
        save_state(tmp_path / "x", {"a": jnp.zeros(2)}, {"thing": object()})


def test_a_missing_file_is_missing(algo, tmp_path):
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none", algo.init(jax.random.key(0)), SETTINGS)
