"""Ranges of the quantizers, from the weights and from calibration images.

minmax       the extremes of all values
mean_minmax  the mean over batches of each batch's extremes (Miret et al. 2022, section 3)
percentile   the middle `percentile` per cent of the values
mse          per bit-width, the shrunk min-max range with the least mean squared rounding error

A weight is its own only batch, so minmax and mean_minmax agree on weights.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hwmodel import check_fields

from .batches import Inputs, count
from .interpreter import Folded
from .observers import Histograms, histograms, image_extremes
from .quantizers import fake_quantize
from .space import HIGHEST_BITS, LOWEST_BITS
from .traced import Traced

OBSERVERS = ("minmax", "mean_minmax", "percentile", "mse")
ROWS = HIGHEST_BITS + 1  # ranges are tables over the bit-width; rows below LOWEST_BITS are never read
SHRINKS = 1 - 0.02 * np.arange(40, dtype=np.float32)  # of the min-max range, tried by "mse"


@dataclass(frozen=True)
class QuantizerConfig:
    """How quantizers get their grids and ranges. The defaults' origin: P paper, O ours."""

    symmetric_weights: bool = False  # P: asymmetric
    symmetric_activations: bool = False  # P: asymmetric
    per_channel: bool = True  # O: of weights; the paper does not say
    weight_range: str = "minmax"  # O; one of OBSERVERS
    activation_range: str = (
        "mse"  # O; one of OBSERVERS; the paper's is mean_minmax, which loses more at 4 bits
    )
    percentile: float = 99.9  # O: share of the values inside, in per cent
    batch: int = 16  # O: images per batch of mean_minmax
    quantize_pooled_input: bool = True  # O: see hwmodel.trace

    def __post_init__(self):
        check_fields(self)
        for field in ("weight_range", "activation_range"):
            if getattr(self, field) not in OBSERVERS:
                raise ValueError(f"{field} must be one of {OBSERVERS}, got {getattr(self, field)!r}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {self.percentile}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")


class Ranges(NamedTuple):
    """Low and high end of every quantizer's range by bit-width (row b for b bits); a pytree."""

    weights: dict[str, tuple[Array, Array]]  # operation -> (ROWS, ...) each, to broadcast
    low: Array  # (points, ROWS) float32; rows of weights are unused
    high: Array  # (points, ROWS) float32


def calibrate(traced: Traced, folded: Folded, inputs: Inputs, config: QuantizerConfig) -> Ranges:
    """Ranges of all points.

    Args:
        inputs: as the function takes them, disjoint from those that the search and the report see.
    """
    if count(inputs) < 1:
        raise ValueError("inputs are empty: calibration needs at least one sample")
    low, high = activation_ranges(traced, folded, inputs, config)
    return Ranges(weight_ranges(traced, folded, config), low, high)


def activation_ranges(
    traced: Traced, folded: Folded, inputs: Inputs, config: QuantizerConfig
) -> tuple[Float[Array, "points rows"], Float[Array, "points rows"]]:
    """(points, ROWS) low and high of all activations; zeros for weights."""
    extremes = image_extremes(traced, folded, inputs)  # (N, points, 2)
    finite = np.isfinite(extremes).all((0, 2))
    if not finite.all():
        name = traced.workload().point_names[int(np.argmin(finite))]
        raise ValueError(f"activation {name!r} is not finite on these inputs: check inputs and weights")
    low, high = extremes[..., 0].min(0), extremes[..., 1].max(0)
    if config.activation_range == "mean_minmax":
        batches = [extremes[i : i + config.batch] for i in range(0, len(extremes), config.batch)]
        weight = [len(batch) for batch in batches]  # a short last batch counts less
        low = np.average([batch[..., 0].min(0) for batch in batches], axis=0, weights=weight)
        high = np.average([batch[..., 1].max(0) for batch in batches], axis=0, weights=weight)
    if config.activation_range in ("percentile", "mse"):
        found = histograms(traced, folded, inputs, low, high)
        if config.activation_range == "mse":
            return _least_error_ranges(found, config.symmetric_activations)
        low, high = found.percentiles(config.percentile)
    low, high = (np.repeat(r[:, None], ROWS, axis=1).astype(np.float32) for r in (low, high))
    return jnp.asarray(low), jnp.asarray(high)


def weight_ranges(traced: Traced, folded: Folded, config: QuantizerConfig) -> dict[str, tuple[Array, Array]]:
    """Per operation, (ROWS, ...) low and high of its folded kernel."""
    axes = {op.name: op.weight_axis for op in traced.workload().operations}

    @jax.jit
    def ranges(kernels: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
        return {name: _weight_range(kernel, axes[name], config) for name, kernel in kernels.items()}

    return ranges(folded.kernels)


def _weight_range(kernel: Array, axis: int, config: QuantizerConfig) -> tuple[Array, Array]:
    rest = tuple(i for i in range(kernel.ndim) if i != axis or not config.per_channel)
    if config.weight_range == "percentile":
        tail = (100 - config.percentile) / 200
        low, high = (jnp.quantile(kernel, q, axis=rest, keepdims=True) for q in (tail, 1 - tail))
    else:
        low, high = kernel.min(rest, keepdims=True), kernel.max(rest, keepdims=True)
    if config.weight_range != "mse":
        return jnp.repeat(low[None], ROWS, axis=0), jnp.repeat(high[None], ROWS, axis=0)

    def shrink_at(bits: Int[Array, ""]) -> Array:
        def error(shrink: Array) -> Array:
            off = (
                fake_quantize(kernel, shrink * low, shrink * high, bits, symmetric=config.symmetric_weights)
                - kernel
            )
            return jnp.sum(off * off, axis=rest, keepdims=True)

        return jnp.asarray(SHRINKS)[jnp.argmin(jax.lax.map(error, jnp.asarray(SHRINKS)), axis=0)]

    shrink = jax.lax.map(shrink_at, jnp.arange(ROWS).clip(LOWEST_BITS))
    return shrink * low[None], shrink * high[None]


@jax.jit(static_argnames="symmetric")
def _least_error(counts: Array, low: Array, high: Array, symmetric: bool) -> Any:
    """For one point, (ROWS,) low and high: the bins' centres stand for the values."""
    bins = counts.shape[0]
    centres = low + (high - low) * (jnp.arange(bins, dtype=jnp.float32) + 0.5) / bins

    def shrink_at(bits: Int[Array, ""]) -> Array:
        def error(shrink: Array) -> Array:
            near = fake_quantize(centres, shrink * low, shrink * high, bits, symmetric=symmetric)
            return jnp.sum(counts * (near - centres) ** 2)

        return jnp.asarray(SHRINKS)[jnp.argmin(jax.vmap(error)(jnp.asarray(SHRINKS)))]

    shrink = jax.vmap(shrink_at)(jnp.arange(ROWS).clip(LOWEST_BITS))
    return shrink * low, shrink * high


def _least_error_ranges(found: Histograms, symmetric: bool) -> tuple[Array, Array]:
    rows = [_least_error(jnp.asarray(c), a, b, symmetric) for c, a, b in zip(*found, strict=True)]
    return jnp.stack([low for low, _ in rows]), jnp.stack([high for _, high in rows])
