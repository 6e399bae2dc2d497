"""The folder of a run: made once, continued only under the same settings, never overwritten."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .front_io import Document, write_json, write_text
from .search import Found
from .setup_run import RunSettings

SETTINGS, CHECKPOINT, COURSE = "settings.json", "search.ckpt", "course.json"
COURSE_SCHEMA = "frugaljax.nemo.course/1"
_SCHEMA = "frugaljax.nemo.settings/1"


class RunCourse(NamedTuple):
    """How a search went and what it is compared with, as far as a report shows it."""

    species: tuple[str, ...]
    history: dict[str, np.ndarray]  # evaluations, hypervolume (T,), alloc (T, S)
    baselines: dict[str, tuple[np.ndarray, np.ndarray]]  # name -> bits (P, n), costs (P, M), none failed
    baseline_columns: tuple[str, ...]  # what these M costs are
    evaluations: int
    finished: bool


def check_folder(folder: Path, settings: RunSettings, *, resume: bool) -> None:
    """Whether a run may write there: the folder is new or empty, or holds a run of the same settings.

    Raises:
        ValueError: the folder holds something and `resume` is off, it is no run's folder, or its settings
            differ; in one line with the fix.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give --out a folder")
    if folder.exists() and any(folder.iterdir()):
        if not resume:
            raise ValueError(f"{folder} is not empty: give another --out, or --resume to continue its search")
        _check_settings(folder / SETTINGS, settings)


def start_folder(folder: Path, settings: RunSettings) -> None:
    """Makes a checked folder and writes the settings, once the run is known to be able to start."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema": _SCHEMA, "settings": settings.as_dict()}, indent=2, allow_nan=False)
    write_text(folder / SETTINGS, text + "\n")


def write_course(
    path: Path,
    found: Found,
    baselines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    columns: tuple[str, ...],
) -> None:
    """Keeps what a report shows besides the front (schemas/course.schema.json)."""
    rows = [
        (name, bits, cost)
        for name, (some, costs) in baselines.items()
        for bits, cost in zip(some.tolist(), costs.tolist(), strict=True)
        if np.isfinite(cost).all()
    ]
    history = found.history
    progress = np.column_stack([history["evaluations"], np.asarray(history["hypervolume"], np.float64)])
    write_json(
        path,
        COURSE_SCHEMA,
        {
            "spent": {"evaluations": int(found.evaluations), "finished": int(found.finished)},
            "species": list(found.species),
            "progress": progress.tolist(),
            "members": np.asarray(history["alloc"]).tolist(),
            "baseline_columns": list(columns),
            "baseline_names": [name for name, _, _ in rows],
            "baseline_costs": [cost for _, _, cost in rows],
            "baseline_bits": [bits for _, bits, _ in rows],
        },
    )


def read_course(path: Path, quantizers: int) -> RunCourse:
    """Reads a file of `write_course`, of a network with so many quantizers.

    Raises:
        ValueError: one line that names the file, the field and what to do.
    """
    document = Document.read(path, COURSE_SCHEMA, _COURSE_FIELDS, "nemojax search")
    species, columns = document.strings("species"), document.strings("baseline_columns")
    progress, members = document.table("progress", 2), document.table("members", len(species), whole=True)
    names = document.strings("baseline_names")
    costs = document.table("baseline_costs", len(columns))
    bits = document.table("baseline_bits", quantizers, whole=True)
    spent = document.numbers("spent", whole=True)
    if len(progress) != len(members) or not len(names) == len(costs) == len(bits):
        document.fail("has columns of different lengths")
    if set(spent) != {"evaluations", "finished"}:
        document.fail("spent must hold evaluations and finished")
    of = {name: np.array([own == name for own in names], bool) for name in names}
    return RunCourse(
        species,
        {"evaluations": progress[:, 0].astype(int), "hypervolume": progress[:, 1], "alloc": members},
        {name: (bits[rows], costs[rows]) for name, rows in of.items()},
        columns,
        int(spent["evaluations"]),
        bool(spent["finished"]),
    )


_COURSE_FIELDS = (
    "spent",
    "species",
    "progress",
    "members",
    "baseline_columns",
    "baseline_names",
    "baseline_costs",
    "baseline_bits",
)


def command(settings: RunSettings, budget: int, out: str = "again") -> str:
    """The `nemojax search` with these settings; those that are the defaults are left out."""
    words = ["nemojax", "search", "--out", out, "--budget", str(budget)]
    default = RunSettings()
    for field in fields(RunSettings):
        value: Any = getattr(settings, field.name)
        if value == getattr(default, field.name) or field.name not in _OPTIONS:
            continue
        repeated = field.name in ("pins", "sets", "ties", "limits")
        for one in value if repeated else [value]:
            words += [_OPTIONS[field.name], _as_text(field.name, one)]
    return shlex.join(words)


_OPTIONS = {
    "network": "--network",
    "images": "--images",
    "weights": "--weights",
    "resolution": "--resolution",
    "calibration": "--calibration",
    "search": "--search-images",
    "report": "--report",
    "top_k": "--top-k",
    "bits": "--bits",
    "pins": "--pin",
    "sets": "--bits-of",
    "ties": "--tie",
    "pairs": "--pairs",
    "limits": "--limit",
    "activation_range": "--activation-range",
    "population": "--population",
    "species": "--species",
    "survival": "--survival",
    "warm_start": "--warm-start",
    "seed": "--seed",
}


def _as_text(name: str, value: Any) -> str:
    if name in ("pins", "limits"):
        return f"{value[0]}={value[1]}"
    if name == "sets":
        return f"{value[0]}={','.join(map(str, value[1]))}"
    if name == "pairs":
        return ",".join("x".join(map(str, pair)) for pair in value)
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _check_settings(file: Path, settings: RunSettings) -> None:
    if not file.is_file():
        raise ValueError(f"{file.parent} holds no {SETTINGS}, so it is no run to resume: give another --out")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        before = dict(stored["settings"])
        if stored["schema"] != _SCHEMA:
            raise ValueError(f"schema {stored['schema']!r} is not {_SCHEMA!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}): give another --out") from None
    now = settings.as_dict()
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            told = name if name.isprintable() else repr(name)
            raise ValueError(
                f"{file.parent} was made with {told}={before.get(name)!r}, now it is {now.get(name)!r}: "
                f"resume with the same settings, or give another --out"
            )
