"""Fronts and configurations as text: which rows to show, and how they are set."""

from collections.abc import Sequence

import numpy as np


def spread(costs: np.ndarray, along: int, count: int, also: int) -> list[int]:
    """At most `count` rows of (K, M) costs, row `also` among them, by objective `along` ascending.

    The range of that objective is cut into count - 1 equal slices; each gives its row of lowest first
    objective (ties to the lower of the next ones, then to the lower row). With K <= count, all rows.
    """
    column = costs[:, along]
    order = np.argsort(column, kind="stable").tolist()
    if len(costs) <= count:
        return order
    span = np.ptp(column) or 1.0
    piece = np.minimum(((column - column.min()) / span * (count - 1)).astype(int), count - 2)
    best_first = np.lexsort(costs.T[::-1])
    first = np.unique(piece[best_first], return_index=True)[1]
    chosen = {*best_first[first].tolist(), also}
    return [i for i in order if i in chosen]


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns, the first one to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines


def number_text(number: float) -> str:
    """Four digits; "-" for NaN (a mean over nothing)."""
    return "-" if np.isnan(number) else f"{number:.4g}"
