"""How a convolution or a matrix product is handed to XLA: the same numbers, other speeds.

XLA:CPU runs depthwise and grouped convolutions by slow general code, and 1x1 convolutions slower than
the matrix product that they are (`make bench NAME=gpu` times both lowerings). So on a CPU a depthwise
convolution becomes a sum of shifted slices, a 1x1 convolution a matrix product, and a grouped one a row
of dense ones. On other backends the primitive is left as it is.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hwmodel import Equation

Lowering = Literal["xla", "cpu"]
NARROW = 8  # channels: for groups of so many, one product with half of it zeros takes less than two
_NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # of lhs, rhs, out: NHWC, HWIO, NHWC


def default_lowering() -> Lowering:
    """ "cpu" where the default backend is a CPU, else "xla"."""
    return "cpu" if jax.default_backend() == "cpu" else "xla"


def contract(eqn: Equation, x: Array, w: Array, lowering: Lowering) -> Array:
    """The convolution or matrix product of `eqn` on x and w, lowered as asked."""
    if eqn.name != "conv_general_dilated" or lowering == "xla":
        return eqn.bind(x, w)[0]
    rule = _cpu_rule(eqn.params, x, w)
    return eqn.bind(x, w)[0] if rule is None else rule(x, w)


def _cpu_rule(p: Any, x: Array, w: Array) -> Callable[[Array, Array], Array] | None:
    dims = p["dimension_numbers"]
    plain = set(p["rhs_dilation"]) == {1} and set(p["lhs_dilation"]) == {1} and x.ndim == 4
    crops = any(min(ends) < 0 for ends in p["padding"])
    if not plain or crops or (dims.lhs_spec, dims.rhs_spec, dims.out_spec) != _NHWC:
        return None
    groups, stride, pad = p["feature_group_count"], p["window_strides"], p["padding"]
    if groups == x.shape[3] > 1 and w.shape[2] == 1 and w.shape[3] == groups:
        return lambda x, w: depthwise(x, w, stride, pad)
    if groups == 1 and w.shape[:2] == (1, 1) and set(stride) == {1} and set(pad) == {(0, 0)}:
        return lambda x, w: pointwise(x, w)
    if groups > 1:
        return lambda x, w: grouped(x, w, groups, stride, pad)
    return None


def depthwise(
    x: Float[Array, "B H W C"], w: Float[Array, "k j 1 C"], stride: tuple[int, int], pad: Any
) -> Float[Array, "B h w C"]:
    """Depthwise convolution as a sum of k·j shifted slices, each times one tap per channel."""
    (height, width), (s, t) = w.shape[:2], stride
    # The barrier keeps what made x (a quantizer, say) from being recomputed in each of the slices.
    x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *pad, (0, 0))))
    rows, columns = (x.shape[1] - height) // s + 1, (x.shape[2] - width) // t + 1
    sums = []  # per row of taps, which XLA:CPU runs a little faster than one long sum
    for i in range(height):
        band = x[:, i : i + (rows - 1) * s + 1 : s]
        taps = [
            band[:, :, j : j + (columns - 1) * t + 1 : t] * w[i, j, 0][None, None, None] for j in range(width)
        ]
        sums.append(sum(taps[1:], taps[0]))
    return sum(sums[1:], sums[0])


def pointwise(x: Float[Array, "B H W C"], w: Float[Array, "1 1 C D"]) -> Float[Array, "B H W D"]:
    """1x1 convolution as a matrix product over the channels."""
    return jnp.einsum("bhwc,cd->bhwd", x, w[0, 0])


def grouped(
    x: Float[Array, "B H W C"], w: Float[Array, "k j c D"], groups: int, stride: tuple[int, int], pad: Any
) -> Float[Array, "B h w D"]:
    """Grouped convolution as dense ones side by side: one a group, or one for two narrow groups."""
    if w.shape[2] <= NARROW and groups % 2 == 0:
        groups, w = groups // 2, _two_in_one(w, groups)
    parts = zip(jnp.split(x, groups, axis=3), jnp.split(w, groups, axis=3), strict=True)
    return jnp.concatenate(
        [
            jax.lax.conv_general_dilated(a, b, stride, pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
            for a, b in parts
        ],
        axis=3,
    )


def _two_in_one(w: Float[Array, "k j c D"], groups: int) -> Float[Array, "k j _ D"]:
    """Kernels of groups // 2 groups: each has two of the given ones on the diagonal, zeros beside them."""
    height, width, channels, outputs = w.shape
    pairs = w.reshape(height, width, channels, groups // 2, 2, outputs // groups)
    blocks = pairs[:, :, None] * jnp.eye(2)[None, None, :, None, None, :, None]
    return blocks.reshape(height, width, 2 * channels, outputs)
