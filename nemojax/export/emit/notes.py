"""What became of each quantizer in the file, for the report."""

from typing import NamedTuple

from .containers import Container


class Placed(NamedTuple):
    """One quantizer in the file."""

    point: str
    bits: int
    dtype: str  # that its integers have there; float32 where its numbers are computed in floating point
    reason: str  # why it is marked as fake-quantized; "" where the type is the grid's own

    @property
    def native(self) -> bool:
        return not self.reason


class Notes:
    """Collects them in the order in which they are met; a tied weight once."""

    def __init__(self) -> None:
        self.placed: dict[str, Placed] = {}

    def add(self, point: str, bits: int, container: Container) -> None:
        known = self.placed.get(point)
        if known is None or known.native:
            self.placed[point] = Placed(point, bits, container.dtype, container.reason)
