"""Learned ranges: step sizes as in LSQ, zero points as in LSQ+, in the form that inference has them.

    s = s₀·exp(t),   f = round(f₀ + o·(2^b - 1)),   x^ = s·round(clip(x / s, f, f + 2^b - 1))

s₀ and f₀ are of the calibrated range; t and o are learned. The gradient of s is LSQ's (Esser et al. 2020,
equation 3), that of the offset LSQ+'s (Bhalgat et al. 2020). f is kept in [-(2^b - 1), 0], so that zero stays
exact, and both become the ends of a range again, so that inference knows nothing of this.

Departs from LSQ, which scales the gradient of s by 1/sqrt(N·Q): that is for plain gradient descent. Here
Adam divides every gradient by its own size, so such a factor would have no effect; t = log(s/s₀) with a rate
of its own takes its place.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..interpreter import Folded
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS, grid
from ..space import HIGHEST_BITS
from .ties import Tie, tied, tied_ranges

_LARGEST = 3.0  # of |t|: a step size stays within a factor e³ of the calibrated one


class Trainable(NamedTuple):
    """What is learned; a pytree."""

    folded: Folded
    log_steps: dict[str, Array]  # operation -> t of its weight; "" -> (n,) of the points' activations
    offsets: dict[str, Array]  # likewise o, in units of 2^b - 1


def with_trained(
    network: QuantizedNetwork, bits: Int[Array, " n"], trained: Trainable, ties: tuple[Tie, ...] = ()
) -> QuantizedNetwork:
    """The network with trained weights, and trained ranges at `bits` (other rows of its tables stay)."""
    log_steps, offsets = (tied_ranges(each, ties) for each in (trained.log_steps, trained.offsets))
    rows = jnp.minimum(bits, HIGHEST_BITS)
    config, weights = network.config, {}
    for op in network.workload.operations:
        if op.weight_point >= 0:
            low, high = network.ranges.weights[op.name]
            row = rows[op.weight_point]
            ends = _learned(
                low[row],
                high[row],
                bits[op.weight_point],
                log_steps[op.name],
                offsets[op.name],
                config.symmetric_weights,
            )
            weights[op.name] = low.at[row].set(ends[0]), high.at[row].set(ends[1])
    points = jnp.arange(len(bits))
    low, high = network.ranges.low, network.ranges.high
    ends = jax.vmap(_learned, in_axes=(0, 0, 0, 0, 0, None))(
        low[points, rows],
        high[points, rows],
        bits,
        trained.log_steps[""],
        trained.offsets[""],
        config.symmetric_activations,
    )
    low, high = low.at[points, rows].set(ends[0]), high.at[points, rows].set(ends[1])
    ranges = network.ranges._replace(weights=weights, low=low, high=high)
    return network.replace(folded=tied(trained.folded, ties), ranges=ranges)  # type: ignore[attr-defined]


def _learned(
    low: Array, high: Array, bits: Array, log_step: Array, offset: Array, symmetric: bool
) -> tuple[Array, Array]:
    """Ends of the range whose step size is s₀·exp(t) and whose first level is round(f₀ + o)."""
    start = grid(low, high, bits, symmetric=symmetric)
    levels = start.last - start.first
    step = start.scale * jnp.exp(jnp.clip(log_step, -_LARGEST, _LARGEST))
    if symmetric:  # the grid follows from the wider end
        ends = step * start.first, step * start.last
        ends = jnp.where(start.first < 0, -ends[1], ends[0]), ends[1]
    else:
        first = jnp.clip(start.first + offset * levels, -levels, 0.0)
        ends = step * first, step * (first + levels)
    moved = (low != high) & (bits < FULL_BITS)  # nothing is learned where nothing is quantized
    return jnp.where(moved, ends[0], low), jnp.where(moved, ends[1], high)
