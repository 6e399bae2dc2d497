"""Convolutions of images with gradients that a CPU runs well, and max-pooling.

Inside a compiled loop, which a training is, XLA:CPU runs the automatic gradients of a convolution by naive
code: a step of Conv-4 (64 images of 32x32) took 6.5 s of one core, with the gradients below 0.16 s. They
are the same sums:

    dx[y, x, c]    = Σ_{i, j, d}  G↑[y + p - i, x + p - j, d] · w[i, j, c, d]     a convolution of G↑ with the
                                                                             kernel turned by 180°
    dw[i, j, c, d] = Σ_{b, y, x}  X[b, y·s + i, x·s + j, c] · G[b, y, x, d]       a matrix product of each
                                                                             image; X is x, padded

G is the gradient of the output, G↑ the same with s - 1 zeros after each pixel, p = k // 2 the padding. Other
backends keep the automatic gradients.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NARROW = 16  # channels: below, images in one product are quicker than one after the other
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_HE = partial(nn.initializers.variance_scaling, 2.0, "fan_in", "normal")  # He et al. 2015


class Conv(nn.Module):
    """A square convolution without bias, padded by kernel // 2; normal weights of variance 2 / fan-in."""

    features: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        shape = (self.kernel, self.kernel, x.shape[3], self.features)
        return convolution(x, self.param("kernel", _HE(), shape), self.stride)


def convolution(
    x: Float[Array, "B H W C"], w: Float[Array, "k k C D"], stride: int = 1
) -> Float[Array, "B h w D"]:
    """Of images padded by k // 2 on every side, k odd; h = (H - 1) // stride + 1.

    Chosen when it is traced: on a CPU in reverse mode only (no `jax.jvp`), as `jax.grad` has it.
    """
    if jax.default_backend() != "cpu":
        return plain(x, w, stride)
    if w.shape[0] == 1:
        rows = x[:, ::stride, ::stride]
        return (rows.reshape(-1, x.shape[3]) @ w[0, 0]).reshape(*rows.shape[:3], -1)
    return with_own_gradients(x, w, stride)


def plain(x: Float[Array, "B H W C"], w: Float[Array, "k k C D"], stride: int) -> Float[Array, "B h w D"]:
    """`convolution` as XLA runs and differentiates it."""
    pad = w.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=_LAYOUT
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def with_own_gradients(
    x: Float[Array, "B H W C"], w: Float[Array, "k k C D"], stride: int
) -> Float[Array, "B h w D"]:
    """`plain`, the same numbers, with the gradients of this file."""
    return plain(x, w, stride)


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Largest of 2x2 pixels; an odd last row or column is left out. Ties share the gradient.

    By reshaping: XLA:CPU scatters the gradient of a window one by one.
    """
    batch, height, width, channels = x.shape
    h, w = height // 2, width // 2
    return x[:, : 2 * h, : 2 * w].reshape(batch, h, 2, w, 2, channels).max((2, 4))


def _forward(x: Array, w: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return plain(x, w, stride), (x, w)


def _backward(stride: int, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, w = kept
    return _inputs(x, w, stride, g), _kernel(x, w, stride, g)


def _inputs(x: Array, w: Array, stride: int, g: Array) -> Array:
    kernel, ends = w.shape[0], []
    for axis in (1, 2):
        if stride > 1:  # the zeros by a copy; XLA:CPU sets them one by one when it pads
            zeros = [jnp.zeros_like(g)] * (stride - 1)
            g = jnp.stack([g, *zeros], axis + 1).reshape(*g.shape[:axis], -1, *g.shape[axis + 1 :])
        low = kernel - 1 - kernel // 2
        ends.append((low, x.shape[axis] + kernel - 1 - low - g.shape[axis]))
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    return jax.lax.conv_general_dilated(g, turned, (1, 1), ends, dimension_numbers=_LAYOUT)


def _kernel(x: Array, w: Array, stride: int, g: Array) -> Array:
    kernel, pad = w.shape[0], w.shape[0] // 2
    wide = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((n - 1) * stride + 1 for n in g.shape[1:3])

    def taps(wide: Array) -> Array:
        """What the kernel sees at each pixel of G, (..., h, w, k·k·C)."""
        places = [(i, j) for i in range(kernel) for j in range(kernel)]
        return jax.lax.optimization_barrier(
            jnp.concatenate(
                [wide[..., i : i + rows : stride, j : j + columns : stride, :] for i, j in places], -1
            )
        )

    if x.shape[3] < NARROW:
        return (taps(wide).reshape(-1, w[..., 0].size).T @ g.reshape(-1, g.shape[3])).reshape(w.shape)

    def add(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        one, back = image
        turned = jax.lax.optimization_barrier(back.reshape(-1, g.shape[3]).T)
        return total + turned @ taps(one).reshape(-1, w[..., 0].size), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(w, shape=(w.shape[3], w[..., 0].size)), (wide, g))
    return total.T.reshape(w.shape)


with_own_gradients.defvjp(_forward, _backward)
