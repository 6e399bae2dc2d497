"""Files written whole or not at all, and the state of a training in one of them.

A state file is one line of JSON (format, schema version, what wrote it, settings, the arrays with their types
and shapes, length, and the SHA-256 of all that), a line break, and the state as msgpack. Nothing in it is
executed on loading. Version 1, whose checksum does not cover the rest of the line, is read as well.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

FORMAT, SCHEMA = "fewshotjax state", 2
AGAIN = "start anew with another file, or restore this one from a copy"
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
    if os.name == "posix":  # the rename itself is durable once its folder is on disk
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
    """Write the pytree `state` to `path`; a folder that is missing is made.

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
        "settings": json.loads(_canonical(settings)),
        "arrays": _inventory(tree),
        "length": len(payload),
    }
    header["sha256"] = _digest(_canonical(header), payload)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(path, Keep):
        path.rotate()
    write_bytes(path, json.dumps(header).encode() + b"\n" + payload)


def load_state(path: str | os.PathLike[str], like: State, settings: Mapping[str, Any]) -> State:
    """The state saved in `path`, as a pytree of the structure, shapes and types of `like`, whose leaves are
    arrays; NumPy's come back as such.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, of another version, cut short, damaged, written with other settings,
            or of another shape than `like`; the message says which, and what to do.
    """
    header, payload = _checked(path)
    _compare(str(path), header["settings"], json.loads(_canonical(settings)))
    saved = _restored(path, payload)
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


def _checked(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a whole file of a version that is read."""
    first, _, payload = Path(path).read_bytes().partition(b"\n")
    again = AGAIN + "".join(f"; {old} is older" for old in [Path(f"{os.fspath(path)}.1")] if old.exists())
    try:
        header = json.loads(first)
        known = header["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise ValueError(f"{path} is not a saved state of fewshotjax; give a file that a training wrote")
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
        saved = serialization.msgpack_restore(payload)
    except Exception as error:  # msgpack, flax and NumPy raise a dozen types
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} holds no arrays ({reason:.80}); {AGAIN}") from None
    if not isinstance(saved, dict) or not _plain_arrays(saved):
        raise ValueError(f"{path} holds something else than arrays by name; {AGAIN}")
    return saved


def _plain_arrays(tree: Any) -> bool:
    if isinstance(tree, dict):
        return all(isinstance(name, str) and _plain_arrays(one) for name, one in tree.items())
    return tree is None or isinstance(tree, np.ndarray | np.generic)


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


def _digest(settings: str, payload: bytes) -> str:
    return hashlib.sha256(settings.encode() + b"\n" + payload).hexdigest()


def _compare(path: str, written: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise if two settings differ, naming each difference."""
    differences = [
        f"{_one_line(name)} was {written.get(name, 'nothing')!r} and is now {wanted.get(name, 'nothing')!r}"
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
