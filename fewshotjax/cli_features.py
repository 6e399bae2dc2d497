"""Tables of features for the console: read whole, written row by row."""

import csv
import io
import math
import os
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .data import LabelledFeatures, feature_table

MAX_BYTES = 8 * 2**30  # of an array
MAX_RATIO = 100  # of unpacked to packed bytes


def read_features(path: Path, option: str) -> LabelledFeatures:
    """Of a .csv (column label and one per feature) or a .npz (arrays features and labels).

    Raises:
        ValueError: another kind of file, none, arrays that are missing or do not fit, NaN.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".npz"):
        raise ValueError(f"{option} {path} must end in .npz or .csv")
    if not path.is_file():
        raise ValueError(f"{option} {path}: there is no such file")
    if kind == ".csv":
        return feature_table(path)
    try:
        with zipfile.ZipFile(path) as archive:
            known = archive.namelist()
            wanted = [name for name in ("features", "labels", "classes") if f"{name}.npy" in known]
            found = {name: _array(archive, archive.getinfo(f"{name}.npy")) for name in wanted}
    except Exception as error:  # NumPy's parser of headers raises errors of a dozen types on damage
        reason = " ".join(str(error).split())
        raise ValueError(f"{option} {path}: is no .npz of plain arrays ({reason}): save it again") from None
    if not {"features", "labels"} <= found.keys():
        raise ValueError(f"{option} {path}: must hold the arrays features and labels")
    return _labelled(f"{option} {path}", found["features"], found["labels"], found.get("classes"))


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array of numbers or text, never more bytes than the archive says, nor many more than it packs."""
    packed, size = member.compress_size, member.file_size
    if size > MAX_BYTES or size > MAX_RATIO * packed + 2**20:
        raise ValueError(f"{member.filename} unpacks from {packed} to {size} bytes")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, kind = header[version](file)
    if kind.hasobject or kind.names or math.prod(shape) * kind.itemsize > size:
        raise ValueError(f"{member.filename} is {kind} of {shape} in {size} bytes")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if kind.kind == "U" and (np.frombuffer(array.tobytes(), f"{kind.str[0]}u4") > 0x10FFFF).any():
        raise ValueError(f"{member.filename} holds what is no text")
    return array


def _labelled(where: str, features: Any, labels: Any, names: Any) -> LabelledFeatures:
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind != "f":
        raise ValueError(f"{where}: features are {features.dtype} of {features.shape}: give floats (N, D)")
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"{where}: labels are {labels.dtype} of {labels.shape}: give a whole number or a name for each "
            f"of {len(features)} rows"
        )
    with np.errstate(over="ignore"):
        x = features.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(wrong):
        raise ValueError(f"{where}: row {wrong[0]} of features is not finite: leave it out")
    known, index = np.unique(labels, return_inverse=True)
    told = [str(label) for label in known]
    if names is not None and labels.dtype.kind != "U":  # as FeatureWriter writes them
        if names.ndim != 1 or known.min() < 0 or known.max() >= len(names):
            raise ValueError(f"{where}: labels reach {known.max()}, but there are {len(names)} classes")
        told = [str(names[label]) for label in known]
    return LabelledFeatures(x, index.astype(np.int32), tuple(told))


class FeatureWriter:
    """A .npz or .csv that grows row by row, and is at its place when all is written, or not at all.

    The .npz has features, labels (index into classes), classes and synthesized (False: a seed); the .csv
    label and f0, f1, ...
    """

    def __init__(self, path: Path, classes: tuple[str, ...], width: int):
        if path.suffix.lower() not in (".npz", ".csv"):
            raise ValueError(f"{path} must end in .npz or .csv")
        self.rows, self._path, self._classes, self._width = 0, path, classes, width
        self._labels: list[np.ndarray] = []
        self._synthesized: list[np.ndarray] = []
        self._beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.new")

    def __enter__(self) -> "FeatureWriter":
        self._raw = self._beside.with_suffix(".rows")
        self._file = self._raw.open("xb")
        if self._path.suffix.lower() == ".csv":
            self._file.write(_line(["label", *(f"f{i}" for i in range(self._width))]))
        return self

    def add(self, features: np.ndarray, label: int, synthesized: np.ndarray) -> None:
        """Rows (N, width) of one class; which of them were synthesized (N,)."""
        if self._path.suffix.lower() == ".csv":
            for row in features:
                self._file.write(_line([self._classes[label], *(f"{value:.9g}" for value in row)]))
        else:
            self._file.write(np.ascontiguousarray(features, np.float32).tobytes())
        self.rows += len(features)
        self._labels.append(np.full(len(features), label, np.int32))
        self._synthesized.append(np.asarray(synthesized, bool))

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._file.close()
        try:
            if kind is not None:
                return
            if self._path.suffix.lower() == ".csv":
                os.replace(self._raw, self._path)
            else:
                self._pack()
                os.replace(self._beside, self._path)
        finally:
            for leftover in (self._raw, self._beside):
                leftover.unlink(missing_ok=True)

    def _pack(self) -> None:
        """The rows behind the header that their number decides, and the small arrays."""
        with zipfile.ZipFile(self._beside, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as target, self._raw.open("rb") as rows:
                header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self._width)}
                np.lib.format.write_array_header_1_0(target, header)
                while block := rows.read(2**24):
                    target.write(block)
            small = {
                "labels": np.concatenate(self._labels),
                "classes": np.array(self._classes),
                "synthesized": np.concatenate(self._synthesized),
            }
            for name, array in small.items():
                with archive.open(f"{name}.npy", "w") as target:
                    np.lib.format.write_array(target, array, allow_pickle=False)


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()
