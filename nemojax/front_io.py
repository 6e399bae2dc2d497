"""Files of results: written whole or not at all, read with every field checked.

Writing goes to a new file beside the target, which then takes its place, so no reader sees half a file.
Reading raises nothing but ValueErrors of one line: file, field, what is wrong, what to do.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from hwmodel import write_bytes

_LARGEST = float(np.finfo(np.float64).max)
MOST_BYTES = 2**28  # of a file that is read


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Puts `text` (UTF-8) at `path`, replacing what was there, in one step.

    Raises:
        ValueError: the folder is missing, or cannot be written to.
    """
    try:
        write_bytes(path, text.encode())
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror}): check the folder") from None


def write_json(path: str | os.PathLike[str], schema: str, fields: Mapping[str, Any]) -> None:
    """One line for each field, row of a table or entry of an object. No NaN, no infinity."""
    lines = [f"{json.dumps(name)}: {_layout(value)}" for name, value in {"schema": schema, **fields}.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Comma-separated, one header line; floats with all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())


def _layout(value: Any) -> str:
    if isinstance(value, dict) and value:
        entries = [
            f" {json.dumps(name)}: {json.dumps(entry, allow_nan=False)}" for name, entry in value.items()
        ]
        return "{\n" + ",\n".join(entries) + "\n}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + ",\n".join(" " + json.dumps(row, allow_nan=False) for row in value) + "\n]"
    return json.dumps(value, allow_nan=False)


@dataclass(frozen=True)
class Document:
    """A JSON file of one schema. Each method returns a field, checked, or raises a ValueError."""

    path: str
    writer: str  # the function that writes such files, for messages
    fields: Mapping[str, Any]

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        schema: str,
        fields: Sequence[str],
        writer: str,
        optional: Sequence[str] = (),
    ) -> "Document":
        """Raises ValueError: no JSON object, another schema, a missing, unknown or repeated field."""
        document = cls(os.fspath(path), writer, {})
        try:
            size = Path(path).stat().st_size
            if size > MOST_BYTES:
                raise ValueError(f"{size} bytes, {MOST_BYTES} at most are read")
            data = json.loads(
                Path(path).read_bytes().decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique
            )
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}): give a file of {writer}") from None
        except (ValueError, RecursionError) as error:
            document.fail(f"is not valid JSON ({error})")
        if not isinstance(data, dict):
            document.fail("holds no JSON object")
        if "schema" not in data:
            document.fail("has no field 'schema'")
        if data["schema"] != schema:
            given = _short(data["schema"])
            raise ValueError(
                f"{path}: schema is {given}, not {schema!r}: give a file of this version's {writer}"
            )
        for name in fields:
            if name not in data:
                document.fail(f"has no field {name!r}")
        for name in data:
            if name not in (*fields, *optional, "schema"):
                document.fail(f"has a field {_short(name)} that {schema} does not have")
        return cls(document.path, writer, data)

    def fail(self, what: str) -> NoReturn:
        raise ValueError(f"{self.path}: {what}: write it again with {self.writer}")

    def strings(self, field: str) -> tuple[str, ...]:
        values = self._list(self.fields[field], field)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                self.fail(f"{field}[{i}] is {_short(value)}, not a string")
        return tuple(values)

    def table(self, field: str, width: int, *, whole: bool = False) -> np.ndarray:
        """(rows, width) float64, or int64 where `whole`."""
        rows = self._list(self.fields[field], field)
        for i, row in enumerate(rows):
            if len(self._list(row, f"{field}[{i}]")) != width:
                self.fail(f"{field}[{i}] has {len(row)} numbers, not {width}")
            for j, value in enumerate(row):
                self._number(value, f"{field}[{i}][{j}]", whole)
        return np.array(rows, np.int64 if whole else np.float64).reshape(len(rows), width)

    def columns(self, field: str, length: int) -> dict[str, np.ndarray]:
        """name -> (length,) float64."""
        found = {}
        for name, column in self.mapping(field).items():
            where = f"{field}[{_short(name)}]"
            if len(self._list(column, where)) != length:
                self.fail(f"{where} has {len(column)} numbers, not {length}")
            for i, value in enumerate(column):
                self._number(value, f"{where}[{i}]", whole=False)
            found[name] = np.array(column, np.float64)
        return found

    def numbers(self, field: str, *, whole: bool = False) -> dict[str, Any]:
        """name -> float, or int where `whole`."""
        values = self.mapping(field)
        for name, value in values.items():
            self._number(value, f"{field}[{_short(name)}]", whole)
        return {name: value if whole else float(value) for name, value in values.items()}

    def mapping(self, field: str) -> dict[str, Any]:
        if not isinstance(self.fields[field], dict):
            self.fail(f"{field} is {_short(self.fields[field])}, not an object")
        return self.fields[field]

    def _list(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            self.fail(f"{where} is {_short(value)}, not a list")
        return value

    def _number(self, value: Any, where: str, whole: bool) -> None:
        kinds, limit = ((int,), 2**31) if whole else ((int, float), _LARGEST)
        if type(value) not in kinds or not -limit <= value <= limit:
            self.fail(f"{where} is {_short(value)}, not a {'whole' if whole else 'finite'} number")


def _short(value: Any) -> str:
    """A value for a message: one line, at most 40 characters."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "a deeply nested value"
    return text if len(text) <= 40 else text[:37] + "..."


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{_short(next(n for n in names if names.count(n) > 1))} stands twice in one object")
    return found
