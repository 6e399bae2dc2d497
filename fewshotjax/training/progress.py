"""A line that tells how far a training is: one that moves on a terminal, lines of text elsewhere."""

import sys
import time
from typing import Any, Protocol, TextIO, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_S = 10.0  # seconds between two lines of text at least


@runtime_checkable
class Told(Protocol):
    """What an `on_chunk` is given, by `train`, `features` and others."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def note(self) -> str: ...


class ProgressLine:
    """An `on_chunk`; a context manager closes the line also where the work raises."""

    def __init__(self, label: str, file: TextIO | None = None):
        self._label = label
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
        self._plain = not console.is_terminal
        self._task: Any = None
        self._began = time.monotonic()
        self._told = -PLAIN_S
        if not self._plain:
            self._task = self._bar.add_task(label, total=None, note="the first step compiles")
            self._bar.start()

    def __call__(self, chunk: Told) -> None:
        if self._plain:
            seconds = time.monotonic() - self._began
            if seconds - self._told >= PLAIN_S or chunk.done == chunk.total:
                self._told = seconds
                text = f"{self._label} {chunk.done}/{chunk.total}, {seconds:.0f} s"
                print(
                    f"{text}, {chunk.note}" if chunk.note else text, file=self._bar.console.file, flush=True
                )
        elif self._task is not None:
            self._bar.update(self._task, completed=chunk.done, total=chunk.total, note=chunk.note)
        if chunk.done == chunk.total:
            self.close()

    def close(self) -> None:
        """Leaves the line as it is."""
        if self._task is not None:
            self._bar.stop()
            self._task = None

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def progress(label: str = "train", file: TextIO | None = None) -> ProgressLine:
    """`train(..., on_chunk=progress())`, `features(..., on_chunk=progress("features"))`.

    Args:
        label: first word of the line.
        file: default: stderr. In a pipe or a log file, a line of text every ten seconds.
    """
    return ProgressLine(label, file)
