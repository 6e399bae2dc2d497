"""The integers behind a quantizer at one bit-width: what a file stores and a runtime computes with.

q = clip(round(x / s) + z, q_min, q_max) stands for s·(q - z), with q_min = -2^(b-1) and q_max = 2^(b-1) - 1,
as in `quantizers`. The scales come from `quantizers.grid` itself, so that files and search agree.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hwmodel import Operation

from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS, grid

Key = TypeVar("Key", int, str)


class PointGrid(NamedTuple):
    """A quantizer at `bits` (2 to 16); arrays broadcast against its tensor."""

    bits: int
    scale: np.ndarray  # float32, above 0
    zero: np.ndarray  # int32: the integer that stands for 0, within q_min ... q_max
    low: np.ndarray  # float32: the range that the grid was made from
    high: np.ndarray

    @property
    def q_min(self) -> int:
        return -(2 ** (self.bits - 1))

    @property
    def q_max(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def integers(self, x: np.ndarray) -> np.ndarray:
        """q of x, int32; the same roundings as `fake_quantize`."""
        u = np.clip(x / self.scale, (self.q_min - self.zero), (self.q_max - self.zero), dtype=np.float32)
        return np.rint(u).astype(np.int32) + self.zero

    def values(self, q: np.ndarray) -> np.ndarray:
        """s·(q - z), float32."""
        return self.scale * (q - self.zero).astype(np.float32)


def activation_grids(network: QuantizedNetwork, bits: Sequence[int] | np.ndarray) -> dict[int, PointGrid]:
    """point -> grid, of the activations that have one (not those at 32 bits)."""
    low, high = np.asarray(network.ranges.low), np.asarray(network.ranges.high)
    ends = {
        i: (np.asarray(low[i, b]), np.asarray(high[i, b]), int(b))
        for i, (point, b) in enumerate(zip(network.workload.points, bits, strict=True))
        if not point.is_weight and b < FULL_BITS
    }
    return _grids(ends, network.config.symmetric_activations)


def weight_grids(network: QuantizedNetwork, bits: Sequence[int] | np.ndarray) -> dict[str, PointGrid]:
    """operation -> grid of its kernel, of those that have one."""
    ends = {}
    for op in network.workload.operations:
        if op.weight_point >= 0 and bits[op.weight_point] < FULL_BITS:
            b = int(bits[op.weight_point])
            low, high = (np.asarray(end)[b] for end in network.ranges.weights[op.name])
            ends[op.name] = (low, high, b)
    return _grids(ends, network.config.symmetric_weights)


def kernel(network: QuantizedNetwork, op: Operation) -> np.ndarray:
    """An operation's folded kernel on the host, in the layout of the traced function."""
    return np.asarray(network.folded.kernels[op.name], np.float32)


@partial(jax.jit, static_argnames="symmetric")
def _scales(
    low: Float[Array, " k"], high: Float[Array, " k"], bits: Int[Array, " k"], symmetric: bool
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Scales and zero points of k ranges."""

    def one(low: Array, high: Array, bits: Array) -> tuple[Array, Array]:
        to = grid(low, high, bits, symmetric=symmetric)
        return to.scale, to.zero_point(bits)

    return jax.vmap(one)(low, high, bits)


def _grids(ends: dict[Key, tuple[np.ndarray, np.ndarray, int]], symmetric: bool) -> dict[Key, PointGrid]:
    """Of all ranges at once: laid end to end, and filled up so that networks share a compilation."""
    if not ends:
        return {}
    lows, highs = (np.concatenate([np.reshape(row[k], -1) for row in ends.values()]) for k in (0, 1))
    widths = np.concatenate([np.full(low.size, b, np.int32) for low, _, b in ends.values()])
    short = (1 << (len(widths) - 1).bit_length()) - len(widths)
    filled = [jnp.asarray(np.pad(part, (0, short), mode="edge")) for part in (lows, highs, widths)]
    scale, zero = (np.asarray(part) for part in _scales(*filled, symmetric=symmetric))
    found, start = {}, 0
    for key, (low, high, b) in ends.items():
        place = slice(start, start := start + low.size)
        zeros = np.rint(zero[place]).astype(np.int32)
        found[key] = PointGrid(b, scale[place].reshape(low.shape), zeros.reshape(low.shape), low, high)
    return found
