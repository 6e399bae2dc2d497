"""Convolutions on a CPU with gradients of their own, for training.

`lowering` makes the forward pass quick. The automatic gradients of what it makes are not: XLA:CPU sums a
depthwise kernel's gradient by strided reads, transposes large tensors for that of a matrix product, and
inside a loop (a scan of training steps) runs the dilated convolutions of a dense one by naive code. The
rules here are the same sums in forms that XLA:CPU runs well, in a loop or outside of one:

    dx[y, x, c]     = Σ_{i, j, d}  G↑[y + p - i, x + q - j, d] · w[i, j, c, d]    a convolution of G↑ with the
                                                                              kernel turned by 180°
    dw[i, j, c, d]  = Σ_{b, y, x}  X[b, y·s + i, x·t + j, c] · G[b, y, x, d]      X padded

G↑ is the output's gradient with stride - 1 zeros between its pixels. All are in NHWC and HWIO.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from . import lowering

Pair = tuple[int, int]
Pad = tuple[Pair, Pair]
NHWC = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # of lhs, rhs, out: NHWC, HWIO, NHWC
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@jax.custom_vjp
def pointwise(x: Float[Array, "B H W C"], w: Float[Array, "1 1 C D"]) -> Float[Array, "B H W D"]:
    """`lowering.pointwise`, the same numbers; reverse mode only, as all functions here."""
    return lowering.pointwise(x, w)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(
    x: Float[Array, "B H W C"], w: Float[Array, "k j 1 C"], stride: Pair, pad: Pad
) -> Float[Array, "B h w C"]:
    """`lowering.depthwise`, the same numbers."""
    return lowering.depthwise(x, w, stride, pad)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dense(
    x: Float[Array, "B H W C"], w: Float[Array, "k j C D"], stride: Pair, pad: Pad
) -> Float[Array, "B h w D"]:
    """A convolution of one group, as XLA runs it."""
    return jax.lax.conv_general_dilated(x, w, stride, pad, dimension_numbers=_DIMENSIONS)


def spread(
    g: Float[Array, "B h w D"], stride: Pair, size: Pair, kernel: Pair, pad: Pad
) -> Float[Array, "..."]:
    """G↑ with the zeros around it, so that a valid convolution with the kernel has `size` pixels.

    The zeros come by concatenation, which is a copy; XLA:CPU sets them one by one when it pads.
    """
    for axis, step in zip((1, 2), stride, strict=True):
        if step > 1:
            zeros = [jnp.zeros_like(g)] * (step - 1)
            g = jnp.stack([g, *zeros], axis=axis + 1).reshape(*g.shape[:axis], -1, *g.shape[axis + 1 :])
    ends = []
    for have, want, k, (low, _) in zip(g.shape[1:3], size, kernel, pad, strict=True):
        ends.append((k - 1 - low, want + low - have))
    return jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *((*end, 0) for end in ends), (0, 0, 0)])


def depthwise_kernel_gradient(
    x: Float[Array, "B H W C"], g: Float[Array, "B h w C"], kernel: Pair, stride: Pair, pad: Pad
) -> Float[Array, "k j 1 C"]:
    """dw with d = c: one image after the other adds its k·j products, which are summed over pixels last."""
    (rows, columns), (s, t) = g.shape[1:3], stride
    places = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]

    def add(sums: list[Array], image: tuple[Array, Array]) -> tuple[list[Array], None]:
        one, back = image
        one = jax.lax.optimization_barrier(jnp.pad(one, (*pad, (0, 0))))
        taps = [
            one[i : i + (rows - 1) * s + 1 : s, j : j + (columns - 1) * t + 1 : t] * back for i, j in places
        ]
        return [total + tap for total, tap in zip(sums, taps, strict=True)], None

    sums, _ = jax.lax.scan(add, [jnp.zeros_like(g, shape=g.shape[1:])] * len(places), (x, g))
    return jnp.stack([total.sum((0, 1)) for total in sums]).reshape(*kernel, 1, -1)


def dense_kernel_gradient(
    x: Float[Array, "B H W C"], g: Float[Array, "B h w D"], kernel: Pair, stride: Pair, pad: Pad
) -> Float[Array, "k j C D"]:
    """dw as a convolution of x, its channels for a batch, with G for a kernel."""
    ends = []
    for size, k, out, s, (low, _) in zip(x.shape[1:3], kernel, g.shape[1:3], stride, pad, strict=True):
        ends.append((low, (out - 1) * s + k - size - low))
    dw = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        ends,
        rhs_dilation=stride,
        dimension_numbers=_DIMENSIONS,
    )
    return dw.transpose(1, 2, 0, 3)


def _pointwise_forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return lowering.pointwise(x, w), (x, w)


def _pointwise_backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = kept
    rows, back = x.reshape(-1, x.shape[3]), g.reshape(-1, g.shape[3])
    dw = jax.lax.dot_general(rows, back, (((0,), (0,)), ((), ())))
    return (back @ w[0, 0].T).reshape(x.shape), dw[None, None]


def _depthwise_forward(x: Array, w: Array, stride: Pair, pad: Pad) -> tuple[Array, tuple[Array, Array]]:
    return lowering.depthwise(x, w, stride, pad), (x, w)


def _depthwise_backward(stride: Pair, pad: Pad, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = kept
    kernel = (w.shape[0], w.shape[1])
    dw = depthwise_kernel_gradient(x, g, kernel, stride, pad)
    wide = spread(g, stride, (x.shape[1], x.shape[2]), kernel, pad)
    return lowering.depthwise(wide, w[::-1, ::-1], (1, 1), ((0, 0), (0, 0))), dw


def _dense_forward(x: Array, w: Array, stride: Pair, pad: Pad) -> tuple[Array, tuple[Array, Array]]:
    return dense(x, w, stride, pad), (x, w)


def _dense_backward(stride: Pair, pad: Pad, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = kept
    kernel = (w.shape[0], w.shape[1])
    dw = dense_kernel_gradient(x, g, kernel, stride, pad)
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    return dense(
        spread(g, stride, (x.shape[1], x.shape[2]), kernel, pad), turned, (1, 1), ((0, 0), (0, 0))
    ), dw


pointwise.defvjp(_pointwise_forward, _pointwise_backward)
depthwise.defvjp(_depthwise_forward, _depthwise_backward)
dense.defvjp(_dense_forward, _dense_backward)
