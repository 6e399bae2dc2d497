"""Buffers: what has to lie somewhere in one memory for a while, and the bound that no packing can beat."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Buffer:
    """`size` bytes held in the steps lower <= step < upper; `offset` fixes where (None: anywhere)."""

    name: str
    lower: int
    upper: int
    size: int
    offset: int | None = None

    def __post_init__(self):
        for field in ("lower", "upper", "size", "offset"):
            value = getattr(self, field)
            if field == "offset" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"buffer {self.name!r}: {field} must be a whole number, got {value!r}")
        if self.upper <= self.lower:
            raise ValueError(
                f"buffer {self.name!r}: upper must be greater than lower (half-open), got lower {self.lower} "
                f"and upper {self.upper}"
            )
        if self.size < 1:
            raise ValueError(f"buffer {self.name!r}: size must be at least 1 byte, got {self.size}")
        if self.offset is not None and self.offset < 0:
            raise ValueError(f"buffer {self.name!r}: offset must be at least 0, got {self.offset}")


def room(buffer: Buffer, align: int) -> int:
    """Bytes that a buffer takes: its size rounded up to a multiple of `align`."""
    return -(-buffer.size // align) * align


def live_bytes(buffers: Sequence[Buffer], align: int = 1) -> dict[int, int]:
    """Bytes held from each step on at which that changes, in order."""
    change: dict[int, int] = {}
    for buffer in buffers:
        change[buffer.lower] = change.get(buffer.lower, 0) + room(buffer, align)
        change[buffer.upper] = change.get(buffer.upper, 0) - room(buffer, align)
    held, now = {}, 0
    for step in sorted(change):
        now += change[step]
        held[step] = now
    return held


def lower_bound(buffers: Sequence[Buffer], align: int = 1) -> int:
    """No packing is lower: the most bytes held at once, or the top of a buffer that is fixed."""
    live = max(live_bytes(buffers, align).values(), default=0)
    fixed = max((b.offset + room(b, align) for b in buffers if b.offset is not None), default=0)
    return max(live, fixed)
