"""Empirical bias correction (Nagel et al. 2019, section 4.2 and appendix D).

Rounding shifts the mean of an operation's output. With E over calibration samples and positions,

    b <- b - (E[W~ x^] - E[W x]),

per channel, operation after operation, so that x^ holds the errors and corrections before it. Only weights
are rounded meanwhile: the error of a rounded activation goes along with its value, and correcting its mean
costs more than it brings (docs/deploy.md has figures). The analytic form, which needs only batch norms'
statistics, is left out: they are folded away here, and it knows ReLU alone.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..batches import Inputs
from ..chosen import chosen_bits
from ..quantized import QuantizedNetwork
from ..quantizers import FULL_BITS
from .grids import rounded
from .pairs import output_axis
from .prefix import Prefix, activation_settings, run_all
from .segment import make_segment
from .units import find_units


def correct_bias(
    network: QuantizedNetwork,
    bits: Any,
    inputs: Inputs,
) -> QuantizedNetwork:
    """The network with biases for which every operation's mean output is that of full precision.

    Args:
        bits: as the network will run, in the forms that `improve` takes; those of the weights count.
        inputs: calibration samples.

    Only operations that have a bias or batch norm take part: the interpreter adds no other ones.

    Raises:
        ValueError: bits or inputs that do not fit the network, inputs with NaN or infinity.
    """
    is_weight = np.array([point.is_weight for point in network.workload.points])
    bits = np.where(is_weight, chosen_bits(network, bits), FULL_BITS)
    full = network.folded
    kernels, biases = rounded(network, bits), dict(network.folded.biases)
    prefix = Prefix(network, bits, inputs)
    chunk = min(network.traced.micro_batch, prefix.samples)
    units, program = find_units(network.traced), network.workload.program
    operations = {op.name: op for op in network.workload.operations}
    for k, unit in enumerate(units):
        names = [n for n in unit.operations if operations[n].affine and operations[n].kind != "gather"]
        values = [operations[n].affine_value for n in names]
        both = tuple(dict.fromkeys((*unit.exits, *values)))
        segment = make_segment(network.traced, full, unit, chunk, exits=both)
        settings = activation_settings(network, bits, segment.points)
        exact, seen = prefix.entries(unit)
        right = run_all(segment, prefix.symmetric, segment.folded(full), settings, exact)
        now = network.folded._replace(kernels=kernels)
        made = run_all(segment, prefix.symmetric, segment.folded(now._replace(biases=biases)), settings, seen)
        for name, value in zip(names, values, strict=True):
            contraction = program.equations[operations[name].equations[0]]
            at, axis = both.index(value), 1 + output_axis(program, contraction)
            shift = _means(made[at], axis) - _means(right[at], axis)
            biases[name] = biases[name] - jnp.asarray(shift, jnp.float32)
        right_biases = segment.folded(now._replace(biases=biases))
        made = run_all(segment, prefix.symmetric, right_biases, settings, seen)
        prefix.advance(unit, right[: len(unit.exits)], made[: len(unit.exits)], units[k + 1 :])
    return network.replace(folded=network.folded._replace(biases=biases))  # type: ignore[attr-defined]


def _means(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(tuple(i for i in range(values.ndim) if i != axis), dtype=np.float64)
