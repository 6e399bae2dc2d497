"""The result of a search: the Pareto front, and how to choose from it. Everything is minimised.

Objectives keep their names in every output. Those of this package are top1_error and top5_error (share of
images), disagreement (share of images whose first class is not the unquantized network's), kl (nat),
model_ratio (bytes, over those at 32 bits), bitops_max (MAC·max(w, a), over that at 32 bits; NEMO's) and
bitops_product (MAC·w·a, over that at 32 bits; HAWQ's). Any other name will do.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import moocore
import numpy as np

from hwmodel import check_fields
from nemojax.configuration import (
    Configuration,
    checked_bits,
    checked_names,
    checked_settings,
    frozen,
    mean_bits,
    put,
)
from nemojax.front_io import Document, write_csv, write_json
from nemojax.front_table import number_text, spread, text_table

SCHEMA = "frugaljax.nemo.front/1"
_ROUNDING = 1e-6  # relative, of costs computed in float32
_Array = np.ndarray | jax.Array


@dataclass(frozen=True, eq=False)
class Front:
    """K configurations of n quantizers of which none dominates another, with their M costs.

    Raises:
        ValueError: at construction, for shapes that differ, numbers that are not finite, names that
            repeat, bits that are no bit-width, or a dominated row.
    """

    bits: np.ndarray  # (K, n) int32: 2-16, or 32 = not quantized
    costs: np.ndarray  # (K, M) float64
    objectives: tuple[str, ...]  # M
    names: tuple[str, ...]  # n, in execution order
    settings: Mapping[str, Any] = field(default_factory=dict)  # seed, budget, network, versions, ...
    held_out: Mapping[str, np.ndarray] = field(default_factory=dict)  # column -> (K,), not searched on

    def __post_init__(self):
        check_fields(self)
        objectives, names = checked_names(self.objectives, "objectives"), checked_names(self.names, "names")
        bits, costs = checked_bits(np.asarray(self.bits), names), np.asarray(self.costs)
        if costs.dtype.kind not in "fiu":
            raise ValueError(f"costs must be numbers, got {costs.dtype}")
        if costs.shape != (len(bits), len(objectives)) or not len(bits):
            raise ValueError(
                f"costs must be {len(bits)} rows (of bits) by {len(objectives)} objectives and not empty, "
                f"got shape {costs.shape}"
            )
        if not np.isfinite(costs).all():
            row, column = np.argwhere(~np.isfinite(costs))[0]
            raise ValueError(
                f"costs of row {row} must be finite, {objectives[column]} is {costs[row, column]}: "
                "Front.of leaves failed rows out"
            )
        costs = frozen(costs + 0.0, np.float64)  # -0.0 becomes 0.0, which moocore would tell apart
        dominated = np.flatnonzero(~moocore.is_nondominated(costs, keep_weakly=True))
        if dominated.size:
            raise ValueError(f"row {dominated[0]} is dominated by another one: Front.of leaves such rows out")
        held_out = {}
        for name, column in self.held_out.items():
            if name in objectives:
                raise ValueError(f"held_out {name!r} is also an objective: give it another name")
            held_out[name] = frozen(column, np.float64)
            if held_out[name].shape != (len(bits),) or not np.isfinite(held_out[name]).all():
                raise ValueError(
                    f"held_out {name!r} must be {len(bits)} finite numbers, got shape {np.shape(column)}: "
                    "evaluate every point of the front"
                )
        put(self, "objectives", objectives)
        put(self, "names", names)
        put(self, "bits", bits)
        put(self, "costs", costs)
        put(self, "settings", checked_settings(self.settings))
        put(self, "held_out", held_out)

    @classmethod
    def of(
        cls,
        bits: _Array,
        costs: _Array,
        objectives: Sequence[str],
        names: Sequence[str],
        settings: Mapping[str, Any] | None = None,
        held_out: Mapping[str, _Array] | None = None,
    ) -> "Front":
        """The front of N evaluated configurations; the result does not depend on their order.

        Failed rows (a cost that is not finite) and dominated rows are left out. Of rows with equal costs
        the one with the lexicographically smallest bits stays. Sorted by the costs, first objective first.

        Args:
            bits: (N, n) whole numbers.
            costs: (N, M).
            held_out: (N,) columns to keep beside the costs.
        """
        bits, costs = np.asarray(bits), np.asarray(costs, np.float64) + 0.0
        columns = {name: np.asarray(column) for name, column in (held_out or {}).items()}
        shapes = [bits.shape, costs.shape, *(column.shape for column in columns.values())]
        if [len(shape) for shape in shapes[:2]] != [2, 2] or len({shape[:1] for shape in shapes}) != 1:
            raise ValueError(f"bits, costs and held_out must have equally many rows, got shapes {shapes}")
        rows = np.flatnonzero(np.isfinite(costs).all(axis=1))
        if not rows.size:
            raise ValueError(f"costs has no finite row among {len(costs)}: every evaluation failed")
        rows = rows[np.lexsort((*bits[rows].T[::-1], *costs[rows].T[::-1]))]
        rows = rows[moocore.is_nondominated(costs[rows], keep_weakly=False)]
        columns = {name: column[rows] for name, column in columns.items()}
        return cls(bits[rows], costs[rows], tuple(objectives), tuple(names), settings or {}, columns)

    def __len__(self) -> int:
        return len(self.costs)

    def configuration(self, index: int) -> Configuration:
        """The point in row `index`."""
        if not 0 <= index < len(self):
            raise ValueError(f"index must be in 0-{len(self) - 1}, got {index}")
        costs = dict(zip(self.objectives, self.costs[index].tolist(), strict=True))
        held_out = {name: float(column[index]) for name, column in self.held_out.items()}
        return Configuration(self.bits[index], self.names, costs, held_out, self.settings, int(index))

    def mean_bits(self) -> tuple[np.ndarray, np.ndarray]:
        """(K,) mean bit-widths of the weight quantizers and of the others; NaN where there are none."""
        return mean_bits(self.bits, self.names)

    def hypervolume(self, reference: float | int | Sequence[float] | np.ndarray = 1.0) -> float:
        """Volume that the front dominates, up to `reference`; larger is better (Zitzler & Thiele 1998).

        The default (1, ..., 1) is the unquantized network with nothing right, for objectives that are
        shares. kl has no upper end: 1 nat is then a choice, so state it with the number. A point that is
        not below the reference in every objective adds nothing. Compare only under equal references.
        """
        corner = np.asarray(reference, np.float64)
        if corner.shape not in ((), (len(self.objectives),)) or not np.isfinite(corner).all():
            raise ValueError(
                f"reference must be one finite number or {len(self.objectives)} of them, got {reference}"
            )
        return float(moocore.hypervolume(self.costs, np.broadcast_to(corner, len(self.objectives))))

    def pick(self, **limits: float | int) -> Configuration:
        """The point with the lowest first objective among those within all limits: `pick(model_ratio=0.125)`.

        Ties go to the lower of the next objectives, then to the lower row. A limit holds to 1e-6 of its
        size, the rounding of float32.

        Raises:
            ValueError: an unknown objective, or no such point; then with the best that there is.
        """
        rows = self._within(limits)
        return self.configuration(int(rows[np.lexsort(self.costs[rows].T[::-1])[0]]))

    def knee(self, **limits: float | int) -> Configuration:
        """The point farthest below the plane through the lowest points of each objective (Das 1999).

        Costs are scaled to z so that the ideal point is 0 and the nadir is 1, both of this front (within
        `limits`, as in `pick`). The plane w·z = 1 goes through the point of lowest z_j of every j. Where
        those are fewer than the objectives, w is the shortest solution: two sizes that fall together
        share one weight against the error. Where a weight is not positive, all are set equal. The knee
        has the least w·z; its row is `.index`. An objective that is equal everywhere counts nothing, ties go
        to the lowest row, a single point is its own knee.

        The scale is linear: where kl reaches several nat, networks beyond use stretch it and pull the
        knee to them. A limit on kl (or error) then keeps them out.
        """
        return self.configuration(self._knee(limits))

    def table(self, rows: int = 12, knee: int | None = None) -> str:
        """At most `rows` points as text, by model_ratio (by the last objective where there is none).

        Its range is cut into equal slices, of which each shows its point of lowest first objective; the
        knee (row `knee`, by default the front's own) is added and marked. Bits are means over quantizers,
        not weighted by size.
        """
        if rows < 2:
            raise ValueError(f"rows must be at least 2, got {rows}")
        along = "model_ratio" if "model_ratio" in self.objectives else self.objectives[-1]
        knee = self._knee({}) if knee is None else knee
        shown = spread(self.costs, self.objectives.index(along), rows, knee)
        body = [("point", *self.objectives, *self.held_out, "weight bits", "activation bits", "")]
        for i in shown:
            point = self.configuration(i)
            numbers = (*point.costs.values(), *point.held_out.values(), *point.mean_bits())
            body.append((str(i), *map(number_text, numbers), "<- knee" if i == knee else ""))
        how = f": the lowest {self.objectives[0]} at each step of {along}" if len(shown) < len(self) else ""
        return "\n".join([*text_table(body), f"{len(shown)} of {len(self)} points{how} (lower is better)"])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """One line a point: costs, held-out columns, mean bits, then the bit-width of each quantizer."""
        means = ("mean_weight_bits", "mean_activation_bits")
        columns = [*self.costs.T, *self.held_out.values(), *self.mean_bits(), *self.bits.T]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        write_csv(path, (*self.objectives, *self.held_out, *means, *self.names), rows)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Everything, as schemas/front.schema.json says; `from_json` gives the same numbers back."""
        fields = {
            "objectives": list(self.objectives),
            "names": list(self.names),
            "settings": dict(self.settings),
            "costs": self.costs.tolist(),
            "held_out": {name: column.tolist() for name, column in self.held_out.items()},
            "bits": self.bits.tolist(),
        }
        write_json(path, SCHEMA, fields)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> "Front":
        """Reads a file of `to_json`.

        Raises:
            ValueError: one line that names the file, the field and what to do.
        """
        fields = ("objectives", "names", "settings", "costs", "held_out", "bits")
        document = Document.read(path, SCHEMA, fields, "Front.to_json")
        objectives, names = document.strings("objectives"), document.strings("names")
        costs = document.table("costs", len(objectives))
        bits = document.table("bits", len(names), whole=True)
        held_out = document.columns("held_out", len(costs))
        try:
            return cls(bits, costs, objectives, names, document.mapping("settings"), held_out)
        except ValueError as error:
            raise ValueError(f"{path}: {error}: write it again with Front.to_json") from None

    def _within(self, limits: Mapping[str, float | int]) -> np.ndarray:
        """Rows that keep all limits."""
        kept = {}
        for name, limit in limits.items():
            if name not in self.objectives:
                raise ValueError(f"{name!r} is no objective here: limit any of {', '.join(self.objectives)}")
            if not np.isfinite(limit):
                raise ValueError(f"the limit of {name} must be finite, got {limit}")
            kept[name] = self.costs[:, self.objectives.index(name)] <= limit + _ROUNDING * abs(limit)
        rows = np.flatnonzero(np.all([*kept.values(), np.ones(len(self), bool)], axis=0))
        if rows.size:
            return rows
        best = []
        for name in limits:
            others = np.all([np.ones(len(self), bool), *(ok for n, ok in kept.items() if n != name)], axis=0)
            column = self.costs[others, self.objectives.index(name)]
            best.append(f"{name} {number_text(column.min())}" if column.size else f"no {name} at all")
        wanted = ", ".join(f"{name} <= {limit:g}" for name, limit in limits.items())
        within = " (each within the other limits)" if len(limits) > 1 else ""
        raise ValueError(f"no point has {wanted}: the lowest is {', '.join(best)}{within}: raise a limit")

    def _knee(self, limits: Mapping[str, float | int]) -> int:
        rows = self._within(limits)
        below = _plane(self.costs[rows])
        return int(rows[np.flatnonzero(below <= below.min() + 1e-12)[0]])  # equal but for rounding


def _plane(costs: np.ndarray) -> np.ndarray:
    """(K,) w·z as in `Front.knee`."""
    span = np.ptp(costs, axis=0)
    z = ((costs - costs.min(axis=0)) / np.where(span > 0, span, 1))[:, span > 0]
    lowest = np.lexsort((z.sum(axis=1)[:, None].repeat(z.shape[1], 1), z), axis=0)[
        0
    ]  # ties: the nearest to 0
    weights = np.linalg.lstsq(z[lowest], np.ones(len(lowest)))[0]
    return z @ (weights if (weights > 1e-9).all() else np.ones(len(lowest)))
