"""Uniform affine fake quantization with a traced bit-width (Miret et al. 2022, section 3; Jacob et al. 2018).

Signed integers q in {-2^(b-1), ..., 2^(b-1)-1} stand for s·(q - z):

    s = (x_max - x_min) / (2^b - 1),   z = -2^(b-1) - round(x_min / s)
    q = clip(round(x / s) + z),        x^ = s·(q - z)

The paper's own equation was not readable; this is the standard form. Since z is whole, x^ is computed as
s·round(clip(x / s, q_min - z, q_max - z)), which is the same number with two operations less.
Rounding is to nearest, ties to even, as in ONNX's QuantizeLinear.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

FULL_BITS = 32  # a point at this bit-width is left as it is


class Grid(NamedTuple):
    """What a quantizer rounds to: whole multiples first, ..., last of `scale`, zero among them."""

    scale: Float[Array, "*r"]
    first: Float[Array, "*r"]  # q_min - z
    last: Float[Array, "*r"]  # q_max - z

    def zero_point(self, bits: Int[Array, ""]) -> Float[Array, "*r"]:
        """z, the integer that stands for 0."""
        return -(2.0 ** (bits.astype(self.first.dtype) - 1)) - self.first


def grid(
    low: Float[Array, "*r"],
    high: Float[Array, "*r"],
    bits: Int[Array, ""],
    *,
    symmetric: bool = False,
    straight_through: bool = False,
) -> Grid:
    """The grid of a range; the range is first widened to hold zero, so that zero padding stays exact.

    Args:
        low, high: x_min and x_max, scalars or broadcastable per channel.
        bits: () bit-width, traced; 2 to 16, or 32 (see `fake_quantize`).
        symmetric: z = 0, s = max(-x_min, x_max) / (2^(b-1) - 1); a range without negative numbers gets
            the unsigned grid 0 ... 2^b - 1 instead, which wastes no half of it.
        straight_through: rounding to a whole zero point gets the gradient 1, so that ends can be learned.

    A range of width zero gets s = 1, so that nothing is divided by zero; it can hold only zeros.
    """
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    levels = 2.0 ** bits.astype(low.dtype)
    if symmetric:
        signed = low < 0
        half = levels / 2
        width = jnp.maximum(-low, high)
        scale = _positive(width / jnp.where(signed, half - 1, levels - 1))
        first = jnp.where(signed, -half, 0.0)
    else:
        scale = _positive((high - low) / (levels - 1))
        first = _rounded(low / scale, straight_through)
    return Grid(scale, first, first + (levels - 1))


def fake_quantize(
    x: Float[Array, "*s"],
    low: Float[Array, "*r"],
    high: Float[Array, "*r"],
    bits: Int[Array, ""],
    *,
    symmetric: bool = False,
    straight_through: bool = True,
) -> Float[Array, "*s"]:
    """x rounded to the grid of [low, high] at `bits`; at 32 bits, x itself.

    The gradient is the straight-through estimate: of x, 1 inside the range and 0 where it was clipped; of the
    step size, round(x/s) - x/s inside and the first or last level where x was clipped (Esser et al. 2020,
    equation 3). Without `straight_through` it is 0, and the same numbers come with two operations less.
    """
    to = grid(low, high, bits, symmetric=symmetric, straight_through=straight_through)
    whole = _rounded(jnp.clip(x / to.scale, to.first, to.last), straight_through)
    return jnp.where(bits >= FULL_BITS, x, to.scale * whole)


def _rounded(u: Float[Array, "*s"], straight_through: bool) -> Float[Array, "*s"]:
    """round(u), exactly; its gradient 1 or 0."""
    return jnp.round(u) + (u - jax.lax.stop_gradient(u)) if straight_through else jnp.round(u)


def _positive(scale: Float[Array, "*r"]) -> Float[Array, "*r"]:
    return jnp.where(scale > 0, scale, 1.0)
