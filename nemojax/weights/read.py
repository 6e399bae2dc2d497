"""One door for weight files: the layout is found by content, and nothing in a file is executed."""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors

from nemojax.weights.archive import open_archive
from nemojax.weights.hdf5 import HDF5_MAGIC, is_keras, read_hdf5, read_keras
from nemojax.weights.opcodes import STORAGES, damaged, shorten
from nemojax.weights.pth import read_old_layout, read_zip_layout

SAFETENSORS = {
    "F64": STORAGES["DoubleStorage"],
    "F32": STORAGES["FloatStorage"],
    "F16": STORAGES["HalfStorage"],
    "BF16": STORAGES["BFloat16Storage"],
    "I64": STORAGES["LongStorage"],
    "I32": STORAGES["IntStorage"],
    "I16": STORAGES["ShortStorage"],
    "I8": STORAGES["CharStorage"],
    "U8": STORAGES["ByteStorage"],
    "BOOL": STORAGES["BoolStorage"],
}


_LONGEST = 100_000_000  # bytes of a header, as the format has it


class WeightFile(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, np.ndarray]  # read-only
    metadata: dict[str, str]  # texts beside the tensors, of .safetensors only
    digest: str  # SHA-256 of the file, hexadecimal


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name -> array of a weight file; the arrays are read-only.

    PyTorch's .pth (zip or old layout), .safetensors, and Keras's .h5, .weights.h5 and .keras (which need
    h5py: extra "keras"). bfloat16 tensors come as `ml_dtypes.bfloat16`. The whole file is read into memory.

    Raises:
        ValueError: one line with the file, what is wrong with it and what to do; whatever the bytes are.
    """
    return read_file(path).tensors


def read_file(path: str | os.PathLike[str]) -> WeightFile:
    """`read_weights`, with all else that is known of the file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ValueError(f"{path}: cannot be read ({reason}): give a file of weights") from None
    try:
        tensors, metadata = _by_content(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return WeightFile(tensors, metadata, hashlib.sha256(data).hexdigest())


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts beside the tensors of a .safetensors file, without reading these; {} where there are none.

    Also for files that cannot be read or are damaged: `read_file` says what is wrong with them.
    """
    try:
        with Path(path).open("rb") as file:
            size = file.read(8)
            data = size + file.read(min(int.from_bytes(size, "little"), _LONGEST))
        found = _metadata(data)
    except (OSError, ValueError, RecursionError, AttributeError):
        return {}
    return {name: text for name, text in found.items() if isinstance(text, str)}


def _by_content(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not data:
        raise ValueError("it is empty: download or save it again")
    if data[8:9] == b"{":  # first, as the length before it may begin like anything
        return _read_safetensors(data), _metadata(data)
    if data.startswith(b"PK\x03\x04"):
        archive = open_archive(data)
        return read_keras(archive) if is_keras(archive) else read_zip_layout(archive, len(data)), {}
    if data.startswith(b"\x80"):
        return read_old_layout(data), {}
    if data.startswith(HDF5_MAGIC):
        return read_hdf5(data), {}
    if data.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer, not the weights: run 'git lfs pull'")
    kinds = "neither .pth nor .safetensors, .h5 or .keras"
    raise ValueError(f"it starts with {data[:8]!r}, {kinds}: convert it to one of them")


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise damaged(f"as safetensors: {' '.join(str(error).split())}") from None
    out = {}
    for name, entry in entries:
        if entry["dtype"] not in SAFETENSORS:
            raise ValueError(f"tensor {shorten(name)} is of type {entry['dtype']}: save it as F32")
        array = np.frombuffer(bytes(entry["data"]), SAFETENSORS[entry["dtype"]])
        out[name] = array.reshape(entry["shape"])
    return out


def _metadata(data: bytes) -> dict[str, str]:
    """Of a .safetensors file whose header has been checked: length as int64, then JSON."""
    size = int.from_bytes(data[:8], "little")
    found = json.loads(data[8 : 8 + size]).get("__metadata__")
    return found if isinstance(found, dict) else {}
