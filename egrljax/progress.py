"""Lines that tell how far a long run is: one that moves on a terminal, lines of text elsewhere."""

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


class ProgressLine:
    """What `on_chunk` functions draw on.

    Args:
        label: first word of the line.
        waiting: what it says before anything is done.
        file: default: stderr.
    """

    def __init__(self, label: str, waiting: str, file: TextIO | None = None):
        console = Console(file=file or sys.stderr)
        self._bar = Progress(
            TextColumn(label),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._label, self._waiting = label, waiting
        self._task: Any = None
        self.plain = not console.is_terminal  # a log file or a pipe

    def move(self, done: int, total: int | None = None, note: str | None = None) -> None:
        """The line on a terminal; a total or note that is left out stays."""
        if self.plain:
            return
        if self._task is None:
            self._task = self._bar.add_task(self._label, total=total, note=self._waiting)
            self._bar.start()
        changes: dict[str, Any] = {} if note is None else {"note": note}
        if total is not None:
            changes["total"] = total
        self._bar.update(self._task, completed=done, **changes)

    def write(self, text: str) -> None:
        """A line of text, after the label, where nothing moves."""
        if self.plain:
            print(f"{self._label} {text}", file=self._bar.console.file, flush=True)

    def close(self) -> None:
        """Leaves the line as it is."""
        if self._task is not None:
            self._bar.stop()
            self._task = None


class _MapsProgress:
    """Maps measured and time left, with a note."""

    label = "maps"

    def __init__(self, file: TextIO | None = None):
        self._line = ProgressLine(self.label, "compiling", file)
        self._begun = False

    def _move(self, measured: int, budget: int, note: str) -> None:
        if not self._begun:  # the call before the first chunk
            self._begun = True
            self._line.move(measured, budget)
            return
        self._line.move(measured, budget, note)
        self._line.write(f"{measured}/{budget}, {note}")

    def close(self) -> None:
        """Leaves the line as it is."""
        self._line.close()


class PlaceProgress(_MapsProgress):
    """An `on_chunk` of `place`: the speed-up so far."""

    label = "map"

    def __call__(self, measured: int, budget: int, best_s: float, reference_s: float) -> None:
        note = f"best {best_s * 1e6:.6g} us, {reference_s / best_s:.3f}x first_fit"
        self._move(measured, budget, note)


class TrainPolicyProgress(_MapsProgress):
    """An `on_chunk` of `train_policy`: the best policy's speed-up so far."""

    label = "train"

    def __call__(self, measured: int, budget: int, speedup: float) -> None:
        self._move(measured, budget, f"best policy {speedup:.3f}x first_fit (geometric mean)")


def progress(file: TextIO | None = None) -> PlaceProgress:
    """`place(..., on_chunk=progress())` shows a line that moves; in a pipe, a line per chunk."""
    return PlaceProgress(file)
