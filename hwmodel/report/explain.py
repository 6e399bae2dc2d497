"""How latency came about: every operation's terms, which one binds, and who fills each memory when."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..bits import INT8, Bits
from ..checks import check, checked_placement
from ..chip import Chip
from ..operation_latency import SCHEDULES
from ..tensors import WEIGHT, Tensor, aligned, occupancy, tensors
from ..workload import Workload
from .breakdown import Breakdown, breakdown
from .explain_text import explanation_text, write_csv, write_json


@dataclass(frozen=True)
class Peak:
    """A level at the step at which most of it is in use; the first such step."""

    level: str
    step: int
    operation: str
    held_bytes: int  # by tensors, alignment and double buffering included
    reserved_bytes: int
    capacity_bytes: int | None  # None: unlimited
    tensors: tuple[tuple[str, int], ...]  # alive there, name and bytes held, largest first

    @property
    def fits(self) -> bool:
        """Whether there is room for all."""
        return self.capacity_bytes is None or self.held_bytes + self.reserved_bytes <= self.capacity_bytes


@dataclass(frozen=True, eq=False)
class Explanation:
    """n operations, L levels; terms are columns "compute", then the levels by name."""

    workload: str
    chip: Chip
    schedule: str
    operations: tuple[str, ...]
    kinds: tuple[str, ...]
    macs: Int[np.ndarray, " n"]
    placement: Int[np.ndarray, "n 2"]  # of shared weights, their owner's level
    terms: Breakdown
    start_s: Float[np.ndarray, " n"]
    binding: Int[np.ndarray, " n"]  # index of the longest term: 0 compute, 1 + k level k; ties to the first
    slack_s: Float[np.ndarray, " n"]  # by which the longest term exceeds the next one
    critical: Bool[np.ndarray, " n"]  # shortening it may shorten the latency: it lies on the longest path
    held_bytes: Int[np.ndarray, "n L"]  # on each level while each operation runs
    weight_bytes: Int[np.ndarray, " L"]  # the part of it that is weights, always there
    peaks: tuple[Peak, ...]  # of each level
    latency_s: float
    energy_j: float | None  # None: the chip does not report it

    @property
    def fits(self) -> bool:
        """Whether every tensor has room where the placement puts it."""
        return all(peak.fits for peak in self.peaks)

    @property
    def term_names(self) -> tuple[str, ...]:
        """compute, then the levels."""
        return ("compute", *self.chip.level_names)

    @property
    def time_s(self) -> Float[np.ndarray, " n"]:
        """T(i) of each operation."""
        return self.terms.time_s

    @property
    def term_s(self) -> Float[np.ndarray, "n T"]:
        """T_comp and T_level of each operation, by `term_names`."""
        return np.column_stack([self.terms.compute_s, self.terms.level_s])

    @property
    def bound_s(self) -> dict[str, float]:
        """Seconds of the operations that each term binds."""
        return {name: float(self.time_s[self.binding == t].sum()) for t, name in enumerate(self.term_names)}

    @property
    def intensity(self) -> Float[np.ndarray, "n L"]:
        """Operations per byte through each level; infinite where no byte moves."""
        moved = self.terms.read_bytes + self.terms.write_bytes
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(moved > 0, 2 * self.macs[:, None] / moved, np.inf)

    @property
    def reached_ops_per_s(self) -> Float[np.ndarray, " n"]:
        """Operations done per second of T(i); 0 where an operation takes no time."""
        return 2 * self.macs / np.where(self.time_s > 0, self.time_s, np.inf)

    def text(self, top: int | None = None) -> str:
        """Totals, levels and a table of operations: all in order, or the `top` longest ones."""
        return explanation_text(self, top)

    def __str__(self) -> str:
        return self.text()

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """A row per operation; units stand in the names of the columns. Written in one step."""
        write_csv(path, self)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Everything, as schema "hwmodel.explanation" version 1. Written in one step."""
        write_json(path, self)


def explain(
    workload: Workload,
    chip: Chip,
    placement: Any,
    bits: Bits = INT8,
    schedule: str = "sequential",
    contention: float = 0.0,
) -> Explanation:
    """Where the time of one inference goes under a placement, whether or not the tensors fit.

    Args:
        workload: n operations.
        chip: L levels.
        placement: (n, 2) whole numbers, the levels of each operation's weights and output.
        bits: bit-widths of weights, outputs and graph inputs.
        schedule: as in `latency`.
        contention: as in `contended_latency`.

    Raises:
        ValueError: a negative contention; a placement of another shape, of fractions, or with levels that the
            chip does not have; another schedule; what `problem` refuses.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {schedule!r}")
    if not contention >= 0:
        raise ValueError(f"contention must be at least 0, got {contention}")
    if not workload.operations:
        raise ValueError("the workload has no operations")
    wide = check(workload, chip, bits)
    placed = checked_placement(workload, chip, placement)
    found = breakdown(workload, chip, wide, placed, contention)
    start, latency_s, critical = _timing(workload, found.time_s, schedule)
    terms = np.sort(np.column_stack([found.compute_s, found.level_s]), axis=1)
    held = _held(workload, chip, bits, placed)
    return Explanation(
        workload=workload.name,
        chip=chip,
        schedule=schedule,
        operations=tuple(op.name for op in workload.operations),
        kinds=tuple(op.kind for op in workload.operations),
        macs=workload.column("macs"),
        placement=placed,
        terms=found,
        start_s=start,
        binding=np.argmax(np.column_stack([found.compute_s, found.level_s]), axis=1),
        slack_s=terms[:, -1] - terms[:, -2],
        critical=critical,
        held_bytes=np.stack([occupancy(workload, on_level) for on_level in held], axis=1),
        weight_bytes=np.array(
            [sum(size for tensor, size in on_level if tensor.column == WEIGHT) for on_level in held], np.int64
        ),
        peaks=tuple(_peak(workload, chip, k, on_level) for k, on_level in enumerate(held)),
        latency_s=latency_s,
        energy_j=None if found.energy_j is None else float(found.energy_j.sum()),
    )


def _timing(workload: Workload, time_s: np.ndarray, schedule: str) -> tuple[np.ndarray, float, np.ndarray]:
    """Start of each operation, the end of the last one, and which operations lie on a longest path."""
    if schedule == "sequential":
        return np.cumsum(time_s) - time_s, float(time_s.sum()), np.ones(len(time_s), bool)
    start, after = np.zeros(len(time_s)), np.zeros(len(time_s))
    for i, op in enumerate(workload.operations):
        start[i] = max((start[e.producer] + time_s[e.producer] for e in op.parents), default=0.0)
    for i, op in reversed(list(enumerate(workload.operations))):
        for edge in op.parents:
            after[edge.producer] = max(after[edge.producer], time_s[i] + after[i])
    latency_s = float((start + time_s).max())
    return start, latency_s, start + time_s + after >= latency_s * (1 - 1e-12)


def _held(workload: Workload, chip: Chip, bits: Bits, placed: np.ndarray) -> list[list[tuple[Tensor, int]]]:
    """The tensors of each level with the bytes that they hold there."""
    held: list[list[tuple[Tensor, int]]] = [[] for _ in chip.levels]
    for tensor in tensors(workload, bits, chip.count_bias):
        k = int(placed[tensor.operation, tensor.column])
        copies = 2 if chip.double_buffer and tensor.column == WEIGHT else 1
        held[k].append((tensor, copies * aligned(tensor.bytes, chip.levels[k].align_bytes)))
    return held


def _peak(workload: Workload, chip: Chip, k: int, held: Iterable[tuple[Tensor, int]]) -> Peak:
    on_level, level = list(held), chip.levels[k]
    used = occupancy(workload, on_level)
    step = int(np.argmax(used))
    alive = [(t.name, size) for t, size in on_level if t.birth <= step <= t.death]
    return Peak(
        level=level.name,
        step=step,
        operation=workload.operations[step].name,
        held_bytes=int(used[step]),
        reserved_bytes=level.reserved_bytes,
        capacity_bytes=level.capacity_bytes,
        tensors=tuple(sorted(alive, key=lambda entry: -entry[1])),
    )
