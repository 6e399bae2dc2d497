"""One level of a chip with the tensors that lie on it: bytes taken, bytes free, and how they pack."""

from collections.abc import Sequence

import numpy as np

from ..chip import Chip
from ..tensors import WEIGHT, Tensor, aligned, occupancy
from ..workload import Workload
from .buffers import Buffer
from .pack import Packing, pack


def on_level(held: Sequence[Tensor], placed: np.ndarray, level: int) -> list[Tensor]:
    """Those of the tensors that a placement (n, 2) puts on a level."""
    return [t for t in held if placed[t.operation, t.column] == level]


def copies(chip: Chip, tensor: Tensor) -> int:
    """Two of weights on a chip that buffers them twice."""
    return 2 if tensor.column == WEIGHT and chip.double_buffer else 1


def taken(chip: Chip, level: int, tensor: Tensor) -> int:
    """Bytes that a tensor takes on a level: all copies, each aligned."""
    return aligned(tensor.bytes, chip.levels[level].align_bytes) * copies(chip, tensor)


def free_bytes(chip: Chip, level: int) -> int | None:
    """Capacity without the reserved bytes, in full units of alignment; None: unlimited."""
    memory = chip.levels[level]
    if memory.capacity_bytes is None:
        return None
    free = memory.capacity_bytes - memory.reserved_bytes
    return free // memory.align_bytes * memory.align_bytes


def live_bytes(workload: Workload, chip: Chip, level: int, here: Sequence[Tensor]) -> np.ndarray:
    """(n,) int64: bytes that the tensors take on the level at each step."""
    return occupancy(workload, [(t, taken(chip, level, t)) for t in here])


def check_live(workload: Workload, chip: Chip, level: int, here: Sequence[Tensor]) -> None:
    """ValueError where more bytes are alive at a step than the level holds."""
    free = free_bytes(chip, level)
    used = live_bytes(workload, chip, level, here)
    step = int(np.argmax(used))
    if free is None or used[step] <= free:
        return
    alive = sorted((t for t in here if t.birth <= step <= t.death), key=lambda t: -t.bytes)
    raise ValueError(
        f"level {chip.levels[level].name!r} must hold {used[step]} bytes at operation "
        f"{workload.operations[step].name!r} and has room for {free}: rectify the placement first, with "
        "the same bits (largest: "
        f"{', '.join(f'{t.name} {t.bytes}' for t in alive[:5])})"
    )


def outputs_as_buffers(here: Sequence[Tensor]) -> list[Buffer]:
    """Outputs by name, alive in the half-open [birth, death + 1)."""
    return [Buffer(t.name, t.birth, t.death + 1, t.bytes) for t in here if t.column != WEIGHT]


def weight_bytes(chip: Chip, level: int, here: Sequence[Tensor]) -> int:
    """Bytes that the weights take, stacked from the bottom."""
    return sum(taken(chip, level, t) for t in here if t.column == WEIGHT)


def pack_level(
    chip: Chip, level: int, here: Sequence[Tensor], time_limit_s: float, seed: int
) -> tuple[int, Packing]:
    """Bytes of the weights at the bottom, and the packing of the outputs above them."""
    base = weight_bytes(chip, level, here)
    free, outputs = free_bytes(chip, level), outputs_as_buffers(here)
    room = None if free is None or not outputs else free - base
    align = chip.levels[level].align_bytes
    return base, pack(outputs, room, align, time_limit_s=time_limit_s, seed=seed)
