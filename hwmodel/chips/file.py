"""Chips as TOML or JSON files, and the chips that come with the package.

A file holds what the dataclasses of chip.py hold, under the same names; hwmodel/schemas/chip.schema.json says
it formally, presets/template.toml by example. Every complaint is one line: file, table, field, remedy.
"""

import json
import os
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from ..atomic import write_text
from ..chip import KINDS, Chip, Level, Rate
from ..json_checks import check_version, parse_json, read_text, short
from .keys import unknown_key
from .toml_text import toml_text

SCHEMA, VERSION = "hwmodel.chip", 1
TEMPLATE = "template"
_MOST_BYTES = 1 << 20  # of a file
_TABLES: Mapping[str, type] = {"levels": Level, "compute": Rate}


class ChipWarning(UserWarning):
    """What a chip's file says that its users should know."""


def preset_names() -> tuple[str, ...]:
    """Names that `load_chip` knows."""
    names = (file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))
    return tuple(sorted(name for name in names if name != TEMPLATE))


def preset_text(name: str) -> str:
    """The file of a preset with its comments, or of the commented "template"; ValueError for other names."""
    if name not in (*preset_names(), TEMPLATE):
        raise ValueError(f"no chip {name!r}; there are {', '.join(preset_names())}, and {TEMPLATE}")
    return _folder().joinpath(f"{name}.toml").read_text(encoding="utf-8")


def load_chip(
    chip: str | os.PathLike[str], compute: Sequence[Rate] | None = None, *, warn: bool = True
) -> Chip:
    """Reads a preset, or a .toml or .json file.

    Args:
        chip: a name of `preset_names()`, or a path.
        compute: rates in the place of the file's; a file without any, such as imxrt1170, needs them.
        warn: give each of the chip's `warnings` as a ChipWarning.

    Raises:
        ValueError: no such file or preset, not TOML or JSON, unknown, missing or repeated keys, values of a
            wrong type or out of range.
    """
    if isinstance(chip, str) and chip in preset_names():
        where, text, suffix = f"chip {chip!r}", preset_text(chip), ".toml"
    else:
        where, suffix = str(chip), Path(chip).suffix.lower()
        text = _read(Path(chip))
    try:
        found = chip_from_dict(_parse(text, suffix), compute)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    for line in found.warnings if warn else ():
        warnings.warn(f"chip {found.name!r}: {line}", ChipWarning, stacklevel=2)
    return found


def save_chip(path: str | os.PathLike[str], chip: Chip) -> None:
    """Writes a chip as TOML or JSON, by the ending of `path`, in one step; `load_chip` gives an equal one.

    Raises:
        ValueError: another ending.
        OSError: the folder is missing, or cannot be written to.
    """
    document, suffix = chip_to_dict(chip), Path(path).suffix.lower()
    if suffix == ".json":
        write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    elif suffix == ".toml":
        write_text(path, toml_text(document))
    else:
        raise ValueError(f"{path}: a chip file must end in .toml or .json")


def with_align(chip: Chip, align_bytes: int) -> Chip:
    """The chip with another alignment on all levels; 1 packs tensors without gaps."""
    return replace(chip, levels=tuple(replace(level, align_bytes=align_bytes) for level in chip.levels))


def chip_to_dict(chip: Chip) -> dict[str, Any]:
    """What a file of the chip holds; fields at their defaults are left out."""
    document: dict[str, Any] = {"schema": SCHEMA, "version": VERSION, **_stored(chip)}
    for name in ("levels", "compute"):  # tables come last in TOML
        document[name] = [_stored(entry) for entry in document.pop(name)]
    if chip.efficiency:
        document["efficiency"] = dict(document.pop("efficiency"))
    return document


def chip_from_dict(document: Any, compute: Sequence[Rate] | None = None) -> Chip:
    """The chip that a file's content describes; ValueError names table and field."""
    if not isinstance(document, dict):
        raise ValueError(f"must be a table with schema = {SCHEMA!r}, got {short(document)}")
    if document.get("schema") != SCHEMA:
        raise ValueError(
            f"schema must be {SCHEMA!r}, got {short(document.get('schema'))}; `hwmodel chip show template` "
            "prints a file to start from"
        )
    check_version(document.get("version"), VERSION)
    given = {key: value for key, value in document.items() if key not in ("schema", "version")}
    plain = {key: value for key, value in given.items() if key not in (*_TABLES, "efficiency", "warnings")}
    values = _values("the chip", plain, Chip)
    if "levels" not in given:
        raise ValueError("the chip lacks levels; list its memories as [[levels]], the backing store first")
    values["levels"] = _entries("levels", given["levels"])
    if compute is not None:
        values["compute"] = tuple(compute)
    elif "compute" in given:
        values["compute"] = _entries("compute", given["compute"])
    else:
        raise ValueError(
            "the chip lacks compute, its source states no rate; pass one, such as compute=[Rate(8, 8, "
            "ops_per_s=1e9)] or --rate 8x8=1e9, or list it as [[compute]]"
        )
    if "efficiency" in given:
        values["efficiency"] = _efficiency(given["efficiency"])
    if "warnings" in given:
        if not isinstance(given["warnings"], list):
            raise ValueError(f"warnings must be a list of texts, got {short(given['warnings'])}")
        values["warnings"] = tuple(given["warnings"])
    return Chip(**values)


def _folder() -> Any:
    return files("hwmodel").joinpath("chips/presets")


def _read(path: Path) -> str:
    known = f"the presets are {', '.join(preset_names())}"
    close = get_close_matches(str(path), preset_names(), n=1)
    if close:
        raise ValueError(f"{path}: no such chip; did you mean {close[0]}?")
    if path.suffix.lower() not in (".toml", ".json"):
        raise ValueError(f"{path}: a chip file must end in .toml or .json; {known}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {known}")
    try:
        return read_text(path, _MOST_BYTES, "chip")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _parse(text: str, suffix: str) -> Any:
    if suffix == ".json":
        return parse_json(text, "chip")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deeply for a chip") from None


def _entries(table: str, listed: Any) -> tuple[Any, ...]:
    if not isinstance(listed, list):
        raise ValueError(f"{table} must be a list, in TOML [[{table}]], got {short(listed)}")
    return tuple(_entry(table, i, entry) for i, entry in enumerate(listed))


def _entry(table: str, index: int, entry: Any) -> Any:
    cls, where = _TABLES[table], f"{table}[{index}]"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be a table, got {short(entry)}")
    if cls is Level and isinstance(entry.get("name"), str):
        where += f" {entry['name']!r}"
    values = _values(where, entry, cls)
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{table}[{index}], {error}") from None


def _values(where: str, given: dict[str, Any], cls: type) -> dict[str, Any]:
    """Arguments of a dataclass: the keys known, the required ones there, each of the field's type."""
    types = {field.name: field.type for field in fields(cls)}
    known = (*types, "schema", "version") if cls is Chip else tuple(types)
    for key, value in given.items():
        if key not in types:
            raise ValueError(f"{where}: {unknown_key(key, value, known)}")
    for field in fields(cls):
        if field.default is MISSING and field.name not in (*given, *_TABLES):
            raise ValueError(f"{where} lacks {field.name}")
    return {key: _value(where, key, value, types[key]) for key, value in given.items()}


def _value(where: str, key: str, value: Any, kind: Any) -> Any:
    """A whole number may be written as 8e6, and 8 where any number is meant."""
    allowed = get_args(kind) or (kind,)  # of a union or of a Literal
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if float in allowed:
        if not number or abs(value) > 1e300:  # infinities, NaN and what is too small: as the dataclass says
            raise ValueError(f"{where}: {key} must be a number, got {short(value)}")
        return float(value)
    if int in allowed:
        if not number or (isinstance(value, float) and not value.is_integer()):
            raise ValueError(f"{where}: {key} must be a whole number, got {short(value)}")
        return int(value)
    if bool in allowed and not isinstance(value, bool):
        raise ValueError(f"{where}: {key} must be true or false, got {short(value)}")
    if get_origin(kind) is Literal and value not in allowed:
        raise ValueError(f"{where}: {key} must be {' or '.join(map(repr, allowed))}, got {short(value)}")
    if bool not in allowed and not isinstance(value, str):
        raise ValueError(f"{where}: {key} must be text, got {short(value)}")
    return value


def _efficiency(given: Any) -> tuple[tuple[str, float], ...]:
    if not isinstance(given, dict):
        raise ValueError(f"efficiency must be a table of kinds of operations, got {short(given)}")
    for kind, share in given.items():
        if kind not in KINDS:
            raise ValueError(f"efficiency: {unknown_key(kind, share, KINDS)}")
    return tuple((kind, _value("efficiency", kind, share, float)) for kind, share in given.items())


def _stored(entry: Chip | Level | Rate) -> dict[str, Any]:
    """Fields that are not at their defaults; tuples of texts as lists."""
    found = {f.name: getattr(entry, f.name) for f in fields(entry) if getattr(entry, f.name) != f.default}
    if "warnings" in found:
        found["warnings"] = list(found["warnings"])
    return found
