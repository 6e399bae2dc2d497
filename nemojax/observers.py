"""What calibration reads off the activations: extremes per image, and histograms.

The network runs on a few images at a time and its activations are summed up in NumPy, so one compilation
serves both passes and memory does not grow with the number of images.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from .batches import Inputs, chunks, count
from .interpreter import Folded, execute
from .traced import Traced

BINS = 2048
_IMAGES = 4  # run together


class Histograms(NamedTuple):
    """Counts of every activation's values in equal bins; one row per point, empty rows for weights."""

    counts: np.ndarray  # (points, BINS) float32
    low: np.ndarray  # (points,) float32, lower edge of the first bin, at most 0
    high: np.ndarray  # (points,) float32, upper edge of the last bin, at least 0

    def percentiles(self, percentile: float) -> tuple[np.ndarray, np.ndarray]:
        """(points,) edges of the bins that hold the middle `percentile` per cent of the values."""
        tail = (1 - percentile / 100) / 2
        edges = np.linspace(self.low, self.high, BINS + 1, axis=1)
        share = (
            self.counts.cumsum(1, dtype=np.float64)
            / np.maximum(self.counts.sum(1, dtype=np.float64), 1)[:, None]
        )
        first = np.minimum((share <= tail).sum(1), BINS - 1) if tail > 0 else np.zeros(len(edges), int)
        last = np.minimum((share < 1 - tail).sum(1) + 1, BINS)
        rows = np.arange(len(edges))
        return edges[rows, first], edges[rows, last]


def image_extremes(traced: Traced, folded: Folded, inputs: Inputs) -> np.ndarray:
    """(N, points, 2) float32 lowest and highest value of every activation of every sample."""
    out = np.zeros((count(inputs), len(traced.workload().points), 2), np.float32)
    for rows, i, x in _activations(traced, folded, inputs):
        out[rows, i, 0], out[rows, i, 1] = x.min(1), x.max(1)
    return out


def histograms(
    traced: Traced, folded: Folded, inputs: Inputs, low: np.ndarray, high: np.ndarray
) -> Histograms:
    """Histograms of all activations between low and high (points,), widened to hold zero."""
    low, high = np.minimum(low, 0).astype(np.float32), np.maximum(high, 0).astype(np.float32)
    counts = np.zeros((len(low), BINS), np.float32)
    for _, i, x in _activations(traced, folded, inputs):
        width = high[i] - low[i]
        per_unit = np.float32(BINS) / (width if width > 0 else np.float32(1))
        bins = ((x.reshape(-1) - low[i]) * per_unit).astype(np.int32).clip(0, BINS - 1)
        counts[i] += np.bincount(bins, minlength=BINS)
    return Histograms(counts, low, high)


def _activations(traced: Traced, folded: Folded, inputs: Inputs) -> Iterator[tuple[slice, int, np.ndarray]]:
    """(rows of samples, point, its values (samples, ...)) for every activation of every few samples."""
    for rows, batch in chunks(inputs, min(_IMAGES, count(inputs))):
        for i, x in _collect(traced, folded, batch).items():
            yield rows, i, np.asarray(x)[: rows.stop - rows.start]


@partial(jax.jit, static_argnums=0)
def _collect(traced: Traced, folded: Folded, batch: Inputs) -> dict[int, Array]:
    """point -> its values (B, ...), for every activation."""
    points, seen, size = traced.workload().points, {}, count(batch)

    def look(i: int, x: Array) -> Array:
        if not points[i].is_weight:
            # As rows of samples, because a reshape in the network may have joined samples and pixels.
            seen[i] = x.reshape(size, -1)
        return x

    leaves = tuple(jax.tree.leaves(batch))
    execute(traced.workload(size), folded, leaves, lowering=traced.lowering, quantize=look)
    return seen
