"""Tensors of a PyTorch file (.pth, .pt) as NumPy arrays, in both layouts of `torch.save`.

Zip layout (PyTorch 1.6 and later): an archive with <prefix>/data.pkl, which describes the tensors,
<prefix>/data/<key>, one stored member per storage, and <prefix>/byteorder.
Old layout: five pickles in a row (magic number, protocol, machine, tensors, list of storage keys), then
for every key the number of elements as int64 and the elements.
"""

import math
import zipfile
from typing import Any

import numpy as np

from nemojax.weights.archive import read_member
from nemojax.weights.opcodes import Storage, Tensor, damaged, read_pickle, shorten

WRITER = "torch.save"
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
WRAPPERS = ("state_dict", "model_state_dict", "model")  # usual keys of the weights in a training checkpoint


def read_zip_layout(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    """The tensors of a zip-layout file of `size` bytes; the arrays are read-only."""
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it is a zip archive with {len(pickles)} data.pkl: give a file made by torch.save")
    prefix = pickles[0].removesuffix("data.pkl")
    if (
        prefix + "byteorder" in archive.namelist()
        and read_member(archive, prefix + "byteorder", WRITER) != b"little"
    ):
        raise ValueError("it was written on a big-endian machine: save it again on a little-endian one")
    tree, _, storages = read_pickle(read_member(archive, pickles[0], WRITER), 0)
    left = size  # members may overlap in a forged archive: together they never exceed the file
    arrays = {}
    for key, storage in storages.items():
        raw = read_member(archive, f"{prefix}data/{key}", WRITER)
        left -= len(raw)
        if left < 0 or len(raw) != storage.size * storage.dtype.itemsize:
            raise damaged(f"storage {shorten(key)} of {storage.size} {storage.dtype} has {len(raw)} bytes")
        arrays[key] = np.frombuffer(raw, storage.dtype)
    return _tensors(tree, arrays)


def read_old_layout(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of an old-layout file, given whole; the arrays are read-only."""
    magic, position, _ = read_pickle(data, 0)
    if magic != OLD_MAGIC:
        raise ValueError("it is a pickle but no PyTorch file: give a state dict saved by torch.save")
    protocol, position, _ = read_pickle(data, position)
    machine, position, _ = read_pickle(data, position)
    if protocol != OLD_PROTOCOL or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError(f"its layout ({OLD_PROTOCOL}, little-endian expected) is not known: save it again")
    tree, position, storages = read_pickle(data, position)
    keys, position, _ = read_pickle(data, position)
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not listed or sorted(keys) != sorted(storages):
        raise damaged("the storages listed are not those of the tensors")
    arrays = {}
    for key in keys:
        arrays[key], position = _inline_storage(data, position, storages[key])
    if position != len(data):
        raise damaged(f"{len(data) - position} bytes follow the last storage")
    return _tensors(tree, arrays)


def _inline_storage(data: bytes, position: int, storage: Storage) -> tuple[np.ndarray, int]:
    """A storage of the old layout, int64 count and elements, copied so that it is aligned."""
    count = int.from_bytes(data[position : position + 8], "little", signed=True)
    start, end = position + 8, position + 8 + storage.size * storage.dtype.itemsize
    if end > len(data):
        raise damaged(f"storage {shorten(storage.key)} is cut off")
    if count != storage.size:
        raise damaged(f"storage {shorten(storage.key)} has {count} elements instead of {storage.size}")
    return np.frombuffer(data[start:end], storage.dtype), end


def _tensors(tree: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> array of a state dict, bare or under one of `WRAPPERS`."""
    if isinstance(tree, dict):
        tree = next((tree[key] for key in WRAPPERS if isinstance(tree.get(key), dict)), tree)
    if not isinstance(tree, dict) or not tree:
        raise ValueError("it holds no dict of tensors: save model.state_dict()")
    out = {}
    for name, tensor in tree.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"its entry {shorten(str(name))} is no tensor: save model.state_dict() alone")
        out[name] = _window(name, tensor, arrays[tensor.storage.key])
    return out


def _window(name: str, tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    """The tensor as a view of its storage (strides matter: some tensors are stored transposed)."""
    offset, shape, stride = tensor.offset, tensor.shape, tensor.stride
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) != len(stride):
        raise damaged(f"tensor {shorten(name)} has no shape with one stride per axis")
    numbers = (offset, *shape, *stride)
    if not all(isinstance(n, int) and 0 <= n < 2**40 for n in numbers) or len(shape) > 32:
        raise damaged(f"tensor {shorten(name)} has an impossible offset, shape or stride")
    count = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if count else 0
    if count > storage.size or (count and last >= storage.size):
        reach = f"{count} elements and reaches element {last} of a storage of {storage.size}"
        raise damaged(f"tensor {shorten(name)} has {reach}")
    if not count:
        return np.zeros(shape, storage.dtype)
    strides = [s * storage.itemsize if n > 1 else 0 for n, s in zip(shape, stride, strict=True)]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)
