"""A progress line for `evaluate_batches`: images done, time left, and the error so far."""

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .evaluation import Evaluation

EVERY_S = 5.0  # between lines of a log


class EvaluationProgress:
    """An `on_batch` of `evaluate_batches`; a moving line on a terminal, else a line now and then."""

    def __init__(self, total: int, file: TextIO | None = None):
        console = Console(file=file or sys.stderr)
        self._total, self._plain, self._said = total, not console.is_terminal, 0.0
        self._bar = Progress(
            TextColumn("evaluate"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task = self._bar.add_task("evaluate", total=total, note="first batch compiles")
        if not self._plain:
            self._bar.start()

    def __call__(self, found: Evaluation) -> None:
        k = found.top_k[0]
        errors = ", ".join(f"{error:.4f}" for error in found.error(k))
        note = f"{found.images_per_s:.0f} images/s, top-{k} error so far {errors}"
        if not self._plain:
            self._bar.update(self._task, completed=found.images, note=note)
        elif found.images == self._total or time.monotonic() - self._said > EVERY_S:
            self._said = time.monotonic()
            line = f"evaluate {found.images}/{self._total} images, {found.seconds:.0f} s, {note}"
            print(line, file=self._bar.console.file, flush=True)

    def close(self) -> None:
        """Leaves the line as it is."""
        if not self._plain:
            self._bar.stop()
