"""What each quantizer costs the network at each bit-width, one quantizer at a time: a table.

A configuration's predicted error is the sum of its entries (`additive`), which is what HAWQ-like greedy
choices and knapsacks minimise. `sensitivity_measures` fills such tables.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hwmodel import check_fields

from .configuration import checked_names
from .front_io import Document, write_json
from .front_table import number_text, text_table
from .space import HIGHEST_BITS, LOWEST_BITS, BitSpace

SCHEMA = "frugaljax.nemo.sensitivity/1"
MEASURES = ("sqnr", "fisher")  # without an evaluation of the task; any other name is a task's own error


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """n quantizers by B bit-widths: what quantizing this one alone adds to the error.

    NaN marks a bit-width that the quantizer is not allowed, which was then not measured.

    Raises:
        ValueError: at construction, for shapes that differ, names that repeat, or infinite numbers.
    """

    names: tuple[str, ...]  # n, in execution order
    widths: tuple[int, ...]  # B bit-widths, ascending
    table: np.ndarray  # (n, B) float64
    measure: str  # "sqnr", "fisher", or the name of the task's error ("kl", "top5_error", ...)
    evaluations: int = 0  # of the task that the table cost
    seconds: float = 0.0  # that it took, compilation included

    def __post_init__(self):
        check_fields(self)
        names = checked_names(self.names, "names")
        table = np.array(self.table, np.float64)
        known = all(LOWEST_BITS <= b <= HIGHEST_BITS for b in self.widths)
        if not known or not self.widths or list(self.widths) != sorted(set(self.widths)):
            raise ValueError(
                f"widths must be ascending bit-widths in {LOWEST_BITS}-{HIGHEST_BITS}, got {self.widths}"
            )
        if table.shape != (len(names), len(self.widths)):
            raise ValueError(
                f"table must be {len(names)} names by {len(self.widths)} widths, got shape {table.shape}"
            )
        if np.isinf(table).any():
            row, column = np.argwhere(np.isinf(table))[0]
            raise ValueError(
                f"table holds {table[row, column]} for {names[row]!r} at {self.widths[column]} bits: "
                "give finite numbers, or NaN for a bit-width that is not allowed"
            )
        if self.evaluations < 0 or not self.seconds >= 0:
            raise ValueError(
                f"evaluations and seconds must not be negative, got {self.evaluations} and {self.seconds}"
            )
        table.flags.writeable = False
        for field, value in (("names", names), ("widths", tuple(self.widths)), ("table", table)):
            object.__setattr__(self, field, value)

    def rank(self) -> Int[np.ndarray, " n"]:
        """Quantizers from the most sensitive to the least, by what the lowest bit-width adds.

        A quantizer without that bit-width counts with its lowest one; ties go to the earlier quantizer.
        """
        given = ~np.isnan(self.table)
        first = self.table[np.arange(len(self.names)), given.argmax(1)]
        return np.argsort(-np.where(given.any(1), first, -np.inf), kind="stable")

    def additive(self, bits: Int[np.ndarray, "K n"]) -> Float[np.ndarray, " K"]:
        """Σ_i table[i, bits_i]: the proxy for the error of K configurations; NaN where it is not known."""
        found = self.columns(bits)
        known = found >= 0
        terms = self.table[np.arange(len(self.names))[None], np.maximum(found, 0)]
        return np.where(known, terms, np.nan).sum(axis=1)

    def columns(self, bits: Int[np.ndarray, "K n"]) -> Int[np.ndarray, "K n"]:
        """The column of every bit-width; -1 for one that the table does not have."""
        rows = np.asarray(bits)
        at = np.searchsorted(self.widths, rows).clip(0, len(self.widths) - 1)
        return np.where(np.asarray(self.widths)[at] == rows, at, -1)

    def text(self, rows: int | None = None) -> str:
        """The table, the most sensitive quantizer first; at most `rows` of them."""
        if rows is not None and rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        shown = self.rank()[:rows].tolist()
        head = ("quantizer", *(f"{b} bits" for b in self.widths))
        body = [(self.names[i], *(number_text(float(v)) for v in self.table[i])) for i in shown]
        cost = f"{self.measure}, {self.evaluations} evaluations, {self.seconds:.3g} s"
        return "\n".join(
            [*text_table([head, *body]), f"{len(shown)} of {len(self.names)} quantizers ({cost})"]
        )

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Everything; a row is an object bit-width -> number, without those not allowed."""
        rows = {
            name: {str(b): value for b, value in zip(self.widths, row, strict=True) if not np.isnan(value)}
            for name, row in zip(self.names, self.table.tolist(), strict=True)
        }
        cost = {"evaluations": self.evaluations, "seconds": self.seconds}
        fields = {"measure": self.measure, "cost": cost, "widths": list(self.widths), "table": rows}
        write_json(path, SCHEMA, fields)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> "Sensitivity":
        """Reads a file of `to_json`.

        Raises:
            ValueError: one line that names the file, the field and what to do.
        """
        fields = ("measure", "cost", "widths", "table")
        document = Document.read(path, SCHEMA, fields, "Sensitivity.to_json")
        measure, widths = document.fields["measure"], document.fields["widths"]
        if not isinstance(measure, str):
            document.fail("measure is not a string")
        if not isinstance(widths, list) or any(type(b) is not int for b in widths):
            document.fail("widths is not a list of whole numbers")
        cost = document.numbers("cost")
        evaluations = cost.get("evaluations", -1.0)
        if set(cost) != {"evaluations", "seconds"} or evaluations != int(evaluations):
            document.fail("cost must hold a whole number of evaluations, and seconds")
        rows = document.mapping("table")
        table = np.array([_row(document, name, row, widths) for name, row in rows.items()], np.float64)
        try:
            return cls(
                tuple(rows),
                tuple(widths),
                table.reshape(len(rows), len(widths)),
                measure,
                int(evaluations),
                cost["seconds"],
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}: write it again with Sensitivity.to_json") from None


def check_covers(sensitivity: Sensitivity, space: BitSpace) -> None:
    """Raises ValueError unless the table is of the space's quantizers and knows all of their bit-widths."""
    if sensitivity.names != space.names:
        raise ValueError("sensitivity is of another network: its quantizers have other names")
    for name, bits, row in zip(space.names, space.allowed, sensitivity.table, strict=True):
        for b in bits:
            if b not in sensitivity.widths or np.isnan(row[sensitivity.widths.index(b)]):
                raise ValueError(
                    f"sensitivity has no entry for {name!r} at {b} bits: measure it with the space's widths"
                )


def _row(document: Document, name: str, row: Any, widths: list[int]) -> list[float]:
    where = f"table[{name!r}]"
    if not isinstance(row, Mapping):
        document.fail(f"{where} is not an object")
    for width, value in row.items():
        if width not in map(str, widths):
            document.fail(f"{where} has {width!r}, which is not among widths")
        if type(value) not in (int, float):
            document.fail(f"{where}[{width!r}] is not a number")
    return [row.get(str(b), np.nan) for b in widths]
