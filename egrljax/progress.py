"""A progress line for `place`: maps measured, time left, and the speed-up so far."""

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class PlaceProgress:
    """An `on_chunk` of `place`."""

    def __init__(self, file: TextIO | None = None):
        console = Console(file=file or sys.stderr)
        self._bar = Progress(
            TextColumn("map"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._plain = not console.is_terminal
        self._task: Any = None

    def __call__(self, measured: int, budget: int, best_s: float, reference_s: float) -> None:
        note = f"best {best_s * 1e6:.6g} us, {reference_s / best_s:.3f}x first_fit"
        if self._plain:  # a log file or a pipe: a line a chunk
            print(f"map {measured}/{budget}, {note}", file=self._bar.console.file, flush=True)
            return
        self.start(budget)
        self._bar.update(self._task, completed=measured, total=budget, note=note)

    def start(self, budget: int) -> None:
        """Shows the line before the first chunk, which compiles."""
        if self._task is None and not self._plain:
            self._task = self._bar.add_task("map", total=budget, note="compiling")
            self._bar.start()

    def close(self) -> None:
        """Leaves the line as it is."""
        if self._task is not None:
            self._bar.stop()
            self._task = None
