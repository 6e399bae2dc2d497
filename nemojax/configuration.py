"""One choice of bit-widths, and the file that carries it to another run or a deployment tool."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hwmodel import check_fields
from nemojax.front_io import Document, write_json
from nemojax.front_table import number_text, text_table
from nemojax.quantizers import FULL_BITS
from nemojax.space import HIGHEST_BITS, LOWEST_BITS

SCHEMA = "frugaljax.nemo.bits/1"
_SOURCES = ("weight", "linear", "activation", "sum", "pool")  # ends of hwmodel's point names


class OperationBits(NamedTuple):
    """Bit-widths of one operation; None where it has no such quantizer."""

    operation: str
    weight: int | None
    activation: int | None  # of its output


@dataclass(frozen=True, eq=False)
class Configuration:
    """A bit-width for every quantizer, with what it costs and where it comes from.

    Raises:
        ValueError: at construction, for names that repeat, bits that do not fit them or are no
            bit-width, costs that are not finite, settings that JSON cannot hold.
    """

    bits: np.ndarray  # (n,) int32: 2-16, or 32 = not quantized
    names: tuple[str, ...]  # n quantizers in execution order
    costs: Mapping[str, float]  # objective -> cost, minimised
    held_out: Mapping[str, float] = field(default_factory=dict)  # on data that the search did not see
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the search
    index: int | None = None  # row of the front that it was taken from

    def __post_init__(self):
        check_fields(self)
        names = checked_names(self.names, "names")
        put(self, "names", names)
        put(self, "bits", checked_bits(np.asarray(self.bits)[None], names)[0])
        for what in ("costs", "held_out"):
            values = {name: float(value) for name, value in getattr(self, what).items()}
            for name, value in values.items():
                if not np.isfinite(value):
                    raise ValueError(f"{what}[{name!r}] must be finite, got {value}")
            put(self, what, values)
        put(self, "settings", checked_settings(self.settings))

    @property
    def objectives(self) -> tuple[str, ...]:
        return tuple(self.costs)

    def as_dict(self) -> dict[str, int]:
        """Quantizer -> bit-width, in execution order."""
        return dict(zip(self.names, self.bits.tolist(), strict=True))

    def mean_bits(self) -> tuple[float, float]:
        """Mean bit-width of the weight quantizers and of the others; NaN where there are none."""
        weights, activations = mean_bits(self.bits[None], self.names)
        return float(weights[0]), float(activations[0])

    def operations(self) -> tuple[OperationBits, ...]:
        """Bit-widths by operation, in execution order.

        A quantizer "stem.weight" or "stem.activation" belongs to the operation "stem". A second activation
        of an operation (the sum behind a convolution's own output) is a row under its full name.
        """
        rows: list[list[Any]] = []
        place: dict[str, int] = {}
        for name, bits in self.as_dict().items():
            head, _, source = name.rpartition(".")
            operation = head if head and source in _SOURCES else name
            column = 1 if is_weight(name) else 2
            row = place.get(operation)
            if row is None or rows[row][column] is not None:
                place.setdefault(operation, len(rows))
                rows.append([operation if row is None else name, None, None])
                row = len(rows) - 1
            rows[row][column] = bits
        return tuple(OperationBits(*row) for row in rows)

    def table(self) -> str:
        """Costs, then one line an operation, as text."""
        costs = [f"{name} {number_text(v)}" for name, v in (*self.costs.items(), *self.held_out.items())]
        body = [("operation", "weight bits", "activation bits")]
        body += [(o.operation, _or_dash(o.weight), _or_dash(o.activation)) for o in self.operations()]
        means = [number_text(mean) for mean in self.mean_bits()]
        return "\n".join([", ".join(costs), *text_table([*body, ("mean over quantizers", *means)])])


def save_bits(path: str | os.PathLike[str], configuration: Configuration) -> None:
    """Writes a configuration as JSON (schemas/bits.schema.json): bit-width by quantizer, costs, settings."""
    write_json(
        path,
        SCHEMA,
        {
            "bits": configuration.as_dict(),
            "costs": dict(configuration.costs),
            "held_out": dict(configuration.held_out),
            "settings": dict(configuration.settings),
        },
    )


def load_bits(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> Configuration:
    """Reads a file of `save_bits`; with `names`, the quantizers come in that order and must be the same set.

    Raises:
        ValueError: one line that names the file, the field or quantizer, and what to do.
    """
    document = Document.read(path, SCHEMA, ("bits", "costs", "held_out", "settings"), "save_bits")
    bits = document.numbers("bits", whole=True)
    costs, held_out = document.numbers("costs"), document.numbers("held_out")
    settings = document.mapping("settings")
    wanted = tuple(bits) if names is None else tuple(names)
    for found, what in (
        ([name for name in wanted if name not in bits], "lacks {} of this network"),
        ([name for name in bits if name not in wanted], "holds {}, which this network lacks"),
    ):
        if found:
            which = repr(found[0]) + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            raise ValueError(f"{path}: bits {what.format(which)}: use a file of the same network")
    try:
        ordered = np.array([bits[name] for name in wanted], np.int64)
        return Configuration(ordered, wanted, costs, held_out, settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: write it again with save_bits") from None


def is_weight(name: str) -> bool:
    """Whether a quantizer stands at a weight: its name ends with ".weight"."""
    return name.endswith(".weight")


def mean_bits(bits: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(K,) means of (K, n) bits over weight quantizers and over the others, unweighted; NaN without any."""
    weights = np.array([is_weight(name) for name in names])
    parts = (bits[:, weights], bits[:, ~weights])
    first, second = (p.mean(axis=1) if p.shape[1] else np.full(len(bits), np.nan) for p in parts)
    return first, second


def checked_names(names: Iterable[Any], what: str) -> tuple[str, ...]:
    """As a tuple; ValueError if empty, or not unique non-empty strings."""
    names = tuple(names)
    if not names:
        raise ValueError(f"{what} is empty: give at least one name")
    seen = set()
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{what} must be non-empty strings, got {name!r}")
        if name in seen:
            raise ValueError(f"{what} must be unique, got {name!r} twice")
        seen.add(name)
    return names


def checked_bits(bits: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(K, n) as a read-only int32 copy; ValueError if the shape or a bit-width is wrong."""
    if bits.ndim != 2 or bits.shape[1] != len(names):
        raise ValueError(f"bits must have one column for each of {len(names)} names, got shape {bits.shape}")
    if bits.dtype.kind not in "iu":
        raise ValueError(f"bits must be whole numbers, got {bits.dtype}: round them first")
    wrong = ~((bits >= LOWEST_BITS) & (bits <= HIGHEST_BITS) | (bits == FULL_BITS))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"bits of {names[column]!r} in row {row} are {bits[row, column]}: "
            f"a bit-width is {LOWEST_BITS}-{HIGHEST_BITS}, or {FULL_BITS} for not quantized"
        )
    return frozen(bits, np.int32)


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would give it back (tuples become lists); ValueError if JSON cannot hold it."""
    try:
        return json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"settings cannot be JSON ({error}): use plain numbers, text and lists") from None


def frozen(array: Any, dtype: Any) -> np.ndarray:
    """A read-only copy."""
    copy = np.array(array, dtype)
    copy.flags.writeable = False
    return copy


def put(result: Any, name: str, value: Any) -> None:
    """Sets a field of a frozen dataclass while it is being built."""
    object.__setattr__(result, name, value)


def _or_dash(bits: int | None) -> str:
    return "-" if bits is None else str(bits)
