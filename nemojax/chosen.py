"""Bits as people have them (a configuration, a mapping, an array), checked against a network."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .configuration import Configuration, checked_bits
from .quantized import QuantizedNetwork, check_quantized
from .quantizers import FULL_BITS


def chosen_bits(network: QuantizedNetwork, choice: Any) -> np.ndarray:
    """(n,) int32 in the order of the network's points.

    Args:
        choice: a `Configuration`, a mapping of point to bit-width, or (n,) bit-widths.

    Raises:
        ValueError: a quantizer is missing, unknown, or has no bit-width of 2-16 or 32.
    """
    check_quantized(network)
    if choice is None:
        raise ValueError("bits are None: give a configuration of this network")
    names = network.workload.point_names
    given = choice.as_dict() if isinstance(choice, Configuration) else choice
    if isinstance(given, Mapping):
        for found, what in (
            ([name for name in names if name not in given], "lack {} of this network"),
            ([name for name in given if name not in names], "name {}, which this network lacks"),
        ):
            if found:
                which = repr(found[0]) + (f" and {len(found) - 1} more" if len(found) > 1 else "")
                raise ValueError(f"bits {what.format(which)}: give a configuration of the same network")
        given = [given[name] for name in names]
    return checked_bits(np.asarray(given)[None], names)[0]


def chosen_or_full(network: QuantizedNetwork, choice: Any) -> np.ndarray:
    """As `chosen_bits`; None: 32 everywhere, which is full precision."""
    if choice is not None:
        return chosen_bits(network, choice)
    check_quantized(network)
    return np.full(len(network.workload.points), FULL_BITS, np.int32)
