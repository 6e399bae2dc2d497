"""A network with all kinds of tensors, and a chip in which they compete, for tests of costs on chips."""

import jax
import jax.numpy as jnp
import numpy as np

import hwmodel as hw
from nemojax.calibration import QuantizerConfig
from nemojax.networks import Network
from nemojax.quantized import quantize

LEVELS = (
    hw.Level("dram", 1e9, 8e8, 1 << 20, 1e-8, energy_j_per_byte=1e-10),
    hw.Level("llc", 1e10, 7e9, 1024, 1e-9, align_bytes=16, energy_j_per_byte=1e-11),
    hw.Level("sram", 1e11, 9e10, 512, 1e-10, align_bytes=16, energy_j_per_byte=1e-12),
)
RATES = (hw.Rate(4, 4, 4e9, 1e-13), hw.Rate(4, 8, 2e9, 2e-13), hw.Rate(8, 8, 1e9, 4e-13))
CHIP = hw.Chip("small", LEVELS, RATES, overlap=0.5, count_bias=True)


def apply(p, x):
    """A convolution fused with a residual addition, a max pooling, an unquantized mean, a dense layer."""

    def conv(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    first = jax.nn.relu(conv(x, p["a"]["kernel"]) + p["a"]["bias"][None, None, None])
    second = jax.nn.relu(conv(first, p["b"]["kernel"]) + first)
    pooled = jax.lax.reduce_window(second, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    third = jax.nn.relu(conv(pooled, p["c"]["kernel"]))
    return jnp.mean(third, axis=(1, 2)) @ p["d"]["kernel"]


def drawn_params():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 3, 8), "b": (3, 3, 8, 8), "c": (1, 1, 8, 8), "d": (8, 5)}
    params = {n: {"kernel": np.float32(rng.normal(size=s) / 5)} for n, s in shapes.items()}
    params["a"]["bias"] = np.float32(rng.normal(size=8))
    return params


def images(seed, count):
    return np.float32(np.random.default_rng(seed).normal(size=(count, 8, 8, 3)))


def quantized():
    """The mean before the last layer has no quantizer."""
    config = QuantizerConfig(quantize_pooled_input=False)
    return quantize(Network("net", apply, drawn_params()), images(0, 2), config)
