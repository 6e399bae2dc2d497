"""What a co-search found: pairs of bit-widths and placement, and those that no other pair dominates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import moocore
import numpy as np
from jaxtyping import Float, Int

from .front import Front
from .limits import limits as checked_limits
from .task import Task


class Pairs(NamedTuple):
    """K pairs of bit-widths and placement, and what they cost."""

    bits: Int[np.ndarray, "K n"]
    placement: Int[np.ndarray, "K N 2"]  # as it fits
    costs: Float[np.ndarray, "K M"]
    evaluations: int  # spent on them, and on others that were looked at
    runs: int = 0  # of the network, or of the function in its place, among them
    finished: bool = True  # False: ended by a time limit or by on_chunk before the budget


@dataclass(frozen=True, eq=False)
class CoFound:
    """The outcome: what is not dominated among all pairs, in the order of the costs."""

    objectives: tuple[str, ...]
    names: tuple[str, ...]  # of the points
    bits: np.ndarray  # (K, n) int32
    placement: np.ndarray  # (K, N, 2) int32, levels
    costs: np.ndarray  # (K, M) float64
    evaluations: int
    runs: int  # of the network, among the evaluations
    pairs: int  # that it was chosen from
    finished: bool  # False: ended by a time limit or by on_chunk before the budget

    @classmethod
    def of(
        cls, task: Task, pairs: Sequence[Pairs], limits: Mapping[str, float | int | str] | None = None
    ) -> "CoFound":
        """Of several parts of a search; failed pairs and those beyond the limits are left out."""
        highest = checked_limits(task, limits or {})
        bits, placement, costs = (
            np.concatenate(columns) for columns in zip(*(part[:3] for part in pairs), strict=True)
        )
        costs = costs.astype(np.float64)
        rows = np.flatnonzero((np.isfinite(costs) & (costs <= highest)).all(axis=1))
        if not len(rows):
            within = " within the limits" if np.isfinite(highest).any() else ""
            raise ValueError(f"none of {len(costs)} pairs of bits and placement has finite costs{within}")
        rows = rows[np.lexsort(costs[rows].T[::-1])]
        rows = rows[moocore.is_nondominated(costs[rows], keep_weakly=False)]
        return cls(
            objectives=task.objectives,
            names=task.network.workload.point_names,
            bits=bits[rows],
            placement=placement[rows],
            costs=costs[rows],
            evaluations=sum(part.evaluations for part in pairs),
            runs=sum(part.runs for part in pairs),
            pairs=len(costs),
            finished=all(part.finished for part in pairs),
        )

    def front(self) -> Front:
        """A front of bit-widths, for tables, files and plots; `placement` has a row for each of its rows."""
        return Front(self.bits, self.costs, self.objectives, self.names)

    def hypervolume(self, reference: Sequence[float | int] | np.ndarray) -> float:
        """As a share of the box up to `reference`; see `nemojax.reference`."""
        corner = np.asarray(reference, np.float64)
        return float(moocore.hypervolume(self.costs / corner, np.ones(len(corner))))
