"""Tensors of Keras files: HDF5 (.h5) and the zip around it (.keras). Only numbers are read.

The configuration beside the weights, which could name any code, is left alone, as are pickles. HDF5 itself
can point elsewhere: to other files (external links, external and virtual datasets) and to code (filters,
which are loaded as plug-ins). All of that is refused before a dataset is read, and all datasets together
may not be larger than the file.

Layouts: `model.save` to .h5 and Keras 2 have <layer>/.../<variable>, under model_weights in a whole model;
Keras 3 (.keras, .weights.h5) has layers/<kind and number>/vars/<number>.
"""

import math
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nemojax.weights.archive import read_member
from nemojax.weights.opcodes import STORAGES, damaged, shorten

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MODEL = "model_weights/"
MEMBER = "model.weights.h5"
SKIPPED = ("optimizer", "optimizer_weights", "seed_generator", "seed_generator_state")  # groups, not weights
DEEPEST, MOST = 16, 100_000  # groups in one another, objects in a file
BFLOAT16 = STORAGES["BFloat16Storage"]


def is_keras(archive: zipfile.ZipFile) -> bool:
    """Whether an archive looks like Keras's."""
    return not {MEMBER, "config.json"}.isdisjoint(archive.namelist())


def read_keras(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """The tensors of a .keras file."""
    return read_hdf5(read_member(archive, MEMBER, "model.save"))


def read_hdf5(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of an HDF5 file, given whole, without the group model_weights in their names.

    Raises:
        ValueError: h5py is not installed; the file is damaged, compressed, or points outside itself.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError('it is HDF5 (Keras), which h5py reads: pip install "frugaljax[keras]"') from None
    try:
        with h5py.File(h5py.h5f.open_file_image(data)) as file:
            datasets = dict(_datasets(h5py, file))
            whole = {n.removeprefix(MODEL): d for n, d in datasets.items() if n.startswith(MODEL)}
            return _read(h5py, whole or datasets, len(data))
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # h5py raises errors of many types on damaged files
        raise damaged(f"as HDF5: {shorten(str(error))}") from None


class _Refused(Exception):
    """What is wrong with a file that can be read."""


def _damaged(what: str) -> _Refused:
    return _Refused(str(damaged(what)))


def _datasets(h5py: Any, root: Any) -> Iterator[tuple[str, Any]]:
    """(name, dataset) of all that hold weights, in the order of the file."""
    stack = [("", root, 0)]
    objects = 0
    while stack:
        prefix, group, depth = stack.pop()
        for name in group:
            objects += 1
            if depth == DEEPEST or objects > MOST:
                raise _damaged(f"more than {DEEPEST} groups in one another, or {MOST} objects")
            if name in SKIPPED:
                continue
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _Refused(f"its entry {shorten(prefix + name)} is a link to elsewhere: save it again")
            entry = group[name]
            if isinstance(entry, h5py.Group):
                stack.append((f"{prefix}{name}/", entry, depth + 1))
            elif isinstance(entry, h5py.Dataset):
                yield prefix + name, entry


def _read(h5py: Any, datasets: Mapping[str, Any], left: int) -> dict[str, np.ndarray]:
    """Their arrays, once all of them are known to be plain numbers inside this file, `left` bytes at most."""
    for name, dataset in datasets.items():
        plan, entry = dataset.id.get_create_plist(), f"its entry {shorten(name)}"
        if plan.get_nfilters():
            raise _Refused(f"{entry} is compressed: save it again without compression")
        if plan.get_external_count() or plan.get_layout() == h5py.h5d.VIRTUAL:
            raise _Refused(f"{entry} lies in another file: save it again as one")
        if dataset.dtype.kind not in "fiub" and not _is_bfloat16(dataset):
            raise _Refused(f"{entry} is of type {dataset.dtype}: save it as float32")
        if dataset.shape is None:
            raise _damaged(f"entry {shorten(name)} has no shape")
        left -= math.prod(dataset.shape) * dataset.dtype.itemsize
    if left < 0:
        raise _damaged("its entries would be larger than the file")
    if not datasets:
        raise _Refused("it holds no weights: save the model, or its weights, with Keras")
    return {name: _array(dataset) for name, dataset in datasets.items()}


def _is_bfloat16(dataset: Any) -> bool:
    """Keras keeps the name of this type, which HDF5 does not have, in an attribute."""
    return dataset.dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16"


def _array(dataset: Any) -> np.ndarray:
    array = np.asarray(dataset[()])
    if _is_bfloat16(dataset):
        array = array.view(BFLOAT16)
    array.flags.writeable = False
    return array
