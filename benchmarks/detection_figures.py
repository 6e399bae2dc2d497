"""Figures of a row, with what each resample of the episodes gives, so that any two rows can be paired
later.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fewshotjax import detection as de
from fewshotjax.detection.results import METRICS

from .common import QUICK

RESAMPLES = 20 if QUICK else 200
PAIRED = ("repmet_pooled_ap", "voc_ap", "coco_ap", "coco_ap75")  # whose resamples are kept
_DIGITS = 5


def settings() -> dict[str, Any]:
    return {"resamples": RESAMPLES, "paired": list(PAIRED), "metrics": list(METRICS)}


def measured(found: de.DetectionResult) -> dict[str, Any]:
    """Value and half of the 95 % interval over episodes of each metric; resamples as one line each."""
    count = len(found.episodes)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    values, halves, kept = {}, {}, {}
    for name in METRICS:
        measure = found.weighted(name)
        values[name] = measure(np.ones(count))
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


def first(found: de.DetectionResult, episodes: int) -> de.DetectionResult:
    """The result of the first episodes alone."""
    images = episodes * found.episodes.asked.shape[1]
    kept, there = found.detections.image_index < images, found.truth.image_index < images
    return replace(
        found,
        detections=found.detections.take(kept),
        background=None,
        region=found.region[kept],
        truth=found.truth.take(there),
        frames=found.frames[there],
        episodes=found.episodes.take(slice(episodes)),
        missing=found.missing[:episodes],
    )


def gap(run: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> list[float]:
    """The difference of two rows on the same episodes, and half of its interval over them."""
    away = _unpacked(run["resampled"][metric]) - _unpacked(other["resampled"][metric])
    return [run["values"][metric] - other["values"][metric], _half(away)]


def _half(values: np.ndarray) -> float:
    """Half of the width between the 2.5 % and the 97.5 % quantile."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(high - low) / 2


def _packed(values: np.ndarray) -> str:
    """A line of a file, where a list would be hundreds."""
    return " ".join(str(round(value * 10**_DIGITS)) for value in values.tolist())


def _unpacked(line: str) -> np.ndarray:
    return np.array(line.split(), np.float64) / 10**_DIGITS
