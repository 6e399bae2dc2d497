"""A mixed-integer linear program put together row by row, for scipy.optimize.milp."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import optimize, sparse

Terms = Iterable[tuple[int | np.integer, float]]  # (variable, factor)


class LinearProgram:
    """minimise constant + Σ cost · x, subject to rows low <= Σ factor · x <= high."""

    def __init__(self) -> None:
        self.constant = 0.0
        self._cost: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._integer: list[bool] = []
        self._entries: list[tuple[int, int | np.integer, float]] = []  # row, column, factor
        self._row_low: list[float] = []
        self._row_high: list[float] = []

    def variable(
        self, *, low: float = 0.0, high: float = np.inf, cost: float = 0.0, integer: bool = False
    ) -> int:
        """A new variable's index."""
        for values, value in ((self._low, low), (self._high, high), (self._cost, cost)):
            values.append(value)
        self._integer.append(integer)
        return len(self._cost) - 1

    def add_cost(self, terms: Terms) -> None:
        for column, value in terms:
            self._cost[column] += value

    def row(self, terms: Terms, low: float, high: float) -> None:
        """low <= Σ terms <= high."""
        row = len(self._row_low)
        self._entries += [(row, column, factor) for column, factor in terms]
        self._row_low.append(low)
        self._row_high.append(high)

    def solve(self, time_limit_s: float, relative_gap: float) -> Any:
        """SciPy's result; its `fun` and `mip_dual_bound` leave the constant out."""
        rows, columns, factors = zip(*self._entries, strict=True)
        shape = (len(self._row_low), len(self._cost))
        matrix = sparse.csr_matrix((factors, (rows, columns)), shape=shape)
        return optimize.milp(
            np.array(self._cost),
            integrality=np.array(self._integer, np.int8),
            bounds=optimize.Bounds(np.array(self._low), np.array(self._high)),
            constraints=optimize.LinearConstraint(matrix, np.array(self._row_low), np.array(self._row_high)),
            options={"time_limit": float(time_limit_s), "mip_rel_gap": float(relative_gap)},
        )
