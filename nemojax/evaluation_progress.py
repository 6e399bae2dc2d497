"""A progress line for `evaluate_batches`: images done, time left, and the error so far."""

import time
from typing import TextIO

from egrljax import ProgressLine

from .evaluation import Evaluation

EVERY_S = 5.0  # between lines of a log


class EvaluationProgress:
    """An `on_batch` of `evaluate_batches`; a moving line on a terminal, else a line now and then."""

    def __init__(self, total: int, file: TextIO | None = None):
        self._total, self._said = total, 0.0
        self._line = ProgressLine("evaluate", "first batch compiles", file)
        self._line.move(0, total)

    def __call__(self, found: Evaluation) -> None:
        k = found.top_k[0]
        errors = ", ".join(f"{error:.4f}" for error in found.error(k))
        note = f"{found.images_per_s:.0f} images/s, top-{k} error so far {errors}"
        self._line.move(found.images, self._total, note)
        if found.images == self._total or time.monotonic() - self._said > EVERY_S:
            self._said = time.monotonic()
            self._line.write(f"{found.images}/{self._total} images, {found.seconds:.0f} s, {note}")

    def close(self) -> None:
        """Leaves the line as it is."""
        self._line.close()
