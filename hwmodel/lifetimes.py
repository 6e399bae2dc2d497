"""Who is alive when: what a step-by-step walk over a network has to remember.

At any step only a few outputs are alive. Each gets a slot while it lives, so that the walk carries a small
table of slots and not one row for every operation (XLA copies the carried table at every step).
"""

from typing import NamedTuple

import numpy as np


class Lifetimes(NamedTuple):
    """N operations, at most D outputs dying at once, S slots."""

    slot: np.ndarray  # (N,) of each output while it lives
    dying: np.ndarray  # (N, D) operations whose outputs are gone at this step; N: none
    slots: np.ndarray  # (S,) 0 .. S-1; its length is what matters


def lifetimes(death: np.ndarray, least_dying: int = 2, least_slots: int = 8) -> Lifetimes:
    """Slots by first free, from the last step (inclusive) at which each output lives.

    D and S are rounded up to powers of two, at least those given, so that networks share compiled programs.
    """
    n = len(death)
    gone: list[list[int]] = [[] for _ in range(n)]
    for i, last in enumerate(death):
        if last + 1 < n:
            gone[last + 1].append(i)
    slot, free, used = np.zeros(n, np.int32), [], 0
    for i in range(n):
        free += [slot[j] for j in gone[i]]
        if not free:
            free, used = [used], used + 1
        slot[i] = free.pop()
    width = power_of_two(max(map(len, gone)), least_dying)
    dying = np.full((n, width), n, np.int32)
    for i, operations in enumerate(gone):
        dying[i, : len(operations)] = operations
    return Lifetimes(slot, dying, np.arange(power_of_two(used, least_slots), dtype=np.int32))


def power_of_two(count: int, least: int) -> int:
    """The smallest power of two that is at least `count` and `least` (itself one)."""
    return max(least, 1 << max(count - 1, 0).bit_length())
