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
        choice: a `Configuration`, a mapping of point to bit-width, (n,) bit-widths; None: 32 everywhere.

    Raises:
        ValueError: a quantizer is missing, unknown, or has no bit-width of 2-16 or 32.
    """
    check_quantized(network)
    names = network.workload.point_names
    if choice is None:
        return np.full(len(names), FULL_BITS, np.int32)
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
