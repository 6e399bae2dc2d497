"""Layers of detectors, functions of {"kernel", "bias"}; convolutions that a CPU runs well on small maps."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..backbones.convolution import convolution

FEW_CELLS = 16  # of a map
_EPSILON = 1e-5


class Layer(NamedTuple):
    """What is drawn for one: a normal kernel, its inputs along all axes but the last, and a bias of 0."""

    kernel: tuple[int, ...]
    gain: float | None = None  # kernel variance is gain / inputs: 2 before a ReLU (He et al. 2015), else 1
    deviation: float = 0.0  # where gain is None


def draw_layers(key: PRNGKeyArray, layers: Mapping[tuple[str, ...], Layer]) -> dict[str, Any]:
    """Nested {"kernel", "bias"} of all, from one long draw, as each shape of its own would be compiled."""
    sizes = [math.prod(layer.kernel) for layer in layers.values()]
    normal, start = jax.random.normal(key, (sum(sizes),)), 0
    out: dict[tuple[str, ...], Array] = {}
    for (place, layer), size in zip(layers.items(), sizes, strict=True):
        inputs = math.prod(layer.kernel[:-1])
        deviation = layer.deviation if layer.gain is None else math.sqrt(layer.gain / inputs)
        values = jax.lax.slice_in_dim(normal, start, start + size).reshape(layer.kernel)
        out[(*place, "kernel")] = values * deviation
        out[(*place, "bias")] = jnp.zeros(layer.kernel[-1], jnp.float32)
        start += size
    return flax.traverse_util.unflatten_dict(out)


def dense(params: Mapping[str, Array], x: Float[Array, "*batch F"]) -> Float[Array, "*batch D"]:
    """x · kernel + bias along the last axis, as one product of matrices."""
    kernel, bias = params["kernel"], params["bias"]
    found = x.reshape(-1, x.shape[-1]) @ kernel + bias[None]
    return found.reshape(*x.shape[:-1], kernel.shape[-1])


def conv(x: Float[Array, "B H W C"], w: Float[Array, "k k C D"], stride: int = 1) -> Float[Array, "B h w D"]:
    """`convolution`; of maps of few cells on a CPU as one product of matrices of what the kernel sees at
    each.

    XLA:CPU took 2.0 ms of a core for a 3x3 convolution of 256 channels of 2 x 2 cells, the product 0.1 ms;
    from some 6 x 6 cells on the product is the slower one.
    """
    kernel, (batch, height, width, _) = w.shape[0], x.shape
    rows, columns = ((n - 1) // stride + 1 for n in (height, width))
    if kernel == 1 or rows * columns > FEW_CELLS or jax.default_backend() != "cpu":
        return convolution(x, w, stride)
    pad = kernel // 2
    wide = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    ends = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    places = [(i, j) for i in range(kernel) for j in range(kernel)]
    taps = [wide[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for i, j in places]
    seen = jnp.concatenate(taps, axis=-1).reshape(batch * rows * columns, -1)
    return (seen @ w.reshape(-1, w.shape[3])).reshape(batch, rows, columns, -1)


def conv3x3(
    params: Mapping[str, Array], x: Float[Array, "B H W C"], stride: int = 1
) -> Float[Array, "B h w D"]:
    """A 3x3 convolution, padded by 1, plus a bias."""
    return conv(x, params["kernel"], stride) + params["bias"][None, None, None]


def upsampled(x: Float[Array, "B h w C"], height: int, width: int) -> Float[Array, "B H W C"]:
    """Every cell as 2 x 2 cells, cut to height x width."""
    twice = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return twice[:, :height, :width]


def group_norm(
    params: Mapping[str, Array], x: Float[Array, "B H W C"], count: int
) -> Float[Array, "B H W C"]:
    """Group normalisation (Wu and He 2018) by {"scale", "bias"}, in float32.

    As `flax.linen.GroupNorm`, by sums over cells before those over channels, which a CPU does faster.

    Args:
        count: groups of channels that lie side by side; it divides their number.
    """
    batch, height, width, channels = x.shape
    y = x.astype(jnp.float32)
    size = height * width * channels // count
    sums = (jnp.sum(each, (1, 2)).reshape(batch, count, -1) for each in (y, y * y))
    mean, square = (jnp.sum(each, -1) / size for each in sums)
    inverse = jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + _EPSILON)
    mean, inverse = (jnp.repeat(each, channels // count, axis=1) for each in (mean, inverse))
    factor = inverse * params["scale"].astype(jnp.float32)[None]
    shift = params["bias"].astype(jnp.float32)[None] - mean * factor
    return (y * factor[:, None, None] + shift[:, None, None]).astype(x.dtype)


def layer_norm(params: Mapping[str, Array], x: Float[Array, "B F"]) -> Float[Array, "B F"]:
    """Each row by its own mean and deviation (Ba et al. 2016): `group_norm` of one group and cell."""
    return group_norm(params, x[:, None, None], 1)[:, 0, 0]


def groups(channels: int) -> int:
    """The paper's 32 groups, but none of fewer than 8 channels, and all of one size [ours]."""
    return next(n for n in range(min(32, max(channels // 8, 1)), 0, -1) if channels % n == 0)
