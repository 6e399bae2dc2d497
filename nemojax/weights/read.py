"""One door for weight files: the layout is found by content, and nothing in a file is executed."""

import os
from pathlib import Path

import numpy as np
import safetensors

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


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Name -> array of a .pth (zip or old layout) or .safetensors file; the arrays are read-only.

    bfloat16 tensors come as `ml_dtypes.bfloat16`. The whole file is read into memory.

    Raises:
        ValueError: one line with the file, what is wrong with it and what to do; whatever the bytes are.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ValueError(f"{path}: cannot be read ({reason}): give a .pth or .safetensors file") from None
    try:
        return _by_content(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _by_content(data: bytes) -> dict[str, np.ndarray]:
    if not data:
        raise ValueError("it is empty: download or save it again")
    if data.startswith(b"PK\x03\x04"):
        return read_zip_layout(data)
    if data.startswith(b"\x80"):
        return read_old_layout(data)
    if data[8:9] == b"{":
        return _read_safetensors(data)
    if data.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer, not the weights: run 'git lfs pull'")
    raise ValueError(f"it starts with {data[:8]!r}, neither .pth nor .safetensors: convert it to one of them")


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise damaged(f"as safetensors: {error}") from None
    out = {}
    for name, entry in entries:
        if entry["dtype"] not in SAFETENSORS:
            raise ValueError(f"tensor {shorten(name)} is of type {entry['dtype']}: save it as F32")
        array = np.frombuffer(bytes(entry["data"]), SAFETENSORS[entry["dtype"]])
        out[name] = array.reshape(entry["shape"])
    return out
