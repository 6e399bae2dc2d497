"""What a co-search found: pairs of bit-widths and placement, and those that no other pair dominates."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import jax
import moocore
import numpy as np
from jaxtyping import Float, Int

import hwmodel as hw

from .configuration import checked_settings
from .front import Front
from .joint import chip_costs
from .limits import limits as checked_limits
from .task import Task


def settings_of(search: str, key: jax.Array, budget: int, **own: Any) -> dict[str, Any]:
    """What decided the result of one of the searches, as JSON values; `own` are its own arguments."""
    return {"search": search, "key": np.asarray(jax.random.key_data(key)).tolist(), "budget": budget, **own}


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
    chip: hw.Chip
    placement: np.ndarray  # (K, N, 2) int32, levels of the chip
    costs: np.ndarray  # (K, M) float64
    evaluations: int
    runs: int  # of the network, among the evaluations
    pairs: int  # that it was chosen from
    finished: bool  # False: ended by a time limit or by on_chunk before the budget
    settings: Mapping[str, Any] = field(default_factory=dict)  # what decided the result; `front` keeps them

    @classmethod
    def of(
        cls,
        task: Task,
        pairs: Sequence[Pairs],
        limits: Mapping[str, float | int | str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> "CoFound":
        """Of several parts of a search; failed pairs and those beyond the limits are left out.

        Args:
            settings: kept beside the names of network and chip, and the quantizers.
        """
        highest = checked_limits(task, limits or {})
        chip = next(iter(chip_costs(task).values())).chip
        quantizers = asdict(task.network.config)
        own = {"network": task.network.name, "quantizers": quantizers, "chip": chip.name}
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
            chip=chip,
            placement=placement[rows],
            costs=costs[rows],
            evaluations=sum(part.evaluations for part in pairs),
            runs=sum(part.runs for part in pairs),
            pairs=len(costs),
            finished=all(part.finished for part in pairs),
            settings=checked_settings({**(settings or {}), **own}),
        )

    def front(self) -> Front:
        """A front of bit-widths, for tables, files and plots; `placement` has a row for each of its rows."""
        return Front(self.bits, self.costs, self.objectives, self.names, self.settings)

    def hypervolume(self, reference: Sequence[float | int] | np.ndarray) -> float:
        """As a share of the box up to `reference`; see `nemojax.reference`."""
        corner = np.asarray(reference, np.float64)
        if corner.shape != (len(self.objectives),) or not (corner > 0).all():
            raise ValueError(
                f"reference must be {len(self.objectives)} numbers above 0, for {self.objectives}, got "
                f"{corner.tolist()}"
            )
        return float(moocore.hypervolume(self.costs / corner, np.ones(len(corner))))
