"""Bit-widths by integer programming: the least additive error within a size and a bit-operation budget.

min  Σ_i s_i(b_i)   s.t.  model_ratio(b) <= S,  bitops_max(b) <= B    (cf. HAWQ-V3, Yao et al. 2021)

a multiple-choice knapsack with one-hot x_{i,b}. The maximum in bitops_max is linear in cumulative variables
z_{i,b} = Σ_{b' > b} x_{i,b'}, "i is wider than b", and y_{l,b} >= z_{w(l),b}, z_{a(l),b} for operation l:

max(b_w, b_a) = b_1 + Σ_k (b_{k+1} - b_k)·y_{l,b_k}       over the bit-widths b_1 < b_2 < ... of w and a

y needs not be whole: where it costs something it rests on z. HiGHS solves it (SciPy's `milp`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from hwmodel import Workload

from ..sensitivity import Sensitivity, check_covers
from ..shares import Shares
from ..space import BitSpace

_SLACK = 1e-7  # of a budget: solvers keep constraints to a tolerance
_SECONDS = 10.0  # per solve; the best configuration until then is taken


@dataclass(frozen=True, eq=False)
class Knapsack:
    """The program of one space, workload and sensitivity, to be solved for many budgets.

    Columns: one x per tied group and allowed bit-width, group by group, then the y.
    """

    shares: Shares
    group: np.ndarray  # (n,) the group of each quantizer, 0 ... G-1
    choices: tuple[tuple[int, ...], ...]  # G tuples of bit-widths, ascending
    cost: np.ndarray  # (columns,) sensitivity; 0 for y
    size: np.ndarray  # (columns,) in model_ratio
    bitops: np.ndarray  # (columns,) in bitops_max
    bitops_rest: float  # of operations whose input has no quantizer
    rows: csr_array  # (rows, columns): each group takes one width, y >= z, pairs
    lower: np.ndarray  # (rows,)
    upper: np.ndarray  # (rows,)

    @classmethod
    def of(cls, space: BitSpace, workload: Workload, sensitivity: Sensitivity) -> "Knapsack":
        """Raises ValueError: a sensitivity of other quantizers or bit-widths."""
        if space.names != workload.point_names:
            raise ValueError("space is of another network than workload: their quantizers differ")
        check_covers(sensitivity, space)
        group = _groups(space)
        choices = tuple(space.allowed[i] for i in np.unique(group, return_index=True)[1])
        shares = Shares.of(workload)
        start = np.cumsum([0, *map(len, choices)])
        x_cost, x_size = np.zeros(start[-1]), np.zeros(start[-1])
        for i, g in enumerate(group):
            columns = [sensitivity.widths.index(b) for b in choices[g]]
            x_cost[start[g] : start[g + 1]] += sensitivity.table[i, columns]
            x_size[start[g] : start[g + 1]] += shares.size[i] * np.array(choices[g]) / 32
        rows = _Rows()
        for g in range(len(choices)):
            rows.add([(column, 1.0) for column in range(start[g], start[g + 1])], 1.0, 1.0)
        wider = _Wider(choices, start)
        y_bitops, rest, end = [], 0.0, int(start[-1])
        for macs, w, a in zip(shares.macs, shares.weight, shares.input, strict=True):
            if a < 0:
                rest += macs  # 32 bits whatever the weight has
                continue
            ends = sorted({int(group[w]), int(group[a])})
            widths = sorted({b for g in ends for b in choices[g]})
            rest += macs * widths[0] / 32
            for b, above in pairwise(widths):
                for g in ends:
                    rows.add([(end, 1.0), *((column, -1.0) for column in wider(g, b))], 0.0, np.inf)
                y_bitops.append(macs * (above - b) / 32)
                end += 1
        for w, a in ((group[w], group[a]) for w, a in space.feeds):
            for k, b in enumerate(choices[w] if w != a else ()):  # a width of w needs one of a's that pairs
                fits = [int(start[a]) + j for j, c in enumerate(choices[a]) if (b, c) in space.pairs]
                rows.add([(int(start[w]) + k, -1.0), *((column, 1.0) for column in fits)], 0.0, np.inf)
        none = np.zeros(end - start[-1])
        return cls(
            shares,
            group,
            choices,
            np.concatenate([x_cost, none]),
            np.concatenate([x_size, none]),
            np.concatenate([np.zeros(start[-1]), y_bitops]),
            rest,
            *rows.matrix(end),
        )

    def solve(
        self, *, model_ratio: float | None = None, bitops_max: float | None = None, gap: float = 1e-2
    ) -> Int[np.ndarray, " n"] | None:
        """The best configuration within the budgets, or None where there is none.

        Args:
            gap: share of the optimum by which the result may be worse.
        """
        limits = [
            (self.size, model_ratio, self.shares.size_rest),
            (self.bitops, bitops_max, self.bitops_rest),
        ]
        constraints = [LinearConstraint(self.rows, self.lower, self.upper)]
        for coefficients, limit, rest in limits:
            if limit is not None:  # in bits, so that the solver's tolerances fit
                most = 32 * (limit * (1 + _SLACK) - rest)
                constraints.append(LinearConstraint(coefficients[None] * 32, -np.inf, most))
        bounds = Bounds(np.zeros(len(self.cost)), np.ones(len(self.cost)))
        # Optima differ by orders of magnitude between budgets, the solver's absolute gap does not: so the
        # relaxation, which is quick and tight, sets the scale.
        largest = float(np.abs(self.cost).max()) or 1.0
        relaxed = milp(self.cost / largest, bounds=bounds, constraints=constraints)
        if relaxed.x is None:
            return None
        scale = abs(float(relaxed.fun)) * largest or largest
        # Whole y, too, which changes no optimum: HiGHS then has no second program to solve for them.
        found = milp(
            self.cost / scale,
            integrality=np.ones(len(self.cost)),
            bounds=bounds,
            constraints=constraints,
            options={"mip_rel_gap": gap, "time_limit": _SECONDS},
        )
        return None if found.x is None else self._decode(found.x[: sum(map(len, self.choices))])

    def _decode(self, x: np.ndarray) -> Int[np.ndarray, " n"]:
        parts = np.split(x, np.cumsum([len(bits) for bits in self.choices])[:-1])
        width = np.array([bits[int(np.argmax(p))] for bits, p in zip(self.choices, parts, strict=True)])
        return width[self.group].astype(np.int32)


def knapsack_front(
    space: BitSpace, workload: Workload, sensitivity: Sensitivity, count: int, *, gap: float = 1e-2
) -> Int[np.ndarray, "K n"]:
    """At most `count` different configurations, each the best of its size and bit-operation budget.

    The budgets are a grid: levels of bitops_max between the lowest and the highest configuration, and for
    each of them levels of model_ratio from the lowest to what the knapsack without a size budget takes.
    Where budgets give the same configuration, or none, there are fewer.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    program = Knapsack.of(space, workload, sensitivity)
    found = {bits.tobytes(): bits for bits in _grid(space, program, math.isqrt(count - 1) + 2, gap)}
    rows = np.array(list(found.values()))
    rows = rows[np.lexsort((program.shares.model_ratio(rows), program.shares.bitops_max(rows)))]
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]


def _groups(space: BitSpace) -> Int[np.ndarray, " n"]:
    """(n,) the tied group of every quantizer, numbered from 0; one of its own where it is not tied."""
    first = np.arange(space.size)
    for group in space.groups:
        first[list(group)] = group[0]
    return np.unique(first, return_inverse=True)[1]


def _grid(space: BitSpace, program: Knapsack, levels: int, gap: float) -> Iterable[np.ndarray]:
    ends = np.stack([space.low, space.high]).astype(np.int32)
    shares = program.shares
    smallest, (least, most) = shares.model_ratio(ends)[0], shares.bitops_max(ends)
    for bitops in np.linspace(least, most, levels):
        free = program.solve(bitops_max=float(bitops), gap=gap)
        if free is None:  # with pairs the lowest widths need not go together
            continue
        yield free
        largest = shares.model_ratio(free[None])[0]
        for size in np.linspace(smallest, largest, levels)[:-1]:
            found = program.solve(bitops_max=float(bitops), model_ratio=float(size), gap=gap)
            if found is not None:
                yield found


@dataclass(frozen=True)
class _Wider:
    """The columns x_{g,b'} with b' > b."""

    choices: tuple[tuple[int, ...], ...]
    start: np.ndarray

    def __call__(self, g: int, b: int) -> list[int]:
        return [int(self.start[g]) + k for k, width in enumerate(self.choices[g]) if width > b]


class _Rows:
    """Rows of the constraint matrix, added one at a time."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, float]] = []
        self._bounds: list[tuple[float, float]] = []

    def add(self, terms: Iterable[tuple[int, float]], lower: float, upper: float) -> None:
        self._entries += [(len(self._bounds), column, value) for column, value in terms]
        self._bounds.append((lower, upper))

    def matrix(self, columns: int) -> tuple[csr_array, np.ndarray, np.ndarray]:
        row, column, value = map(np.array, zip(*self._entries, strict=True))
        lower, upper = map(np.array, zip(*self._bounds, strict=True))
        return csr_array(coo_array((value, (row, column)), shape=(len(lower), columns))), lower, upper
