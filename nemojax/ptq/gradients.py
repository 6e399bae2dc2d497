"""Convolutions whose gradients are about as cheap as themselves, for XLA:CPU.

What JAX derives is slow there: of a sum of shifted slices (a depthwise convolution) it pads and reduces once
per tap, some 20 times the time of the convolution itself, and the gradient of a dense kernel is a convolution
with windows as large as the image. Here the gradient of a depthwise convolution's input is a depthwise
convolution again, with the taps turned round; the taps' own gradient is one sum each,
and a dense kernel's gradient is one matrix product per tap.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..lowering import depthwise

Stride = tuple[int, int]
Pads = tuple[tuple[int, int], tuple[int, int]]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_convolution(
    x: Float[Array, "B H W C"], w: Float[Array, "k j 1 C"], stride: Stride, pad: Pads
) -> Float[Array, "B h w C"]:
    """`lowering.depthwise`, with this module's gradient."""
    return depthwise(x, w, stride, pad)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dense_convolution(
    x: Float[Array, "B H W C"], w: Float[Array, "k j C D"], stride: Stride, pad: Pads
) -> Float[Array, "B h w D"]:
    """The plain convolution, with this module's gradient of the kernel."""
    return _dense(x, w, stride, pad)


def _dense(x: Array, w: Array, stride: Stride, pad: Pads) -> Array:
    return jax.lax.conv_general_dilated(x, w, stride, pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _depthwise_forward(x: Array, w: Array, stride: Stride, pad: Pads) -> tuple[Array, Any]:
    return depthwise(x, w, stride, pad), (x, w)


def _dense_forward(x: Array, w: Array, stride: Stride, pad: Pads) -> tuple[Array, Any]:
    return _dense(x, w, stride, pad), (x, w)


def _dense_backward(stride: Stride, pad: Pads, kept: Any, dy: Array) -> tuple[Array, Array]:
    x, w = kept
    (dx,) = jax.vjp(lambda x: _dense(x, w, stride, pad), x)[1](dy)
    padded, (s, t), (_, rows, columns, _) = jnp.pad(x, ((0, 0), *pad, (0, 0))), stride, dy.shape
    taps = [
        jnp.einsum(
            "bhwc,bhwd->cd",
            padded[:, a : a + (rows - 1) * s + 1 : s, b : b + (columns - 1) * t + 1 : t],
            dy,
        )
        for a in range(w.shape[0])
        for b in range(w.shape[1])
    ]
    return dx, jnp.stack(taps).reshape(w.shape)


def _depthwise_backward(stride: Stride, pad: Pads, kept: Any, dy: Array) -> tuple[Array, Array]:
    x, w = kept
    ends = []
    for axis in (0, 1):
        k, low = w.shape[axis], w.shape[axis] - 1 - pad[axis][0]
        high = x.shape[axis + 1] + k - 2 - low - (dy.shape[axis + 1] - 1) * stride[axis]
        ends.append((low, high, stride[axis] - 1))
    spread = jax.lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *ends, (0, 0, 0)))
    dx = depthwise(spread, w[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))
    return dx, _taps(x, dy, w.shape[0], w.shape[1], stride, pad)[:, :, None]


def _taps(x: Array, dy: Array, k: int, j: int, stride: Stride, pad: Pads) -> Array:
    """(k, j, C): dw[a, b] = Σ over images, rows, columns of x[s·row + a, t·column + b] · dy[row, column]."""
    (s, t), (images, rows, columns, channels) = stride, dy.shape
    padded = jnp.pad(x, ((0, 0), *pad, (0, 0)))
    window = (images, (rows - 1) * s + 1, (columns - 1) * t + 1, channels)

    def tap(_: None, place: tuple[Array, Array]) -> tuple[None, Array]:
        seen = jax.lax.dynamic_slice(padded, (0, place[0], place[1], 0), window)[:, ::s, ::t]
        return None, jnp.sum(seen * dy, (0, 1, 2))

    a, b = jnp.divmod(jnp.arange(k * j), j)  # a scan over the taps compiles once, not k·j times
    return jax.lax.scan(tap, None, (a, b))[1].reshape(k, j, channels)


depthwise_convolution.defvjp(_depthwise_forward, _depthwise_backward)
dense_convolution.defvjp(_dense_forward, _dense_backward)
