"""One function to pack buffers into a memory, whichever solver it takes."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from . import cpsat, greedy, search
from .buffers import Buffer, lower_bound, room
from .task import Answer, Task, split
from .validate import faults

Status = Literal["optimal", "fits", "failed"]
SOLVERS: dict[str, Callable[[Task, float, int], Answer]] = {"search": search.solve, "cpsat": cpsat.solve}
_SHARE = 0.5  # of the time left goes to a solver that has another one after it


@dataclass(frozen=True)
class Packing:
    """A valid packing of buffers, in their order; one that failed stands higher than the capacity."""

    offsets: tuple[int, ...]  # bytes
    height: int  # bytes, with the last buffer's room
    status: Status  # optimal: nothing is lower; fits: within the capacity; failed: neither
    solver: str  # the strongest that was needed
    seconds: float
    bound: int  # bytes; no packing is lower. Above the capacity it proves that the buffers cannot fit


def pack(
    buffers: Sequence[Buffer],
    capacity: int | None,
    align: int = 1,
    *,
    time_limit_s: float = 60.0,
    seed: int = 0,
    solvers: Sequence[str] = ("search", "cpsat"),
) -> Packing:
    """Offsets such that buffers alive together share no byte, within `capacity` if that can be found.

    Greedy packings come first and are often enough. Then each of `solvers` has half of the time that is left,
    the last one all of it. The first answer that fits ends it; `faults` judges the result.

    Args:
        buffers: with unique names. Each takes a multiple of `align` bytes, so the last incomplete unit of a
            capacity stays empty.
        capacity: in bytes; None (unlimited) asks for the greedy packing, however high.
        align: bytes of which every offset is a multiple.
        time_limit_s: of the solvers, wall clock.
        seed: of the solvers. Where the clock ends a search, the result depends on the machine, too.
        solvers: "search" (exact, ours), "cpsat" (OR-tools), in the order wanted; none: greedy only.

    Raises:
        ValueError: repeated names, fixed offsets that overlap, lie outside or are not aligned, or an argument
            that makes no sense.
        ImportError: omnimalloc, or OR-tools where it is needed, is not installed.
    """
    start = time.monotonic()
    _check(buffers, capacity, align, time_limit_s, solvers)
    bound = lower_bound(buffers, align)
    tasks, unit = split(buffers, bound if capacity is None else capacity, align)
    offsets, needed = [0] * len(buffers), {"none"}
    for task in tasks:
        limit = 0.0 if capacity is None else time_limit_s - (time.monotonic() - start)
        answer, name = _pack_part(task, limit, seed, solvers if capacity is not None else ())
        bound = max(bound, answer.bound * unit)
        needed.add(name)
        for i, at in zip(task.index, answer.offsets or (), strict=True):
            offsets[i] = at * unit
    height = max((at + room(b, align) for at, b in zip(offsets, buffers, strict=True)), default=0)
    fits = capacity is None or height <= capacity
    wrong = faults(buffers, offsets, capacity if fits else None, align)
    if wrong:
        raise RuntimeError(f"a solver gave an invalid packing: {'; '.join(wrong[:3])}")
    strongest = max(needed, key=("none", "greedy", *solvers).index)
    return Packing(
        offsets=tuple(offsets),
        height=height,
        status="failed" if not fits else "optimal" if height <= bound else "fits",
        solver=strongest,
        seconds=time.monotonic() - start,
        bound=bound,
    )


def _pack_part(task: Task, time_limit_s: float, seed: int, solvers: Sequence[str]) -> tuple[Answer, str]:
    """The first answer that fits, else the greedy one, with the best bound; and who gave the last word."""
    first = greedy.solve(task)
    bound = task.bound()
    if first.offsets is not None and task.height(first.offsets) <= task.capacity:
        return Answer(first.offsets, bound), "greedy"
    stop = time.monotonic() + time_limit_s
    last = "greedy"
    for k, name in enumerate(solvers):
        left = stop - time.monotonic()
        if bound > task.capacity or left <= 0:
            break
        last = name
        answer = SOLVERS[name](task, left * (_SHARE if k + 1 < len(solvers) else 1.0), seed)
        bound = max(bound, answer.bound)
        if answer.offsets is not None:
            return Answer(answer.offsets, bound), name
    return Answer(first.offsets, bound), last


def _check(
    buffers: Sequence[Buffer],
    capacity: int | None,
    align: int,
    time_limit_s: float,
    solvers: Sequence[str],
) -> None:
    for name, value in (("capacity", capacity), ("align", align)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1 byte, got {value!r}")
    if not math.isfinite(time_limit_s) or time_limit_s < 0:
        raise ValueError(f"time_limit_s must be finite and at least 0, got {time_limit_s}")
    for solver in solvers:
        if solver not in SOLVERS:
            raise ValueError(f"solvers must be of {', '.join(SOLVERS)}, got {solver!r}")
    if len(set(solvers)) != len(solvers):
        raise ValueError(f"solvers must be named once each, got {tuple(solvers)}")
    names = [b.name for b in buffers]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"buffer names must be unique, got {twice!r} twice")
    held = [b for b in buffers if b.offset is not None]
    wrong = faults(held, [b.offset for b in held if b.offset is not None], capacity, align)
    if wrong:
        raise ValueError(f"fixed offsets cannot stand: {'; '.join(wrong[:3])}; change or free them")
