"""Files written whole or not at all, and the state of a training in one of them.

A state file is one line of JSON (format, schema version, settings, length and SHA-256), a line break, and
the state as msgpack. Nothing in it is executed on loading.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

FORMAT, SCHEMA = "fewshotjax state", 1
State = TypeVar("State")


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Puts `data` at `path`, replacing what was there, in one step that survives a crash.

    It goes to a new file beside the target, is flushed to disk and then renamed.

    Raises:
        OSError: the folder is missing, or cannot be written to; then the old file is untouched.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.new")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def save_state(path: str | os.PathLike[str], state: Any, settings: Mapping[str, Any]) -> None:
    """Write the pytree `state` to `path`; a folder that is missing is made.

    Args:
        settings: what the run depends on, as JSON values; `load_state` insists on the same.

    Raises:
        ValueError: settings that JSON cannot hold.
    """
    payload = serialization.to_bytes(jax.device_get(serialization.to_state_dict(state)))
    text = _canonical(settings)
    header = {
        "format": FORMAT,
        "schema": SCHEMA,
        "settings": json.loads(text),
        "length": len(payload),
        "sha256": _checksum(text, payload),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(header).encode() + b"\n" + payload)


def load_state(path: str | os.PathLike[str], like: State, settings: Mapping[str, Any]) -> State:
    """The state saved in `path`, as a pytree of the structure, shapes and types of `like`, whose leaves are
    arrays; NumPy's come back as such.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, of another version, cut short, damaged, written with other settings,
            or of another shape than `like`; the message says which, and what to do.
    """
    first, _, payload = Path(path).read_bytes().partition(b"\n")
    again = "start anew with another file, or restore this one from a copy"
    try:
        header = json.loads(first)
        known = header["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise ValueError(f"{path} is not a saved state of fewshotjax; give a file that a training wrote")
    if header.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema version {header.get('schema')}, this library reads {SCHEMA}; "
            "load it with the library that wrote it"
        )
    if len(payload) != header.get("length"):
        raise ValueError(f"{path} holds {len(payload)} of {header.get('length')} bytes: cut short; {again}")
    if _checksum(_canonical(header.get("settings") or {}), payload) != header.get("sha256"):
        raise ValueError(f"{path} does not match its checksum: damaged; {again}")
    _compare(str(path), header["settings"], json.loads(_canonical(settings)))
    saved = serialization.msgpack_restore(payload)
    target = serialization.to_state_dict(like)
    found, wanted = _shapes(saved), _shapes(target)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} holds {name} as {found.get(name, 'nothing')}, this run needs "
                f"{wanted.get(name, 'nothing')}; use the network and the library it was written with"
            )
    leaves = jax.tree.map(lambda a, b: b if isinstance(a, np.ndarray) else jnp.asarray(b), target, saved)
    return serialization.from_state_dict(like, leaves)


def digest_of(arrays: Iterable[Any]) -> str:
    """Of every number in some arrays, with shapes and types: tells two inputs of a run apart."""
    found = hashlib.sha256()
    for one in arrays:
        array = np.asarray(one)
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:16]


def _canonical(settings: Mapping[str, Any]) -> str:
    """One text per value, whatever the order of its keys."""
    try:
        return json.dumps(dict(settings), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings must hold JSON values only: {error}") from error


def _checksum(settings: str, payload: bytes) -> str:
    return hashlib.sha256(settings.encode() + b"\n" + payload).hexdigest()


def _compare(path: str, written: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise if two settings differ, naming each difference."""
    differences = [
        f"{name} was {written.get(name, 'nothing')!r} and is now {wanted.get(name, 'nothing')!r}"
        for name in sorted(written.keys() | wanted.keys())
        if written.get(name, "nothing") != wanted.get(name, "nothing")
    ]
    if differences:
        raise ValueError(
            f"{path} was written with other settings: {'; '.join(differences)}; "
            "use the same settings, or another file for a new run"
        )


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        jax.tree_util.keystr(path): (np.shape(leaf), str(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
