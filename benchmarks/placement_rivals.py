"""Placements without JAX: a fair NumPy program for one placement, and an integer reference for many.

Both read the tables or the network, never hwmodel's walk.
"""

from typing import Any

import numpy as np

PICO = 10**12


class _OnePlacement:
    """Tables of a problem, and the latency of one placement, vectorised over operations."""

    def __init__(self, problem: Any):
        p = self.p = type(problem)(*(None if field is None else np.asarray(field) for field in problem))
        self.n, self.parents, self.levels = problem.shape
        self.gone: list[list[int]] = [[] for _ in range(self.n + 1)]
        for i, last in enumerate(p.death.tolist()):
            self.gone[last + 1].append(i)
        self.total = int(p.weight_bytes.sum()) + int(p.output_bytes.sum())
        self.rows = np.arange(self.n)

    def latency(self, placed: np.ndarray) -> float:
        """Σ max(compute, levels): shared ports, full overlap."""
        p, rows, levels = self.p, self.rows, self.levels
        w, o = placed[p.weight_of, 0], placed[:, 1]
        level = np.zeros((self.n, levels), np.float32)
        level[rows, w] += p.weight_read_s[rows, w]
        level[rows, o] += p.output_write_s[rows, o]
        for j in range(self.parents):
            a = o[p.parent[:, j]]
            level[rows, a] += p.parent_read_s[rows, j, a]
        return float(np.maximum(p.compute_s, level.max(axis=1)).sum())


class NumpyPlacement(_OnePlacement):
    """Arrays throughout: all levels of a tensor, all outputs that leave, and all operations at once."""

    def __call__(self, wish: np.ndarray) -> tuple[float, float, np.ndarray]:
        """(latency in seconds, share of bytes moved, rectified placement)."""
        p, capacity = self.p, self.p.capacity_units[0]
        used, placed = np.zeros(self.levels, np.int64), np.array(wish)
        for column, units in ((0, p.weight_units), (1, p.output_units)):
            for i in range(self.n):
                if column and self.gone[i]:
                    gone = self.gone[i]
                    np.subtract.at(used, placed[gone, 1], units[gone, placed[gone, 1]])
                k = wish[i, column]
                room = used[1 : k + 1] + units[i, 1 : k + 1] <= capacity[1 : k + 1]
                k = k - np.argmax(room[::-1]) if room.any() else 0
                used[k] += units[i, k]
                placed[i, column] = k
        size = np.stack([p.weight_bytes, p.output_bytes], axis=1)
        return self.latency(placed), int(size[placed != wish].sum()) / self.total, placed


class IntegerPlacement(_OnePlacement):
    """Python's integers for the part that goes tensor by tensor: on three levels they beat small arrays."""

    def __init__(self, problem: Any):
        super().__init__(problem)
        self.capacity = [int(c) for c in self.p.capacity_units[0]]
        self.weight_units, self.output_units = self.p.weight_units.tolist(), self.p.output_units.tolist()
        self.weight_bytes, self.output_bytes = self.p.weight_bytes.tolist(), self.p.output_bytes.tolist()

    def __call__(self, wish: np.ndarray) -> tuple[float, float, np.ndarray]:
        """(latency in seconds, share of bytes moved, rectified placement)."""
        wished_w, wished_o = wish[:, 0].tolist(), wish[:, 1].tolist()
        used, capacity, moved = [0] * self.levels, self.capacity, 0
        weights, outputs = [0] * self.n, [0] * self.n
        for i, (k, units) in enumerate(zip(wished_w, self.weight_units, strict=True)):
            while k and used[k] + units[k] > capacity[k]:
                k -= 1
            used[k] += units[k]
            weights[i] = k
            if k != wished_w[i]:
                moved += self.weight_bytes[i]
        for i, (k, units) in enumerate(zip(wished_o, self.output_units, strict=True)):
            for j in self.gone[i]:
                used[outputs[j]] -= self.output_units[j][outputs[j]]
            while k and used[k] + units[k] > capacity[k]:
                k -= 1
            used[k] += units[k]
            outputs[i] = k
            if k != wished_o[i]:
                moved += self.output_bytes[i]
        placed = np.array([weights, outputs]).T
        return self.latency(placed), moved / self.total, placed


def integer_reference(work: Any, chip: Any, wishes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(placements, moved bytes, latency in picoseconds) of M wishes, in int64, by full occupancy profiles.

    For int8, full overlap and chips whose times per byte and operation are whole picoseconds.
    """
    ops, n, m = work.operations, len(work.operations), len(wishes)
    last = list(range(n))
    for i, op in enumerate(ops):
        for edge in op.parents:
            last[edge.producer] = i
    last = [n - 1 if op.is_output else last[i] for i, op in enumerate(ops)]
    free = np.zeros((n, len(chip.levels), m), np.int64)
    for k, level in enumerate(chip.levels):
        room = 2**60 if k == 0 else level.capacity_bytes - level.reserved_bytes
        free[:, k] = room // level.align_bytes * level.align_bytes
    granted, moved = np.array(wishes), np.zeros(m, np.int64)
    for column in (0, 1):
        for i, op in enumerate(ops):
            size = (op.w_elems if op.w_id in (-1, i) else 0) if column == 0 else op.o_elems
            first, end = (0, n) if column == 0 else (i, last[i] + 1)
            undecided = np.ones(m, bool)
            for k in range(len(chip.levels) - 1, -1, -1):
                align = chip.levels[k].align_bytes
                need = -(-size // align) * align
                room = free[first:end, k].min(axis=0) >= need
                put = undecided & (wishes[:, i, column] >= k) & (room | (k == 0))
                free[first:end, k] -= np.where(put, need, 0)
                granted[put, i, column] = k
                undecided &= ~put
            moved += size * (granted[:, i, column] != wishes[:, i, column])
    return granted, moved, _picoseconds(work, chip, granted)


def _picoseconds(work: Any, chip: Any, granted: np.ndarray) -> np.ndarray:
    total = np.zeros(len(granted), np.int64)
    reading = [round(PICO / level.read_bytes_per_s) for level in chip.levels]
    writing = [round(PICO / level.write_bytes_per_s) for level in chip.levels]
    waiting = [round(PICO * level.latency_s) for level in chip.levels]
    for i, op in enumerate(work.operations):
        longest = np.full(len(granted), op.macs * round(2 * PICO / chip.compute[0].ops_per_s), np.int64)
        for k, level in enumerate(chip.levels):
            reads = np.zeros(len(granted), np.int64)
            owner = op.w_id if op.w_id >= 0 else i
            if op.w_elems:
                reads += (granted[:, owner, 0] == k) * (op.w_elems * reading[k] + waiting[k])
            for edge in op.parents:
                reads += (granted[:, edge.producer, 1] == k) * (edge.elems * reading[k] + waiting[k])
            writes = (granted[:, i, 1] == k) * (op.o_elems * writing[k] + waiting[k])
            longest = np.maximum(
                longest, np.maximum(reads, writes) if level.ports == "dual" else reads + writes
            )
        total += longest
    return total
