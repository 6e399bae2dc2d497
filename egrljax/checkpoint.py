"""Saving and restoring the state of a search or a training, with the settings it was started with.

A file is one line of JSON (format, schema version, settings, length and SHA-256), a line break, and
the state as msgpack. Nothing in it is executed on loading.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from hwmodel import write_bytes

FORMAT, SCHEMA = "frugaljax state", 1
State = TypeVar("State")


def save_state(path: str | os.PathLike, state: Any, settings: Mapping[str, Any]) -> None:
    """Write `state` to `path`, whole or not at all.

    A reader or a crash finds the old file or the new one. A folder that is missing is made.

    Args:
        settings: what the run depends on, as JSON values; `load_state` insists on the same.

    Raises:
        ValueError: settings that JSON cannot hold.
    """
    path = Path(path)
    payload = serialization.to_bytes(jax.device_get(serialization.to_state_dict(state)))
    settings_text = _canonical(dict(settings))
    header = {
        "format": FORMAT,
        "schema": SCHEMA,
        "settings": json.loads(settings_text),
        "length": len(payload),
        "sha256": _digest(settings_text, payload),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(header).encode() + b"\n" + payload)


def load_state(
    path: str | os.PathLike, like: State, settings: Mapping[str, Any], *, part: bool = False
) -> State:
    """The state saved in `path`, as a pytree of the structure, shapes and types of `like`.

    Where an array of `like` has no rows, the saved one may have any number (a cache, a history).

    Args:
        part: `like` is a dict with some of the saved one's entries; the others are left.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, of another version, cut short, damaged, written with other
            settings, or of another shape than `like`; the message says which, and what to do.
    """
    first, _, payload = Path(path).read_bytes().partition(b"\n")
    again = "start the search anew, or restore the file from a copy"
    try:
        header = json.loads(first)
        known = header["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{path} is not a saved search state; give a file that save_state wrote")
    if header.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema version {header.get('schema')}, this library reads {SCHEMA}; "
            "load it with the library that wrote it"
        )
    if len(payload) != header.get("length"):
        raise ValueError(f"{path} holds {len(payload)} of {header.get('length')} bytes: cut short; {again}")
    if _digest(_canonical(header.get("settings")), payload) != header.get("sha256"):
        raise ValueError(f"{path} does not match its checksum: damaged; {again}")
    _compare(str(path), header["settings"], json.loads(_canonical(dict(settings))))
    saved = jax.tree.map(jnp.asarray, serialization.msgpack_restore(payload))
    if part:
        saved = {name: saved[name] for name in like if name in saved}  # type: ignore[attr-defined]
    _check_shapes(str(path), saved, serialization.to_state_dict(like))
    return serialization.from_state_dict(like, saved)


def digest(tree: Any) -> str:
    """Of every number in a pytree, with shapes and types: tells two environments apart."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]


def raw(state: Any) -> Any:
    """A state whose `key` is given as the numbers that it holds, for a file."""
    return state.replace(key=jax.random.key_data(state.key))


def typed(state: Any) -> Any:
    """The same, with a key again."""
    return state.replace(key=jax.random.wrap_key_data(state.key))


def _canonical(settings: Any) -> str:
    """One text per value, whatever the order of its keys."""
    try:
        return json.dumps(settings, sort_keys=True, default=_plain)
    except TypeError as error:
        raise ValueError(f"settings must hold JSON values only: {error}") from error


def _plain(value: Any) -> Any:
    """NumPy's numbers and the like, for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def _digest(settings_text: str, payload: bytes) -> str:
    return hashlib.sha256(settings_text.encode() + b"\n" + payload).hexdigest()


def _compare(path: str, written: dict, wanted: dict) -> None:
    """Raise if two settings differ, naming each difference."""
    absent = "nothing"
    differences = [
        f"{name} was {written.get(name, absent)!r} and is now {wanted.get(name, absent)!r}"
        for name in sorted(written.keys() | wanted.keys())
        if written.get(name, absent) != wanted.get(name, absent)
    ]
    if differences:
        raise ValueError(
            f"{path} was written with other settings: {'; '.join(differences)}; "
            "use the same settings, or another file for a new search"
        )


def _check_shapes(path: str, saved: Any, like: Any) -> None:
    """Raise if the two nested dicts differ in structure, shape or type.

    An array of `like` without rows stands for any number of them.
    """
    found, wanted = (
        {jax.tree_util.keystr(where): (leaf.shape, str(leaf.dtype)) for where, leaf in leaves}
        for leaves in (
            jax.tree_util.tree_leaves_with_path(saved),
            jax.tree_util.tree_leaves_with_path(jax.tree.map(jnp.asarray, like)),
        )
    )
    for name in sorted(found.keys() | wanted.keys()):
        shape, _ = wanted.get(name, ((), ""))
        if shape[:1] == (0,) and name in found:
            found[name] = ((0, *found[name][0][1:]), found[name][1])
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} holds {name} as {found.get(name, 'nothing')}, this search needs "
                f"{wanted.get(name, 'nothing')}; use the space, objectives and library it was written with"
            )
