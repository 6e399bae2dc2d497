"""A progress line for `search`: evaluations done, time left, and how good the front is."""

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

from .search import Report


class SearchProgress:
    """An `on_chunk` of `search`; also told of every single evaluation, so that the line moves at once."""

    def __init__(self, file: TextIO | None = None):
        console = Console(file=file or sys.stderr)
        self._bar = Progress(
            TextColumn("search"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=False,
        )
        self._plain = not console.is_terminal
        self._task: Any = None
        self._done = 0

    def on_evaluated(self, evaluations: int) -> None:
        """Called by the evaluator with the number of evaluations so far."""
        self._done = evaluations
        if not self._plain:
            self._start(None)
            self._bar.update(self._task, completed=evaluations)

    def __call__(self, report: Report) -> None:
        front = f"{report.front} on the front, hypervolume {report.hypervolume:.4f}"
        note = f"generation {report.generation}, {front}"
        if self._plain:  # a log file or a pipe: one line per generation
            print(
                f"search {report.evaluations}/{report.budget} evaluations, {report.seconds:.0f} s, {note}",
                file=self._bar.console.file,
                flush=True,
            )
            return
        self._start(report.budget)
        self._bar.update(self._task, completed=report.evaluations, total=report.budget, note=note)

    def close(self) -> None:
        """Leaves the line as it is."""
        if self._task is not None:
            self._bar.stop()
            self._task = None

    def _start(self, total: int | None) -> None:
        if self._task is None:
            self._task = self._bar.add_task("search", total=total, note="first evaluation compiles")
            self._bar.start()


def progress(file: TextIO | None = None) -> SearchProgress:
    """`search(..., on_chunk=progress())` shows a line that moves; in a pipe, a line per generation."""
    return SearchProgress(file)
