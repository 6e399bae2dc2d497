"""How a search went, generation by generation: for reports, pictures and checkpoints."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .nemo import Metrics

COLUMNS = ("evaluations", "hypervolume", "alloc", "r2", "utility", "front")


class History:
    """Rows of numbers; `table` gives them as arrays with the generations in front.

    evaluations int32, hypervolume float32 of everything evaluated; and per species (generations, S): alloc
    int32, r2 and utility float32, front int32 (see `Metrics`).
    """

    def __init__(self, species: int):
        empty = {"evaluations": (0,), "hypervolume": (0,)}
        whole = {"evaluations", "alloc", "front"}
        self._table = {
            name: np.zeros(empty.get(name, (0, species)), np.int32 if name in whole else np.float32)
            for name in COLUMNS
        }

    def add(self, evaluations: int, hypervolume: float, metrics: Metrics) -> None:
        """One generation; `metrics` may have it along a leading axis of one, as `loop.run` gives it."""
        row: dict[str, Any] = {"evaluations": evaluations, "hypervolume": hypervolume}
        for name, column in self._table.items():
            value = np.asarray(row[name] if name in row else getattr(metrics, name), column.dtype)
            self._table[name] = np.concatenate([column, value.reshape(1, *column.shape[1:])])

    def table(self) -> dict[str, np.ndarray]:
        return dict(self._table)

    def restore(self, table: Mapping[str, Any]) -> None:
        """Takes back what `table` gave."""
        self._table = {name: np.asarray(table[name], column.dtype) for name, column in self._table.items()}


def hypervolumes(history: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Evaluations (T,), and the hypervolume (T,) after as many.

    Raises:
        ValueError: one of the two is missing, or their lengths differ.
    """
    for name in ("evaluations", "hypervolume"):
        if name not in history:
            raise ValueError(f"history lacks {name!r}: it has {sorted(history)}")
    evaluations, volume = np.asarray(history["evaluations"]), np.asarray(history["hypervolume"])
    if evaluations.ndim != 1 or evaluations.shape != volume.shape:
        raise ValueError(
            f"history must be two equally long columns, got shapes {evaluations.shape} and {volume.shape}"
        )
    return evaluations, volume
