"""The JSON beside a packed file: what stands where, written and read with every field checked."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..front_io import Document, write_json
from ..quantizers import FULL_BITS
from ..space import HIGHEST_BITS, LOWEST_BITS
from .grids import PointGrid
from .stored import Alias

SCHEMA = "frugaljax.nemo.packed/1"
_FIELDS = (
    "network", "weights_source", "frugaljax", "bin", "sha256", "parameters", "stream_bits", "quantizer",
    "bits", "tensors", "activations",
)  # fmt: skip
_OPTIONAL = ("bounds",)  # of an equalized network: in no other file
_TENSOR = {
    "name", "part", "key", "shape", "dtype", "bits", "offset", "range_shape", "scale", "zero_point", "low",
    "high", "aliases",
}  # fmt: skip
_PARTS = ("kernels", "biases", "constants", "code")


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor of the stream."""

    name: str
    part: str
    key: str
    shape: tuple[int, ...]
    dtype: str  # "uint" of `bits` bits with scale and zero point, "float32" or "int32"
    bits: int
    offset: int  # of its first bit in the stream
    grid: PointGrid | None
    aliases: tuple[Alias, ...]

    def as_dict(self) -> dict[str, Any]:
        """As the manifest has it."""
        grid = self.grid
        return {
            "name": self.name,
            "part": self.part,
            "key": self.key,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "bits": self.bits,
            "offset": self.offset,
            "range_shape": None if grid is None else list(np.shape(grid.scale)),
            "scale": None if grid is None else _floats(grid.scale),
            "zero_point": None if grid is None else (grid.zero - grid.q_min).reshape(-1).tolist(),
            "low": None if grid is None else _floats(grid.low),
            "high": None if grid is None else _floats(grid.high),
            "aliases": [
                {"part": a.part, "key": a.key, "axes": list(a.axes), "shape": list(a.shape)}
                for a in self.aliases
            ],
        }


def save_manifest(path: str | os.PathLike[str], fields: dict[str, Any]) -> None:
    """Writes schemas/packed.schema.json."""
    write_json(path, SCHEMA, {name: fields[name] for name in (*_FIELDS, *_OPTIONAL) if name in fields})


def load_manifest(path: str | os.PathLike[str]) -> Document:
    """Reads one; ValueError: missing, damaged, another schema."""
    return Document.read(path, SCHEMA, _FIELDS, "save_packed", _OPTIONAL)


def entries(document: Document) -> list[Entry]:
    """The tensors, each field checked."""
    rows = document.fields["tensors"]
    if not isinstance(rows, list):
        document.fail("tensors is no list")
    found, offset = [], 0
    for i, row in enumerate(rows):
        entry = _entry(document, f"tensors[{i}]", row)
        if entry.offset != offset:
            document.fail(f"tensors[{i}] starts at bit {entry.offset}, not {offset}")
        offset += entry.bits * int(np.prod(entry.shape, dtype=np.int64))
        found.append(entry)
    if document.fields["stream_bits"] != offset:
        document.fail(f"stream_bits is {document.fields['stream_bits']}, the tensors take {offset}")
    return found


def _entry(document: Document, where: str, row: Any) -> Entry:
    if not isinstance(row, dict) or set(row) != _TENSOR:
        document.fail(f"{where} has other fields than a tensor has")
    for field in ("name", "part", "key", "dtype"):
        if not isinstance(row[field], str):
            document.fail(f"{where}.{field} is no string")
    if row["part"] not in _PARTS:
        document.fail(f"{where}.part is {row['part']!r}, not one of {', '.join(_PARTS)}")
    shape = whole_numbers(document, f"{where}.shape", row["shape"])
    for field in ("bits", "offset"):
        if type(row[field]) is not int or not 0 <= row[field] < 2**53:
            document.fail(f"{where}.{field} is no whole number")
    bits, grid = row["bits"], None
    if row["dtype"] == "uint":
        if not LOWEST_BITS <= bits <= HIGHEST_BITS:
            document.fail(f"{where}.bits is {bits}, not {LOWEST_BITS}-{HIGHEST_BITS}")
        grid = _grid(document, where, row, bits, shape)
    elif row["dtype"] not in ("float32", "int32") or bits != FULL_BITS:
        document.fail(f"{where} has {bits} bits of type {row['dtype']!r}")
    if not isinstance(row["aliases"], list):
        document.fail(f"{where}.aliases is no list")
    aliases = [
        _alias(document, f"{where}.aliases[{k}]", alias, shape) for k, alias in enumerate(row["aliases"])
    ]
    return Entry(
        row["name"], row["part"], row["key"], shape, row["dtype"], bits, row["offset"], grid, tuple(aliases)
    )


def _alias(document: Document, where: str, row: Any, shape: tuple[int, ...]) -> Alias:
    if not isinstance(row, dict) or set(row) != {"part", "key", "axes", "shape"} or row["part"] not in _PARTS:
        document.fail(f"{where} has other fields than an alias has")
    if not isinstance(row["key"], str):
        document.fail(f"{where}.key is no string")
    axes = whole_numbers(document, f"{where}.axes", row["axes"])
    target = whole_numbers(document, f"{where}.shape", row["shape"])
    if sorted(axes) != list(range(len(shape))) or np.prod(target) != np.prod(shape):
        document.fail(f"{where} is no view of a tensor of shape {shape}")
    return Alias(row["part"], row["key"], axes, target)


def _grid(document: Document, where: str, row: Any, bits: int, shape: tuple[int, ...]) -> PointGrid:
    range_shape = whole_numbers(document, f"{where}.range_shape", row["range_shape"])
    if len(range_shape) > len(shape) or any(
        n not in (1, m) for n, m in zip(range_shape[::-1], shape[::-1], strict=False)
    ):
        document.fail(f"{where}.range_shape {range_shape} does not broadcast to {shape}")
    parts = {}
    for field in ("scale", "zero_point", "low", "high"):
        parts[field] = numbers(document, f"{where}.{field}", row[field], int(np.prod(range_shape))).reshape(
            range_shape
        )
    zero = parts["zero_point"].astype(np.int64)
    if (
        (parts["scale"] <= 0).any()
        or (zero != parts["zero_point"]).any()
        or (zero < 0).any()
        or (zero >= 2**bits).any()
    ):
        document.fail(f"{where} has a scale that is not above 0, or a zero point outside its grid")
    scale, low, high = (parts[field].astype(np.float32) for field in ("scale", "low", "high"))
    return PointGrid(bits, scale, (zero - 2 ** (bits - 1)).astype(np.int32), low, high)


def numbers(document: Document, where: str, values: Any, count: int) -> np.ndarray:
    """(count,) finite numbers of a list, float64."""
    if not isinstance(values, list) or len(values) != count:
        document.fail(f"{where} is no list of {count} numbers")
    if not all(type(value) in (int, float) and abs(value) < 3.5e38 for value in values):
        document.fail(f"{where} holds something that is no finite number")
    return np.array(values, np.float64)


def whole_numbers(document: Document, where: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(n) is int and 0 <= n < 2**31 for n in values):
        document.fail(f"{where} is no list of whole numbers")
    return tuple(values)


def _floats(array: np.ndarray) -> list[float]:
    return np.asarray(array, np.float32).reshape(-1).tolist()
