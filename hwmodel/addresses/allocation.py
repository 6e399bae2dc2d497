"""What an allocation is: the address of every tensor of a placed network, and how full each level gets."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from .pack import Status


@dataclass(frozen=True)
class Address:
    """One tensor. It is alive from step `birth` to step `death`, both inclusive."""

    name: str
    level: str
    offset: int  # bytes from the start of the level
    bytes: int  # of one copy
    copies: int  # 2 for weights that the chip buffers twice; the next aligned address holds the other copy
    birth: int
    death: int
    pinned: bool


@dataclass(frozen=True)
class LevelUse:
    """How one level is filled: weights from the bottom, outputs above them, reserved bytes at the end."""

    name: str
    height_bytes: int  # the highest address in use, rounded up to the level's alignment
    weight_bytes: int  # of them, with alignment
    capacity_bytes: int | None  # without reserved bytes; None: unlimited
    bound_bytes: int  # no height is lower
    status: Status
    solver: str


@dataclass(frozen=True)
class Demotion:
    """A tensor that had to leave its level although the live set fits it, because nothing packs the level."""

    name: str
    from_level: str
    to_level: str
    bytes: int
    saved_s: float  # seconds of transfers that the old level saved


@dataclass(frozen=True, eq=False)
class Allocation:
    """Addresses for one workload on one chip; `placement` is the one asked for, less the demotions."""

    workload: str
    chip: str
    addresses: tuple[Address, ...]
    levels: tuple[LevelUse, ...]
    demoted: tuple[Demotion, ...]
    placement: Int[np.ndarray, "N 2"]

    def report(self) -> str:
        """The levels and the demotions, as text."""
        lines = []
        for use in self.levels:
            of = "unlimited" if use.capacity_bytes is None else f"{use.capacity_bytes:,}"
            lines.append(
                f"{use.name}: {use.height_bytes:,} of {of} bytes, {use.weight_bytes:,} of them weights; "
                f"{use.status} by {use.solver}, no packing is below {use.bound_bytes:,}"
            )
        for d in self.demoted:
            lines.append(
                f"demoted: {d.name} ({d.bytes:,} bytes) from {d.from_level} to {d.to_level}, which had saved "
                f"{d.saved_s * 1e6:.3f} us"
            )
        return "\n".join(lines)
