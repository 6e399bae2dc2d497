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

from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS, grid
from ..space import HIGHEST_BITS

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


class Kernel(NamedTuple):
    """An operation's kernel, in the layout of the traced function."""

    values: np.ndarray  # float32: what the search computes with
    grid: PointGrid | None  # None: not quantized
    integers: np.ndarray | None  # int32, q of each value


def quantized_kernels(network: QuantizedNetwork, bits: Sequence[int] | np.ndarray) -> dict[str, Kernel]:
    """operation -> its kernel at (n,) bits; tables of lookups, too.

    The values come from `QuantizedNetwork` itself, for XLA and NumPy may round a number in the middle of two
    levels differently. The same holds for a zero point, so it is moved to where the values need it.
    """
    widths = jnp.asarray(bits, jnp.int32)
    values = {name: np.asarray(v, np.float32) for name, v in _quantized(network, widths).items()}
    grids = _weight_grids(network, bits)
    found = {}
    for name, array in values.items():
        if name not in grids:
            found[name] = Kernel(array, None, None)
            continue
        to = grids[name]
        levels = np.rint(array / to.scale).astype(np.int32)
        rest = tuple(a for a in range(array.ndim) if np.ndim(to.zero) == 0 or to.zero.shape[a] == 1)
        lowest, highest = (fn(levels, rest, keepdims=True).reshape(to.zero.shape) for fn in (np.min, np.max))
        to = to._replace(zero=np.clip(to.zero, to.q_min - lowest, to.q_max - highest))
        found[name] = Kernel(array, to, levels + to.zero)
    return found


@jax.jit
def _quantized(network: QuantizedNetwork, bits: Int[Array, " n"]) -> dict[str, Array]:
    return network._quantized_weights(bits, jnp.minimum(bits, HIGHEST_BITS), False).kernels


def _weight_grids(network: QuantizedNetwork, bits: Sequence[int] | np.ndarray) -> dict[str, PointGrid]:
    ends = {}
    for op in network.workload.operations:
        if op.weight_point >= 0 and bits[op.weight_point] < FULL_BITS:
            b = int(bits[op.weight_point])
            low, high = (np.asarray(end)[b] for end in network.ranges.weights[op.name])
            ends[op.name] = (low, high, b)
    return _grids(ends, network.config.symmetric_weights)


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
