"""Figures of a row, with what each resample of the episodes gives, so that any two rows can be paired
later.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewshotjax import detection as de
from fewshotjax.detection.results import METRICS

from .common import QUICK

RESAMPLES = 20 if QUICK else 60
# Whose resamples are kept.
PAIRED = ("repmet_pooled_ap", "voc_ap", "coco_ap", "coco_ap75", "background_auroc")
_DIGITS = 5


def settings() -> dict[str, Any]:
    return {"resamples": RESAMPLES, "paired": list(PAIRED), "metrics": list(METRICS)}


def measured(found: de.DetectionResult) -> dict[str, Any]:
    """Value and half of the 95 % interval over episodes of each metric; resamples as one line each.

    A metric without a value is left out: the AUROC where no region meets an object, as in a quick run.
    """
    count = len(found.episodes)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    values, halves, kept = {}, {}, {}
    for name in METRICS:
        measure = found.weighted(name)
        value = measure(np.ones(count))
        if np.isnan(value):
            continue
        values[name] = value
        again = np.array([measure(weights.astype(np.float64)) for weights in drawn])
        halves[name] = _half(again)
        if name in PAIRED:
            kept[name] = _packed(again)
    return {
        "values": {name: round(value, _DIGITS) for name, value in values.items()},
        "episodes_half": {name: round(half, _DIGITS) for name, half in halves.items()},
        "resampled": kept,
        "objects": len(found.truth),
        "detections": len(found.detections),
        "classes_without_support": int(found.missing.sum()),
        "failed_queries": found.failed,
    }


def paired(run: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Metrics that both rows have."""
    return [name for name in PAIRED if name in run["resampled"] and name in other["resampled"]]


def gap(run: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> list[float]:
    """The difference of two rows on the same episodes, and half of its interval over them."""
    away = _unpacked(run["resampled"][metric]) - _unpacked(other["resampled"][metric])
    return [run["values"][metric] - other["values"][metric], _half(away)]


def _half(values: np.ndarray) -> float:
    """Of the normal interval: quantiles of so few resamples would be rough."""
    return 1.96 * float(np.nanstd(values, ddof=1))


def _packed(values: np.ndarray) -> str:
    """A line of a file, where a list would be hundreds."""
    return " ".join(f"{value:.0f}" for value in (values * 10**_DIGITS).tolist())


def _unpacked(line: str) -> np.ndarray:
    return np.array(line.split(), np.float64) / 10**_DIGITS
