"""Any number of spatial axes as the two that an Operation has: leading ones together, missing ones 1."""

import math
from collections.abc import Iterable, Sequence


def pair(values: Sequence[int]) -> tuple[int, int]:
    """Two numbers, for what multiplies over axes: the product of all but the last, and the last."""
    if len(values) > 2:
        return math.prod(map(int, values[:-1])), int(values[-1])
    first, second = (*map(int, values), 1, 1)[:2]
    return first, second


def last_pair(values: Sequence[int]) -> tuple[int, int]:
    """Two numbers, for what does not multiply: those of the last two axes."""
    return pair(values[-2:])


def last_ends(padding: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((low, high), (low, high)) of the last two axes; a missing one is not padded."""
    first, second = (*[(int(low), int(high)) for low, high in padding][-2:], (0, 0))[:2]
    return first, second


def sizes(spatial: Sequence[int], channels: int) -> tuple[int, int, int]:
    """(x, y, channels) of one sample."""
    return *pair(spatial), int(channels)
