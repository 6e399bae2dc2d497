"""Saving and restoring the state of a search or a training, with the settings it was started with.

A file is one line of JSON (format, schema version, what wrote it, settings, the arrays with their types and
shapes, length, and the SHA-256 of all that), a line break, and the state as msgpack. Nothing in it is
executed on loading. Version 1, whose checksum does not cover the rest of the line, is read as well.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from hwmodel import Hosts, write_bytes

FORMAT, SCHEMA = "frugaljax state", 2
AGAIN = "start the search anew, or restore the file from a copy"
State = TypeVar("State")


@dataclass(frozen=True)
class Keep:
    """The path of a checkpoint of which the last `count` stay: `checkpoint=Keep("run.ckpt", 3)`.

    run.ckpt is the newest, run.ckpt.1 the one before it, and so on. Should the newest be damaged, rename the
    one before: a run goes on from an older checkpoint to the very same result.
    """

    path: str | os.PathLike[str]
    count: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= 1000:
            raise ValueError(f"count must be a whole number of [1, 1000], got {self.count!r}")
        if not isinstance(self.path, str | os.PathLike):
            raise ValueError(f"path must be a path, got {self.path!r}")

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return os.fspath(self.path)

    def older(self, age: int) -> Path:
        """Where the checkpoint before the newest is (age 1), the one before that (2), ..."""
        return Path(f"{os.fspath(self.path)}.{age}")

    def rotate(self) -> None:
        """Each file becomes one older; the newest stays until another takes its place."""
        newest = Path(self.path)
        if self.count == 1 or not newest.exists():
            return
        for age in range(self.count - 1, 1, -1):
            if self.older(age - 1).exists():
                os.replace(self.older(age - 1), self.older(age))
        write_bytes(self.older(1), newest.read_bytes())


def save_state(path: str | os.PathLike[str], state: Any, settings: Mapping[str, Any]) -> None:
    """Write `state` to `path`, whole or not at all.

    A reader or a crash finds the old file or the new one. A folder that is missing is made.

    Args:
        path: or a `Keep`, which keeps the files before it, too.
        settings: what the run depends on, as JSON values; `load_state` insists on the same.

    Raises:
        ValueError: settings that JSON cannot hold.
    """
    tree = jax.device_get(serialization.to_state_dict(state))
    payload = serialization.to_bytes(tree)
    header = {
        "format": FORMAT,
        "schema": SCHEMA,
        "written_by": _versions(),
        "settings": json.loads(_canonical(dict(settings))),
        "arrays": _inventory(tree),
        "length": len(payload),
    }
    header["sha256"] = _digest(_canonical(header), payload)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(path, Keep):
        path.rotate()
    write_bytes(path, json.dumps(header).encode() + b"\n" + payload)


def load_state(
    path: str | os.PathLike[str], like: State, settings: Mapping[str, Any], *, part: bool = False
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
    return _loaded(path, Path(path).read_bytes(), like, settings, part)


def state_if_there(
    path: str | os.PathLike[str] | None,
    like: State,
    settings: Mapping[str, Any],
    *,
    part: bool = False,
    hosts: Hosts | None = None,
) -> State | None:
    """As `load_state`; None without a path, or where there is no such file yet.

    Args:
        hosts: processes of which the first reads the file, for all.

    Raises:
        ValueError: as `load_state`.
        hwmodel.HostsError: the first process could not read the file.
    """
    if path is None:
        return None

    def read() -> bytes | None:
        return Path(path).read_bytes() if Path(path).exists() else None

    content = read() if hosts is None else hosts.from_first(read)
    return None if content is None else _loaded(path, content, like, settings, part)


def _loaded(
    path: str | os.PathLike[str], content: bytes, like: State, settings: Mapping[str, Any], part: bool
) -> State:
    header, payload = _checked(path, content)
    _compare(str(path), header["settings"], json.loads(_canonical(dict(settings))))
    saved = _restored(path, payload)
    if part:
        saved = {name: saved[name] for name in like if name in saved}  # type: ignore[attr-defined]
    _check_shapes(str(path), saved, serialization.to_state_dict(like))
    return serialization.from_state_dict(like, saved)


def _checked(path: str | os.PathLike[str], content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a whole file of a version that is read."""
    first, _, payload = content.partition(b"\n")
    again = AGAIN + "".join(f"; {old} is older" for old in [Path(f"{os.fspath(path)}.1")] if old.exists())
    try:
        header = json.loads(first)
        known = header["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise ValueError(f"{path} is not a saved search state; give a file that save_state wrote")
    if header.get("schema") not in (1, SCHEMA) or isinstance(header["schema"], bool):
        raise ValueError(
            f"{path} has schema version {header.get('schema')!r:.40}, this library reads 1 to {SCHEMA}; "
            "load it with the library that wrote it"
        )
    if len(payload) != header.get("length"):
        told = f"{header.get('length')!r:.40}"
        raise ValueError(f"{path} holds {len(payload)} of {told} bytes: cut short; {again}")
    settings, checksum = header.get("settings"), header.pop("sha256", None)
    covered = settings if header["schema"] == 1 else header
    if not isinstance(settings, dict) or _digest(_canonical(covered), payload) != checksum:
        raise ValueError(f"{path} does not match its checksum: damaged; {again}")
    return header, payload


def _one_line(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _restored(path: str | os.PathLike[str], payload: bytes) -> Any:
    """Nested dicts of arrays; a checksum that fits does not make a forged payload one."""
    try:
        saved = jax.tree.map(jnp.asarray, serialization.msgpack_restore(payload))
    except Exception as error:  # msgpack, flax, NumPy and JAX raise a dozen types
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no arrays ({reason:.80}); {AGAIN}") from None
    if not isinstance(saved, dict) or not _plain_arrays(saved):
        raise ValueError(f"{path} holds something else than arrays by name; {AGAIN}")
    return saved


def _plain_arrays(tree: Any) -> bool:
    if isinstance(tree, dict):
        return all(isinstance(name, str) and _plain_arrays(one) for name, one in tree.items())
    return tree is None or isinstance(tree, jax.Array)


def _inventory(tree: Any) -> dict[str, list[Any]]:
    """Name -> [type, shape] of the arrays, for whoever looks into a file."""
    return {
        jax.tree_util.keystr(where, simple=True, separator="/"): [
            str(np.asarray(leaf).dtype),
            list(np.shape(leaf)),
        ]
        for where, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _versions() -> dict[str, str]:
    """What wrote a file: for people, and for telling which library reads it."""
    found = {}
    for name in ("frugaljax", "jax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not installed, but run from its folder
            found[name] = "unknown"
    return found


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
        f"{_one_line(name)} was {written.get(name, absent)!r} and is now {wanted.get(name, absent)!r}"
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
