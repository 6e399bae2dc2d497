"""What a caller adds to a report by plain values: tables of results, with or without intervals, and pictures.

Another package's numbers reach a report this way, say few-shot accuracies over episodes: nothing here knows
where they come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure

from hwmodel import check_fields

Cell = str | int | float | None
_FORMATS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
_LARGEST_BYTES = 8_000_000


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers; one column may be drawn, with its interval.

    `Table("5-way 1-shot", ("method", "accuracy", "low", "high"), rows, value="accuracy", low="low",
    high="high")` is a table and, above it, a point with an error bar for each row, named by its first cell.

    Raises:
        ValueError: at construction, for no column, repeated columns, rows of another length, cells that are
            no text or number, or `value`, `low`, `high`, `group` that name no column or no numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]  # each a Cell, or a number of NumPy or JAX
    note: str = ""  # under the table: number of episodes, what the interval is
    value: str | None = None  # the column to draw
    low: str | None = None  # columns of the ends of its interval, not their distance
    high: str | None = None
    group: str | None = None  # column whose values share a mark and a colour, say the number of shots

    def __post_init__(self):
        where = f"table {self.title!r}"
        try:
            columns = tuple(self.columns)
            rows = tuple(tuple(_cell(where, cell) for cell in row) for row in self.rows)
        except TypeError:
            raise ValueError(f"{where}: columns and rows must be rows of cells") from None
        if not columns or not all(isinstance(name, str) for name in columns):
            raise ValueError(f"{where}: columns must be names, at least one, got {self.columns!r}")
        if len(set(columns)) != len(columns):
            raise ValueError(f"{where}: columns must be unique, got {columns}")
        for i, row in enumerate(rows):
            if len(row) != len(columns):
                raise ValueError(f"{where}: row {i} has {len(row)} cells for {len(columns)} columns")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", rows)
        for what in ("value", "low", "high", "group"):
            name = getattr(self, what)
            if name is None:
                continue
            if name not in columns:
                raise ValueError(f"{where}: {what} must be one of {columns}, got {name!r}")
            if what != "group" and any(isinstance(row[columns.index(name)], str) for row in rows):
                raise ValueError(f"{where}: {what} must be a column of numbers, {name!r} holds text")
        if (self.low is None) != (self.high is None) or (self.low and not self.value):
            raise ValueError(f"{where}: an interval needs value, low and high: give all three columns")

    def place(self, column: str | None) -> int:
        """Of a column; -1 for None."""
        return -1 if column is None else self.columns.index(column)


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG that stands inside the page.

    Raises:
        ValueError: at construction, for bytes of another format, or more than 8 MB.
    """

    data: bytes
    caption: str = ""
    title: str = ""  # pictures that follow each other with the same title stand together

    def __post_init__(self):
        check_fields(self)
        if not any(self.data.startswith(start) for start in _FORMATS):
            raise ValueError(f"picture {self.caption!r} must be PNG or JPEG, starts with {self.data[:8]!r}")
        if len(self.data) > _LARGEST_BYTES:
            raise ValueError(
                f"picture {self.caption!r} has {len(self.data)} bytes, at most {_LARGEST_BYTES} can stand in "
                "a page: make it smaller"
            )

    @classmethod
    def of(cls, figure: Figure, caption: str = "", title: str = "") -> "Picture":
        """A matplotlib figure, as it would be saved."""
        file = BytesIO()
        # Without the version in its metadata the same figure gives the same page.
        figure.savefig(file, format="png", metadata={"Software": None})
        return cls(file.getvalue(), caption, title)

    @property
    def format(self) -> str:
        """png or jpeg."""
        return next(name for start, name in _FORMATS.items() if self.data.startswith(start))


def _cell(where: str, cell: Any) -> Cell:
    """Numbers of NumPy and JAX become Python's."""
    if cell is None or isinstance(cell, str | bool | int | float):
        return str(cell) if isinstance(cell, bool) else cell
    try:
        value = cell.item()
    except (AttributeError, ValueError, TypeError):
        value = None
    if not isinstance(value, int | float):
        raise ValueError(f"{where}: a cell must be text, a number or None, got {cell!r}")
    return value
