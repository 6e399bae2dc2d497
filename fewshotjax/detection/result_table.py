"""Results of episodes of detection as text: methods by metrics, their floors, and what is to be known."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .metrics.bootstrap import Interval

# Name and heading of each figure. IoU .5 where nothing is said.
METRICS: dict[str, str] = {
    "repmet_pooled_ap": "pooled AP",  # the RepMet authors'
    "voc_ap": "VOC AP",  # all-point
    "voc_ap_11": "VOC AP 11",
    "coco_ap": "COCO AP",
    "coco_ap75": "AP75",  # COCO's
    "recall": "recall",  # of any class
    "recall75": "recall75",
    # Of the background's posterior: how surely it is higher for a region of no class than for one of some.
    "background_auroc": "AUROC",
    "floor_whole": "floor whole",  # shares of the objects that the whole photograph, as a box, meets
    "floor_whole75": "floor whole75",
    "floor_centred": "floor centred",  # a centred box of 3/4 of its sides
    "floor_centred75": "floor centred75",
}
_IN_TABLE = (
    "repmet_pooled_ap",
    "voc_ap",
    "voc_ap_11",
    "coco_ap",
    "coco_ap75",
    "recall",
    "recall75",
    "background_auroc",
)


def result_table(results: Mapping[str, Any], resamples: int) -> str:
    """A line for each `DetectionResult`, by name; then floors, once where they are the same, and notes."""
    first = next(iter(results.values()))
    cells = [["method", *(METRICS[name] for name in _IN_TABLE)]]
    notes = []
    floors: dict[tuple[str, ...], list[str]] = {}  # lines, and the results that they are of
    for name, result in results.items():
        floors.setdefault(_floor_lines(result), []).append(name)
        figures = (result.figure(metric, resamples=resamples) for metric in _IN_TABLE)
        cells.append([name, *map(str_of, figures)])
        empty, label = int(result.missing.sum()), f"{name}: " if name else ""
        if empty:
            notes.append(f"{label}{empty} of {result.missing.size} classes had no usable support")
        if result.failed:
            notes.append(f"{label}NaN for {result.failed} queries, in which nothing is detected")
        known = result.episodes.shared()
        if known and result is first:  # all have the same episodes
            asked = int(result.episodes.asked.sum())
            notes.append(f"{known} of {asked} query photographs are support of their own episode, too")
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    for found, names in floors.items():
        of = f" of {', '.join(names)}" if len(floors) > 1 else ""
        lines += [f"floor{of}: {line}" for line in found]
    if first.episodes.excluded:
        notes.append(f"left out, for want of photographs: {', '.join(first.episodes.excluded)}")
    return "\n".join(lines + notes)


def _floor_lines(result: Any) -> tuple[str, ...]:
    lines = []
    for box, words in (("whole", "the whole photograph"), ("centred", "a centred box of 3/4 its sides")):
        half, more = (100 * result.figure(f"floor_{box}{end}", resamples=0).value for end in ("", "75"))
        lines.append(f"{words} meets {half:.1f} % of the objects at IoU .5, {more:.1f} % at .75")
    return tuple(lines)


def str_of(interval: Interval) -> str:
    """In %, without the interval where it is not known; "-" where there is no figure."""
    if not np.isfinite(interval.value):
        return "-"
    value = f"{100 * interval.value:.1f}"
    if not np.isfinite(interval.low):
        return value
    return f"{value} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
