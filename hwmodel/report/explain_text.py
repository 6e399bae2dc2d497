"""An explanation as text, CSV and JSON."""

import csv
import io
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import write_text
from ..chips.file import chip_to_dict

if TYPE_CHECKING:
    from .explain import Explanation

SCHEMA, VERSION = "hwmodel.explanation", 1
_MOST_NAMES = 4  # of tensors at a peak


def explanation_text(explanation: "Explanation", top: int | None = None) -> str:
    """Totals, then levels, then operations: all in order, or the `top` longest ones, longest first.

    Raises:
        ValueError: `top` below 1.
    """
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    count = len(explanation.operations)
    rows = list(range(count))
    if top is not None:
        rows = np.argsort(-explanation.time_s, kind="stable")[:top].tolist()
    parts = [_totals(explanation), _table(_levels(explanation)), *_peaks(explanation)]
    parts += ["", _table(_operations(explanation, rows))]
    if len(rows) < count:
        rest = explanation.time_s.sum() - explanation.time_s[rows].sum()
        parts.append(f"and {count - len(rows)} shorter operations, {_seconds(rest)} together")
    return "\n".join(parts)


def write_csv(path: str | os.PathLike[str], explanation: "Explanation") -> None:
    """A row per operation, floats in full."""
    text = io.StringIO()
    rows = _records(explanation)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: str | os.PathLike[str], explanation: "Explanation") -> None:
    """Totals, peaks and a record per operation."""
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        "workload": explanation.workload,
        "chip": chip_to_dict(explanation.chip),
        "schedule": explanation.schedule,
        "latency_s": explanation.latency_s,
        "energy_j": explanation.energy_j,
        "fits": explanation.fits,
        "bound_s": explanation.bound_s,
        "peaks": [
            {
                "level": peak.level,
                "step": peak.step,
                "operation": peak.operation,
                "held_bytes": peak.held_bytes,
                "reserved_bytes": peak.reserved_bytes,
                "capacity_bytes": peak.capacity_bytes,
                "fits": peak.fits,
                "tensors": [{"name": name, "bytes": size} for name, size in peak.tensors],
            }
            for peak in explanation.peaks
        ],
        "operations": _records(explanation),
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _records(explanation: "Explanation") -> list[dict[str, Any]]:
    names, terms = explanation.chip.level_names, explanation.terms
    records = []
    for i, name in enumerate(explanation.operations):
        weight, output = explanation.placement[i]
        record: dict[str, Any] = {
            "operation": name,
            "kind": explanation.kinds[i],
            "weight_level": names[weight] if terms.holds_weights[i] else "",
            "output_level": names[output],
            "macs": int(explanation.macs[i]),
            "start_s": float(explanation.start_s[i]),
            "time_s": float(explanation.time_s[i]),
            "binds": explanation.term_names[explanation.binding[i]],
            "slack_s": float(explanation.slack_s[i]),
            "compute_s": float(terms.compute_s[i]),
            "move_s": float(terms.move_s[i]),
        }
        for k, level in enumerate(names):
            record[f"{level}_s"] = float(terms.level_s[i, k])
            record[f"{level}_read_bytes"] = _whole(terms.read_bytes[i, k])
            record[f"{level}_write_bytes"] = _whole(terms.write_bytes[i, k])
            record[f"{level}_held_bytes"] = int(explanation.held_bytes[i, k])
        if terms.energy_j is not None:
            record["energy_j"] = float(terms.energy_j[i])
        records.append(record)
    return records


def _whole(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)


def _totals(explanation: "Explanation") -> str:
    total = explanation.time_s.sum()
    bound = [
        f"{name} {share / total:.1%}"
        for name, share in explanation.bound_s.items()
        if total > 0 and share > 0
    ]
    lines = [
        f"{explanation.workload} on {explanation.chip.name}: {_seconds(explanation.latency_s)} per "
        f"inference, {len(explanation.operations)} operations, {explanation.schedule.replace('_', ' ')}",
        f"time by the term that binds: {', '.join(bound) or 'none'}",
    ]
    if explanation.energy_j is not None:
        lines.append(f"energy: {explanation.energy_j:.4g} J per inference")
    if not explanation.fits:
        wrong = ", ".join(peak.level for peak in explanation.peaks if not peak.fits)
        lines.append(f"DOES NOT FIT: {wrong}")
    return "\n".join(lines)


def _levels(explanation: "Explanation") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("level", "read", "written", "busy", "held at most", "of", "at operation")]
    for k, peak in enumerate(explanation.peaks):
        room = (
            "unlimited" if peak.capacity_bytes is None else f"{peak.capacity_bytes - peak.reserved_bytes:,} B"
        )
        rows.append(
            (
                peak.level,
                _bytes(explanation.terms.read_bytes[:, k].sum()),
                _bytes(explanation.terms.write_bytes[:, k].sum()),
                _seconds(explanation.terms.level_s[:, k].sum()),
                f"{peak.held_bytes:,} B",
                room,
                peak.operation if peak.held_bytes else "-",
            )
        )
    return rows


def _peaks(explanation: "Explanation") -> list[str]:
    lines = []
    for peak in explanation.peaks:
        if not peak.fits:
            names = ", ".join(f"{name} {size:,} B" for name, size in peak.tensors[:_MOST_NAMES])
            more = f" and {len(peak.tensors) - _MOST_NAMES} more" if len(peak.tensors) > _MOST_NAMES else ""
            over = peak.held_bytes + peak.reserved_bytes - int(peak.capacity_bytes or 0)
            lines.append(f"{peak.level} is {over:,} B short at {peak.operation}, with {names}{more}")
    return lines


def _operations(explanation: "Explanation", rows: Sequence[int]) -> list[tuple[str, ...]]:
    names = explanation.chip.level_names
    moves = bool(explanation.terms.move_s.any())
    head = ["operation", "kind", "weights on", "output on", "compute", *names, *(["move"] if moves else [])]
    table = [(*head, "time us", "binds", "slack")]
    for i in rows:
        weight, output = explanation.placement[i]
        times = [explanation.terms.compute_s[i], *explanation.terms.level_s[i]]
        times += [explanation.terms.move_s[i]] if moves else []
        table.append(
            (
                explanation.operations[i],
                explanation.kinds[i],
                names[weight] if explanation.terms.holds_weights[i] else "-",
                names[output],
                *(_micro(t) for t in [*times, explanation.time_s[i]]),
                explanation.term_names[explanation.binding[i]],
                _micro(explanation.slack_s[i]),
            )
        )
    return table


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of numbers to the right, the others to the left."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [
        all(cell[:1].isdigit() or cell in ("-", "unlimited") for cell in column[1:]) for column in columns
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numbers else cell.ljust(width)
            for cell, width, numbers in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    )


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.4f}"


def _seconds(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.4g} {unit}"
    return f"{seconds * 1e9:.4g} ns"


def _bytes(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B"
