"""The grids of a network's weights at given bit-widths."""

from collections import Counter
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ..interpreter import Folded
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS, Grid, fake_quantize, grid
from ..space import HIGHEST_BITS


def weight_grid(network: QuantizedNetwork, bits: Int[np.ndarray, " n"], name: str) -> Grid:
    """What the kernel of operation `name` is rounded to."""
    (op,) = (op for op in network.workload.operations if op.name == name)
    b = int(bits[op.weight_point])
    low, high = (r[min(b, HIGHEST_BITS)] for r in network.ranges.weights[name])
    return grid(low, high, jnp.asarray(b), symmetric=network.config.symmetric_weights)


def rounded(network: QuantizedNetwork, bits: Int[np.ndarray, " n"]) -> dict[str, Array]:
    """All kernels rounded to nearest at their bit-widths."""
    wide = {op.name: int(bits[op.weight_point]) for op in network.workload.operations if op.weight_point >= 0}
    ranges = {name: tuple(r[min(b, HIGHEST_BITS)] for r in network.ranges.weights[name])
              for name, b in wide.items()}  # fmt: skip
    widths = {name: np.int32(b) for name, b in wide.items()}
    return _round(network.folded.kernels, ranges, widths, network.config.symmetric_weights)


@partial(jax.jit, static_argnums=3)
def _round(kernels: Any, ranges: Any, widths: Any, symmetric: bool) -> dict[str, Array]:
    found = {}
    for name, kernel in kernels.items():
        low, high = ranges[name]
        found[name] = fake_quantize(
            kernel, low, high, widths[name], symmetric=symmetric, straight_through=False
        )
    return found


def learnable(network: QuantizedNetwork, bits: Int[np.ndarray, " n"]) -> tuple[str, ...]:
    """Operations whose rounding may be chosen: quantized products with a weight of their own.

    Lookups round to nearest, and so do tied weights, since what suits one reader need not suit the other.
    """
    operations = network.workload.operations
    readers = Counter(op.weight_point for op in operations)
    return tuple(
        op.name
        for op in operations
        if op.weight_point >= 0
        and op.kind != "gather"
        and readers[op.weight_point] == 1
        and bits[op.weight_point] < FULL_BITS
    )


def with_kernels(network: QuantizedNetwork, kernels: dict[str, Array]) -> QuantizedNetwork:
    folded: Folded = network.folded
    return network.replace(folded=folded._replace(kernels={**folded.kernels, **kernels}))  # type: ignore[attr-defined]
