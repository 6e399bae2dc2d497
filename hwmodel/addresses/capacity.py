"""The lowest packing, and the smallest memory in which a placement still packs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bits import INT8, Bits
from ..checks import checked_placement
from ..chip import Chip
from ..tensors import tensors
from ..workload import Workload
from .allocate import Levels
from .buffers import Buffer
from .levels import on_level, outputs_as_buffers, weight_bytes
from .pack import Packing, pack


@dataclass(frozen=True)
class MinCapacity:
    """`bytes` suffice; fewer than `bound_bytes` do not. Where both are equal it is the exact answer."""

    bytes: int
    bound_bytes: int
    weight_bytes: int  # of them, with alignment


def lowest(
    buffers: Sequence[Buffer],
    align: int = 1,
    *,
    time_limit_s: float = 60.0,
    seed: int = 0,
    solvers: Sequence[str] = ("search", "cpsat"),
) -> Packing:
    """The lowest packing found: by halves between the bound and the best so far, while time is left.

    The bound itself is tried first, since it is often reached. Half of the time that is left goes to each
    height; one that no solver reaches in its time is taken for too low, so only `bound` is proven.
    """
    start = time.monotonic()
    best = pack(buffers, None, align, seed=seed)
    bound = low = best.bound
    attempt = low
    while low < best.height:
        left = time_limit_s - (time.monotonic() - start)
        if left <= 0:
            break
        found = pack(buffers, attempt, align, time_limit_s=left / 2, seed=seed, solvers=solvers)
        bound = max(bound, found.bound)
        if found.height < best.height:
            best = found
        if found.height > attempt:
            low = max(found.bound, attempt + align)
        attempt = low + (best.height - low) // 2
    return Packing(
        offsets=best.offsets,
        height=best.height,
        status="optimal" if best.height <= bound else "fits",
        solver=best.solver,
        seconds=time.monotonic() - start,
        bound=bound,
    )


def min_capacity(
    workload: Workload,
    chip: Chip,
    level: str,
    placement: Levels | None = None,
    bits: Bits = INT8,
    *,
    time_limit_s: float = 60.0,
    seed: int = 0,
) -> MinCapacity:
    """The smallest `capacity_bytes` of a level, reserved bytes included, that a placement packs into.

    Args:
        level: name of the level; its own capacity plays no part.
        placement: (N, 2) levels; None puts every tensor on `level`.
        time_limit_s: of the whole search for the lowest packing of outputs.
        seed: of the solvers.

    Raises:
        ValueError: an unknown level, or a placement of another shape or with other levels.
    """
    k = chip.level_index(level)
    n = len(workload.operations)
    placed = checked_placement(workload, chip, np.full((n, 2), k) if placement is None else placement)
    here = on_level(tensors(workload, bits, chip.count_bias), placed, k)
    memory = chip.levels[k]
    base = weight_bytes(chip, k, here)
    packing = lowest(outputs_as_buffers(here), memory.align_bytes, time_limit_s=time_limit_s, seed=seed)
    below = memory.reserved_bytes + base
    return MinCapacity(below + packing.height, below + packing.bound, base)
