"""The numbers behind a page, as JSON values: points, baselines, chips, learning curves, tables.

What the page draws is made of these alone, in the reader's browser. JSON has no NaN and no infinity; both
become null, which is drawn as a gap and written as a dash.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import egrljax as egrl
import hwmodel as hw

from ..configuration import SCHEMA as BITS_SCHEMA
from ..front import Front
from ..history import hypervolumes
from ..plots import UNITS, Baseline
from .chip_views import ChipView
from .sections import Table

SCHEMA = "frugaljax.nemo.report/1"
_DIGITS = 7  # of seconds by operation: more cannot be seen and doubles the file


def points_data(front: Front, knee: int, chosen: int, views: Sequence[ChipView]) -> dict[str, Any]:
    """The front: columns by name with their kind and unit, and the bits of each point."""
    kinds = [(name, "objective", front.costs[:, j]) for j, name in enumerate(front.objectives)]
    kinds += [(name, "held out", column) for name, column in front.held_out.items()]
    seconds = {f"latency on {view.label}": view.seconds for view in views if not _is_objective(front, view)}
    kinds += [(name, "on the chip", column) for name, column in seconds.items()]
    on_chip = {name for name in front.objectives if _in_seconds(front, name, views)} | seconds.keys()
    points = [front.configuration(i).operations() for i in range(len(front))]
    return {
        "objectives": list(front.objectives),
        "held_out": list(front.held_out),
        "names": list(front.names),
        "columns": [
            {
                "name": name,
                "kind": kind,
                "unit": "s" if name in on_chip else unit(name),
                "values": floats(column),
            }
            for name, kind, column in kinds
        ],
        "bits": front.bits.tolist(),
        "mean_bits": [floats(column) for column in front.mean_bits()],
        "operations": [row.operation for row in points[0]],
        "weight_bits": [[row.weight for row in rows] for rows in points],
        "activation_bits": [[row.activation for row in rows] for rows in points],
        "knee": knee,
        "chosen": chosen,
        "settings": json.dumps(dict(front.settings), allow_nan=False),  # as text: JavaScript has no 1.0
        "bits_schema": BITS_SCHEMA,
    }


def unit(name: str) -> str:
    """Of an objective or held-out column of this package; "" of any other."""
    for prefix in ("", "report_", "search_"):
        if name.removeprefix(prefix) in UNITS:
            return UNITS[name.removeprefix(prefix)]
    return ""


def baselines_data(
    front: Front, baselines: Mapping[str, Baseline], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Other configurations, failed ones left out, by the columns that their costs are of.

    Raises:
        ValueError: costs or bits that do not fit, or columns that the front does not have.
    """
    known = (*front.objectives, *front.held_out)
    for name in columns:
        if name not in known:
            raise ValueError(f"baseline_columns must be among {known}, got {name!r}")
    found = []
    for name, given in baselines.items():
        bits, costs = given if isinstance(given, tuple) else (None, given)
        costs = np.asarray(costs, np.float64)
        if costs.ndim != 2 or costs.shape[1] != len(columns):
            wanted = ", ".join(columns)
            raise ValueError(f"costs of baseline {name!r} must have the columns {wanted}, got {costs.shape}")
        if bits is not None and (np.ndim(bits) != 2 or len(bits) != len(costs)):
            raise ValueError(
                f"bits of baseline {name!r} must be {len(costs)} rows as its costs, got {np.shape(bits)}"
            )
        alive = np.flatnonzero(np.isfinite(costs).all(axis=1))
        widths = None
        if bits is not None and len(alive):
            middle = np.median(np.asarray(bits)[alive], axis=1).astype(int)  # a majority is the median
            if ((np.asarray(bits)[alive] == middle[:, None]).mean(axis=1) > 0.5).all():
                order = np.argsort(middle, kind="stable")
                alive, widths = alive[order], middle[order].tolist()
        values = {column: costs[alive, j].tolist() for j, column in enumerate(columns)}
        found.append({"name": name, "values": values, "widths": widths})
    return found


def chip_data(view: ChipView) -> dict[str, Any]:
    """A chip and, for each row that is explained, what the panels show."""
    chip, work = view.cost.chip, view.cost.workload
    return {
        "label": view.label,
        "about": f"placed by {view.placed_by}" if view.placed_by != "as given" else "placed as given",
        "source": chip.source,
        "warnings": list(chip.warnings),
        **_levels(chip),
        "operations": [op.name for op in work.operations],
        "kinds": [op.kind for op in work.operations],
        "possible": np.isfinite(view.seconds).tolist(),
        "points": {str(row): explained_data(one) for row, one in view.explained.items()},
    }


def placed_data(placed: egrl.Placed) -> dict[str, Any]:
    """A placement with its search: the same panels, at its own bits, and the course."""
    found = placed.explain()
    course = placed.course
    return {
        "label": f"{placed.workload.name} on {placed.chip.name}, by {placed.engine}",
        "about": placed.why,
        "source": placed.chip.source,
        "warnings": list(placed.chip.warnings),
        **_levels(placed.chip),
        "operations": [op.name for op in placed.workload.operations],
        "kinds": [op.kind for op in placed.workload.operations],
        "only": explained_data(found),
        "text": placed.text(),
        "rules": {name: _number(seconds) for name, seconds in placed.rules_s.items()},
        "bound": None if placed.bound_s is None else _number(placed.bound_s),
        "course": None
        if course is None
        else {"evaluations": floats(course.evaluations), "best": floats(course.best_s)},
    }


def explained_data(explanation: hw.Explanation) -> dict[str, Any]:
    """Bytes in full, seconds to seven digits; lists along operations, outer lists along levels."""
    terms = explanation.terms
    return {
        "latency_s": _short(explanation.latency_s),
        "energy_j": None if explanation.energy_j is None else _short(explanation.energy_j),
        "fits": explanation.fits,
        "time_s": [_short(t) for t in explanation.time_s],
        "compute_s": [_short(t) for t in terms.compute_s],
        "level_s": [[_short(t) for t in column] for column in terms.level_s.T],
        "move_s": [_short(t) for t in terms.move_s],
        "binding": explanation.binding.tolist(),
        "held_bytes": explanation.held_bytes.T.tolist(),
        "weight_bytes": explanation.weight_bytes.tolist(),
        "weight_level": np.where(terms.holds_weights, explanation.placement[:, 0], -1).tolist(),
        "output_level": explanation.placement[:, 1].tolist(),
    }


def history_data(history: Mapping[str, Any], species: Sequence[str]) -> dict[str, Any]:
    """Hypervolume, and where there are species their sizes, against evaluations.

    Raises:
        ValueError: evaluations or hypervolume are missing, or columns of other lengths.
    """
    evaluations, volume = hypervolumes(history)
    found: dict[str, Any] = {
        "evaluations": floats(evaluations),
        "hypervolume": floats(volume),
        "species": [],
    }
    if species and "alloc" in history:
        alloc = np.asarray(history["alloc"])
        if alloc.shape != (len(evaluations), len(species)):
            raise ValueError(
                f"history's alloc must be {len(evaluations)} rows by {len(species)} species, "
                f"got {alloc.shape}"
            )
        found["species"] = [
            {"name": name, "members": floats(column)} for name, column in zip(species, alloc.T, strict=True)
        ]
    return found


def table_data(table: Table) -> dict[str, Any]:
    """What is drawn of a table."""
    places = {what: table.place(getattr(table, what)) for what in ("value", "low", "high", "group")}
    rows = [[_number(cell) if isinstance(cell, float) else cell for cell in row] for row in table.rows]
    return {"title": table.title, "columns": list(table.columns), "rows": rows, **places}


def floats(column: Any) -> list[float | int | None]:
    """As Python numbers, null for what JSON cannot hold; whole numbers stay whole."""
    return [_number(value) for value in np.asarray(column).tolist()]


def _number(value: float | int) -> float | int | None:
    return value if np.isfinite(value) else None


def _short(seconds: float | int) -> float | int | None:
    return _number(float(f"{seconds:.{_DIGITS}g}"))


def _levels(chip: hw.Chip) -> dict[str, Any]:
    return {
        "levels": list(chip.level_names),
        "capacity": [level.capacity_bytes for level in chip.levels],
        "reserved": [level.reserved_bytes for level in chip.levels],
    }


def _is_objective(front: Front, view: ChipView) -> bool:
    """Whether the front was searched by these very seconds, which then need no further column."""
    return any(_same(front.costs[:, j], view.seconds) for j in range(len(front.objectives)))


def _in_seconds(front: Front, name: str, views: Sequence[ChipView]) -> bool:
    column = front.costs[:, front.objectives.index(name)]
    return any(_same(column, view.seconds) for view in views)


def _same(cost: np.ndarray, seconds: np.ndarray) -> bool:
    return bool(np.isfinite(seconds).all() and np.allclose(cost, seconds, rtol=1e-4, atol=0))
