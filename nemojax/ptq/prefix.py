"""What the network's values are up to some unit, over all calibration samples: in full precision, quantized.

Only values that a later unit still reads are held (on the host), so memory is that of the widest cut, twice.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..batches import Inputs, check_finite, count, fitting
from ..interpreter import Folded, Quantize
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS, fake_quantize
from ..space import HIGHEST_BITS
from .segment import Segment
from .units import Unit

Values = dict[int, np.ndarray]  # value of the program -> (N, ...)


class Settings(NamedTuple):
    """The quantizers of some activations: one row each; a pytree."""

    low: Float[Array, " p"]
    high: Float[Array, " p"]
    bits: Int[Array, " p"]

    def scaled(self, log_scale: Float[Array, " p"]) -> "Settings":
        """Step sizes times exp(log_scale); the zero points stay, for the range grows at both ends alike."""
        return self._replace(low=self.low * jnp.exp(log_scale), high=self.high * jnp.exp(log_scale))


def activation_settings(network: QuantizedNetwork, bits: np.ndarray, points: Sequence[int]) -> Settings:
    """The quantizers at `points` at their bit-widths."""
    at = np.asarray(points, np.int32)
    row = np.minimum(bits[at], HIGHEST_BITS)
    low, high = (np.asarray(r)[at, row] for r in (network.ranges.low, network.ranges.high))
    return Settings(jnp.asarray(low), jnp.asarray(high), jnp.asarray(bits[at]))


def full_precision(settings: Settings) -> Settings:
    """The same quantizers, switched off."""
    return settings._replace(bits=jnp.full_like(settings.bits, FULL_BITS))


def quantizer(segment: Segment, settings: Settings, symmetric: bool, training: bool = False) -> Quantize:
    """What `execute` calls at the segment's points; its weights come quantized."""
    weights = len(segment.operations)

    def quantize(i: int, x: Array) -> Array:
        k = i - weights
        if k < 0:
            return x
        return fake_quantize(
            x,
            settings.low[k],
            settings.high[k],
            settings.bits[k],
            symmetric=symmetric,
            straight_through=training,
        )

    return quantize


@partial(jax.jit, static_argnums=(0, 1))
def _run(
    segment: Segment, symmetric: bool, folded: Folded, settings: Settings, entries: Sequence[Any]
) -> tuple[Any, ...]:
    return segment.run(folded, entries, quantizer(segment, settings, symmetric))


def run_all(
    segment: Segment, symmetric: bool, folded: Folded, settings: Settings, entries: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Exits of a segment for all samples, (N, ...) each; the segment's own batch at a time."""
    total, size = len(entries[0]), segment.batch
    out: list[np.ndarray] = []
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)  # the last chunk repeats its last sample
        made = _run(segment, symmetric, folded, settings, [e[rows] for e in entries])
        for k, array in enumerate(made):
            y = np.asarray(array)
            y = y.reshape(size, -1, *y.shape[1:])  # a sample may have several rows
            if start == 0:
                out.append(np.empty((total, *y.shape[1:]), y.dtype))
            out[k][start : start + size] = y[: total - start]
    return out


class Prefix:
    """The values alive between two units, in full precision and quantized."""

    def __init__(self, network: QuantizedNetwork, bits: Int[np.ndarray, " n"], inputs: Inputs):
        program, points = network.workload.program, network.workload.points
        self.symmetric = network.config.symmetric_activations
        inputs = fitting(inputs, network.traced.sample)
        check_finite(inputs)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
        self.full: Values = dict(zip(program.inputs, leaves, strict=True))
        self.quantized: Values = dict(self.full)
        self.samples = count(inputs)
        for i, point in enumerate(points):
            if point.source == "input":
                low, high, b = activation_settings(network, bits, [i])
                x = fake_quantize(
                    jnp.asarray(self.full[point.value]), low[0], high[0], b[0], symmetric=self.symmetric
                )
                self.quantized[point.value] = np.asarray(x)

    def entries(self, unit: Unit) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(full precision, quantized) of what a unit reads."""
        return [self.full[v] for v in unit.entries], [self.quantized[v] for v in unit.entries]

    def advance(
        self, unit: Unit, full: Sequence[np.ndarray], quantized: Sequence[np.ndarray], later: Sequence[Unit]
    ) -> None:
        """Takes a unit's exits and lets go of what no later unit reads."""
        self.full.update(zip(unit.exits, full, strict=True))
        self.quantized.update(zip(unit.exits, quantized, strict=True))
        needed = {v for unit in later for v in unit.entries}
        for values in (self.full, self.quantized):
            for v in [v for v in values if v not in needed]:
                del values[v]
