"""State files: what comes back, and what is refused."""

import hashlib
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.files import Keep, digest_of, load_state, save_state, write_bytes

STATE = {"weights": jnp.arange(6.0).reshape(2, 3), "step": jnp.asarray(3, jnp.int32), "rows": np.array([0.1])}
SETTINGS = {"rate": 0.1, "sizes": [1, 2]}


def test_what_is_saved_comes_back(tmp_path):
    file = tmp_path / "new" / "state"
    save_state(file, STATE, SETTINGS)
    like = {"weights": jnp.zeros((2, 3)), "step": jnp.asarray(0, jnp.int32), "rows": np.zeros(1)}
    found = load_state(file, like, dict(reversed(SETTINGS.items())))
    np.testing.assert_array_equal(found["weights"], STATE["weights"])
    assert found["step"].dtype == jnp.int32
    assert int(found["step"]) == 3
    assert isinstance(found["rows"], np.ndarray)
    assert found["rows"].dtype == np.float64  # exactly, though JAX would take float32
    assert found["rows"][0] == 0.1


def test_what_is_refused(tmp_path):
    file = tmp_path / "state"
    save_state(file, STATE, SETTINGS)
    with pytest.raises(ValueError, match=r"rate was 0\.1 and is now 0\.2; use the same settings"):
        load_state(file, STATE, {**SETTINGS, "rate": 0.2})
    with pytest.raises(
        ValueError, match=r"\['weights'\] as \(\(2, 3\), 'float32'\), this run needs \(\(2, 4\)"
    ):
        load_state(file, {**STATE, "weights": jnp.zeros((2, 4))}, SETTINGS)
    with pytest.raises(ValueError, match=r"\['more'\] as nothing"):
        load_state(file, {**STATE, "more": jnp.zeros(1)}, SETTINGS)
    with pytest.raises(ValueError, match="settings must hold JSON values only"):
        save_state(file, STATE, {"x": object()})
    good = file.read_bytes()
    head, _, payload = good.partition(b"\n")
    header = json.loads(head)
    for data, message in (
        (good[:-1], "holds .* bytes: cut short"),
        (good[:-1] + bytes([good[-1] ^ 1]), "does not match its checksum: damaged"),
        (
            json.dumps({**header, "schema": 9}).encode() + b"\n" + payload,
            "schema version 9, this library reads 1 to 2",
        ),
        (json.dumps({**header, "settings": {}}).encode() + b"\n" + payload, "does not match its checksum"),
        (b"PK\x03\x04\x00", "is not a saved state"),
        (b"[1]\n", "is not a saved state"),
        (b"", "is not a saved state"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            load_state(file, STATE, SETTINGS)
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none", STATE, SETTINGS)


def sealed(file, payload, schema, settings=SETTINGS):
    """A file with the checksum that it should have, as this release or release 1 wrote it."""
    header = {"format": "fewshotjax state", "schema": schema, "settings": settings, "length": len(payload)}
    covered = settings if schema == 1 else header
    text = json.dumps(covered, sort_keys=True).encode()
    digest = hashlib.sha256(text + b"\n" + payload).hexdigest()
    file.write_bytes(json.dumps({**header, "sha256": digest}).encode() + b"\n" + payload)


def test_version_1_is_read_and_a_forged_state_is_refused_though_its_checksum_fits(tmp_path):
    file = tmp_path / "state"
    save_state(file, STATE, SETTINGS)
    header, _, payload = file.read_bytes().partition(b"\n")
    assert json.loads(header)["arrays"]["weights"] == ["float32", [2, 3]]
    sealed(file, payload, 1)
    np.testing.assert_array_equal(load_state(file, STATE, SETTINGS)["weights"], STATE["weights"])
    for forged in (b"\xc1", b"\x92\x01\x02", b"\x81\xa1a\xa1b", payload.replace(b"float32", b"float3:")):
        sealed(file, forged, 2)
        with pytest.raises(ValueError, match=r"holds .*; start anew") as caught:
            load_state(file, STATE, SETTINGS)
        assert "\n" not in str(caught.value)
    sealed(file, payload, 2, None)
    with pytest.raises(ValueError, match="damaged"):
        load_state(file, STATE, SETTINGS)


def test_the_last_states_are_kept(tmp_path):
    place = Keep(tmp_path / "run.ckpt", 2)
    for step in range(3):
        save_state(place, {"step": np.int32([step])}, {})
    like = {"step": np.zeros(1, np.int32)}
    assert [int(load_state(p, like, {})["step"][0]) for p in (place, place.older(1))] == [2, 1]
    assert sorted(os.listdir(tmp_path)) == ["run.ckpt", "run.ckpt.1"]
    with pytest.raises(ValueError, match="count must be a whole number"):
        Keep("x", -1)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "state"
    write_bytes(file, b"old")
    write_bytes(file, b"new")
    assert file.read_bytes() == b"new"

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(file, b"other")
    assert file.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["state"]
    with pytest.raises(OSError, match="No such file"):
        write_bytes(tmp_path / "none" / "state", b"x")


def test_a_digest_tells_shape_type_and_number():
    arrays = [np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32)]
    arrays += [np.float32([[0, 0, 0], [0, 0, 1]]), np.zeros(0), np.asarray(1.0), jnp.zeros(3, jnp.bfloat16)]
    assert len({digest_of([one]) for one in arrays}) == len(arrays)
    assert digest_of([arrays[3][:, ::-1]]) == digest_of([np.ascontiguousarray(arrays[3][:, ::-1])])
