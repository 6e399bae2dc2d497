"""Which ONNX integer type holds a b-bit grid, and what is said of those that none holds exactly.

8 bits fit int8, 4 bits int4 and 16 bits int16 (opset 21), 2 bits int2 (opset 25): such quantizers are plain
QuantizeLinear and DequantizeLinear. Any other width takes the next wider type and uses part of it: weights
are stored within their own range, activations are clipped to it first. The numbers are the same; such nodes
are marked, for a runtime sees a wider type than was asked for.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ..grids import PointGrid

_OPSETS = {2: 25, 4: 21, 8: 10, 16: 21}  # in which QuantizeLinear takes the type


@dataclass(frozen=True)
class Container:
    """A type, and why it is not the grid's own: "" where it is."""

    dtype: str
    reason: str = ""
    shift: int = 0  # from our signed integers to the type's

    @property
    def type(self) -> np.dtype:
        known = getattr(ml_dtypes, self.dtype, None) if self.dtype[-1] in "24" else None
        return np.dtype(known or self.dtype)

    def note(self, point: str, bits: int) -> dict[str, str]:
        """Marks of a node, as metadata."""
        marks = {"quantizer": point, "bits": str(bits)}
        return {**marks, "fake": self.reason} if self.reason else marks


def weight_container(grid: PointGrid, opset: int) -> Container:
    """Of stored integers: the narrowest type that holds them."""
    return _container(grid, opset, tuple(_OPSETS), "{bits}-bit integers stored as {dtype}")


def activation_container(grid: PointGrid, opset: int, small: bool) -> Container:
    """Of a tensor that is computed: its own type, or one that every runtime computes with, and a clip.

    Args:
        small: whether int4 will do. (int2 never does: onnxruntime 1.32 loads some graphs of it not at all.)
    """
    widths = (4, 8, 16) if grid.bits == 4 and small else (8, 16)
    return _container(grid, opset, widths, "clipped to {bits} bits, then {dtype}", prefer_unsigned=True)


def _container(
    grid: PointGrid, opset: int, widths: tuple[int, ...], why: str, prefer_unsigned: bool = False
) -> Container:
    fitting = (w for w in widths if w >= grid.bits and opset >= _OPSETS.get(w, opset + 1))
    width = next(fitting, None)
    if width is None:
        return Container("float32", f"opset {opset} has no integer type of {grid.bits} bits")
    # Where 0 is the lowest level, an unsigned type makes the zero point 0. Of computed tensors unsigned types
    # are what runtimes know best, so that only a zero point that is 0 already keeps the signed one.
    lowest = bool((grid.zero == grid.q_min).all())
    unsigned = lowest or (prefer_unsigned and bool((grid.zero != 0).any()))
    dtype = f"{'u' if unsigned else ''}int{width}"
    reason = "" if width == grid.bits else why.format(bits=grid.bits, dtype=dtype)
    return Container(dtype, reason, -grid.q_min if unsigned else 0)
