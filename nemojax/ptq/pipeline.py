"""The front door: post-training quantization, step after step.

Equalize, calibrate the ranges anew, correct the biases, learn the rounding. Departs from Nagel et al. 2021
("A White Paper on Neural Network Quantization", figure 4), where biases come last and instead of the
rounding: a block learns little from inputs whose means are far off, and what it learned makes up for rounded
activations, which a later correction of the weights' share alone would undo.
"""

from typing import Any

import jax

from ..batches import Inputs, check_finite, count, fitting, standard
from ..calibration import calibrate
from ..chosen import chosen_bits
from ..networks.network import Network
from ..quantized import QuantizedNetwork, quantize
from .bias import correct_bias
from .config import PTQConfig
from .equalization import equalize
from .reconstruction import OnUnit, reconstruct


def improve(
    key: jax.Array,
    network: Network | QuantizedNetwork,
    bits: Any,
    inputs: Inputs,
    config: PTQConfig | None = None,
    *,
    on_chunk: OnUnit | None = None,
) -> QuantizedNetwork:
    """A network whose `quantized_logits(bits, x)` is closer to full precision.

    Args:
        key: for the draws of the reconstruction; the same key gives the same network.
        network: quantized, or not yet (then with the default `QuantizerConfig`).
        bits: a `Configuration`, a mapping of point to bit-width, or (n,) of them, 32 for as it is; kernels
            come back on their grids at these.
        inputs: calibration samples, disjoint from those of search and report.
        config: which steps, and how long; default: biases corrected, blocks
            reconstructed, nothing equalized.
        on_chunk: called after each unit of a reconstruction.

    Raises:
        ValueError: inputs that the network was not traced for, none, or with NaN or infinity; bits that do
            not fit the network, the message names the point.
    """
    config = PTQConfig(correct_bias=True, reconstruct="block") if config is None else config
    if count(inputs) < 1:
        raise ValueError("inputs are empty: give at least one calibration sample")
    check_finite(standard(inputs))
    if not isinstance(network, QuantizedNetwork):
        network = quantize(network, inputs)
    inputs = fitting(inputs, network.traced.sample)
    bits = chosen_bits(network, bits)
    if config.equalize:
        network = equalized(network, inputs)
    before = network
    if config.correct_bias:
        network = correct_bias(network, bits, inputs)
    if config.reconstruct is not None:
        network = reconstruct(key, network, bits, inputs, config, on_chunk, before)
    return network


def equalized(network: QuantizedNetwork, inputs: Inputs) -> QuantizedNetwork:
    """The network with equalized weights, its ranges calibrated anew; see `equalize`."""
    traced, folded = equalize(network.traced, network.folded)
    ranges = calibrate(traced, folded, inputs, network.config)
    return network.replace(traced=traced, folded=folded, ranges=ranges)  # type: ignore[attr-defined]
