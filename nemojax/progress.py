"""A progress line for `search`: evaluations done, time left, and how good the front is."""

from typing import TextIO

from egrljax import ProgressLine

from .search import Report


class SearchProgress:
    """An `on_chunk` of `search`; also told of every single evaluation, so that the line moves at once."""

    def __init__(self, file: TextIO | None = None):
        self._line = ProgressLine("search", "first evaluation compiles", file)

    def on_evaluated(self, evaluations: int) -> None:
        """Called by the evaluator with the number of evaluations so far."""
        self._line.move(evaluations)

    def __call__(self, report: Report) -> None:
        front = f"{report.front} on the front, hypervolume {report.hypervolume:.4f}"
        note = f"generation {report.generation}, {front}"
        self._line.move(report.evaluations, report.budget, note)
        self._line.write(f"{report.evaluations}/{report.budget} evaluations, {report.seconds:.0f} s, {note}")

    def close(self) -> None:
        """Leaves the line as it is."""
        self._line.close()


def progress(file: TextIO | None = None) -> SearchProgress:
    """`search(..., on_chunk=progress())` shows a line that moves; in a pipe, a line per generation."""
    return SearchProgress(file)
