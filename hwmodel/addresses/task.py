"""The same packing in small numbers: sizes in common units, steps as sections, independent parts apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .buffers import Buffer, room


@dataclass(frozen=True)
class Task:
    """Rectangles for a strip of `capacity` units; one part of a packing, linked in time.

    A section is a run of steps that starts where a birth follows a death. Two rectangles share a step exactly
    if they share a section, so the sections replace the steps.
    """

    lower: tuple[int, ...]  # sections, half-open
    upper: tuple[int, ...]
    size: tuple[int, ...]
    fixed: tuple[int | None, ...]
    duration: tuple[int, ...]  # in steps
    capacity: int
    index: tuple[int, ...]  # position of each among the buffers

    @property
    def n(self) -> int:
        return len(self.size)

    def load(self) -> list[int]:
        """Units held in each section."""
        held = [0] * max(self.upper)
        for a, b, s in zip(self.lower, self.upper, self.size, strict=True):
            for section in range(a, b):
                held[section] += s
        return held

    def bound(self) -> int:
        """No packing is lower: the most units held at once, or the top of a fixed rectangle."""
        tops = [at + s for at, s in zip(self.fixed, self.size, strict=True) if at is not None]
        return max([*self.load(), *tops])

    def height(self, offsets: Sequence[int]) -> int:
        return max(at + s for at, s in zip(offsets, self.size, strict=True))


class Answer(NamedTuple):
    """Offsets in units, the best found even if above the capacity; `bound`: no packing is lower."""

    offsets: tuple[int, ...] | None
    bound: int = 0


def split(buffers: Sequence[Buffer], capacity: int, align: int = 1) -> tuple[list[Task], int]:
    """Parts that no buffer links in time, and the bytes of one unit.

    The unit is the greatest common divisor of all rooms and fixed offsets. Rounding to it loses nothing: a
    packing in which nothing can move down has only sums of rooms and fixed offsets as its offsets.
    """
    if not buffers:
        return [], align
    unit = math.gcd(*(room(b, align) for b in buffers), *(b.offset or 0 for b in buffers))
    parts: list[list[int]] = []
    end = -math.inf
    for i in sorted(range(len(buffers)), key=lambda i: buffers[i].lower):
        if buffers[i].lower >= end:
            parts.append([])
        parts[-1].append(i)
        end = max(end, buffers[i].upper)
    return [_task(buffers, sorted(part), capacity // unit, unit, align) for part in parts], unit


def _task(buffers: Sequence[Buffer], index: list[int], capacity: int, unit: int, align: int) -> Task:
    part = [buffers[i] for i in index]
    deaths = [(b.upper, 0, i) for i, b in enumerate(part)]  # before the births of the same step
    births = [(b.lower, 1, i) for i, b in enumerate(part)]
    lower, upper = [0] * len(part), [0] * len(part)
    section, growing = -1, False
    for _, birth, i in sorted(deaths + births):
        if birth:
            section += not growing
            lower[i] = section
        else:
            upper[i] = section + 1
        growing = bool(birth)
    return Task(
        lower=tuple(lower),
        upper=tuple(upper),
        size=tuple(room(b, align) // unit for b in part),
        fixed=tuple(None if b.offset is None else b.offset // unit for b in part),
        duration=tuple(b.upper - b.lower for b in part),
        capacity=capacity,
        index=tuple(index),
    )
