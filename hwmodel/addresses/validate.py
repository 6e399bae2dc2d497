"""The judge of every packing. It shares no code with what makes them, and looks at all pairs."""

from collections.abc import Sequence

from .buffers import Buffer


def faults(
    buffers: Sequence[Buffer], offsets: Sequence[int], capacity: int | None = None, align: int = 1
) -> list[str]:
    """What is wrong with the offsets, in words; an empty list says that the packing is valid.

    Checked: one whole offset for each buffer, alignment, fixed offsets, the capacity (None: unlimited), and
    that no two buffers alive in a common step share a byte.
    """
    if len(offsets) != len(buffers):
        return [f"{len(offsets)} offsets for {len(buffers)} buffers"]
    found = []
    for b, at in zip(buffers, offsets, strict=True):
        if not isinstance(at, int) or at < 0:
            found.append(f"{b.name!r} has offset {at!r}, which is no whole number of bytes")
            continue
        if at % align:
            found.append(f"{b.name!r} at {at} is not a multiple of {align}")
        if b.offset is not None and at != b.offset:
            found.append(f"{b.name!r} at {at} is fixed at {b.offset}")
        if capacity is not None and at + b.size > capacity:
            found.append(f"{b.name!r} at {at} ends at {at + b.size}, above the capacity {capacity}")
    if found:
        return found
    for i, (a, at_a) in enumerate(zip(buffers, offsets, strict=True)):
        for b, at_b in zip(buffers[:i], offsets[:i], strict=True):
            together = max(a.lower, b.lower) < min(a.upper, b.upper)
            if together and max(at_a, at_b) < min(at_a + a.size, at_b + b.size):
                found.append(
                    f"{b.name!r} [{at_b}, {at_b + b.size}) and {a.name!r} [{at_a}, {at_a + a.size}) overlap "
                    f"from step {max(a.lower, b.lower)}"
                )
    return found
