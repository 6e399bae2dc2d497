"""What a training tells while it runs, and what it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..losses import Losses

COLUMNS = (*Losses._fields, "validation_error", "seconds")  # of the rows that a checkpoint holds


@dataclass(frozen=True)
class DetectorChunk:
    """What `on_chunk` is told."""

    done: int  # steps
    total: int
    epoch: int  # the one it belongs to, from 1
    losses: Mapping[str, float]  # means over the epoch so far, by the fields of `Losses`
    seconds: float  # of this chunk
    waited_s: float  # of these, for images that were still being drawn

    @property
    def note(self) -> str:
        """For a progress line."""
        told = self.losses
        return f"epoch {self.epoch}, loss {told['loss']:.3f}, proposals' recall {told['recall']:.1%}"


@dataclass(frozen=True)
class DetectorEpoch:
    """A line of the history."""

    number: int  # from 1
    losses: Mapping[str, float]  # means over its steps, by the fields of `Losses`
    validation_error: float | None  # what `validation` said of the kept weights
    seconds: float  # of its steps


def rows_of(epochs: int) -> np.ndarray:
    """(epochs, columns) float64, NaN as long as nothing is known."""
    return np.full((epochs, len(COLUMNS)), np.nan)


def epoch_of(number: int, rows: np.ndarray) -> DetectorEpoch:
    """Line `number`, from 0."""
    *losses, wrong, seconds = rows[number].tolist()
    named = dict(zip(Losses._fields, losses, strict=True))
    return DetectorEpoch(number + 1, named, None if np.isnan(wrong) else wrong, seconds)
