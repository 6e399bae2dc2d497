"""Bounds per channel that equalization gave to ReLU6 (`nemojax.ptq.bounds`), in a packed file's manifest.

Like scales and zero points they are no part of the stream, whose size is what was searched for.
"""

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from hwmodel import Program

from ..front_io import Document
from ..ptq.bounds import Bounded, bounded, unbounded
from ..quantized import QuantizedNetwork
from .packed_manifest import numbers, whole_numbers


def bounds_of(network: QuantizedNetwork) -> dict[str, Any]:
    """Value of the traced function -> shape and numbers; empty for a network that was not equalized."""
    if not isinstance(network.traced, Bounded):
        return {}
    found = {}
    for key in map(str, sorted(network.traced.clips)):
        array = np.asarray(network.folded.constants[key])
        found[key] = {"shape": list(array.shape), "values": array.reshape(-1).tolist()}
    return found


def with_bounds(document: Document, network: QuantizedNetwork) -> QuantizedNetwork:
    """The network with the bounds of a file, and no others.

    Raises:
        ValueError: bounds that do not fit the function.
    """
    given = document.mapping("bounds") if "bounds" in document.fields else {}
    traced, constants = network.traced, dict(network.folded.constants)
    if isinstance(traced, Bounded):
        constants = {key: array for key, array in constants.items() if int(key) not in traced.clips}
    program = traced.workload().program
    for key, row in given.items():
        constants[key] = jnp.asarray(_bound(document, program, key, row))
    clips = frozenset(map(int, given))
    if (traced.clips if isinstance(traced, Bounded) else frozenset()) != clips:
        traced = bounded(unbounded(traced), sorted(clips))
    folded = network.folded._replace(constants=constants)
    return replace(network, folded=folded, traced=traced)


def _bound(document: Document, program: Program, key: str, row: Any) -> np.ndarray:
    """Numbers above 0 that broadcast to what the function bounds by a number of its own."""
    where = f"bounds[{key!r}]"
    readers = [
        eqn
        for eqn in program.equations
        if eqn.name == "min" and any(str(v) == key and program.is_weight(v) for v in eqn.inputs)
    ]
    if not readers:
        document.fail(f"{where} bounds nothing in this network")
    shape = program.values[readers[0].outputs[0]].shape
    if not isinstance(row, dict) or set(row) != {"shape", "values"}:
        document.fail(f"{where} has other fields than shape and values")
    wanted = whole_numbers(document, f"{where}.shape", row["shape"])
    if len(wanted) > len(shape) or any(
        n not in (1, m) for n, m in zip(wanted[::-1], shape[::-1], strict=False)
    ):
        document.fail(f"{where}.shape is {list(wanted)}, which does not broadcast to {shape}")
    given = numbers(document, f"{where}.values", row["values"], math.prod(wanted))
    with np.errstate(over="ignore"):
        found = given.astype(np.float32)
    if not ((found > 0) & np.isfinite(found)).all():
        document.fail(f"{where}.values holds a bound that is not above 0, or not below infinity")
    return found.reshape(wanted)
