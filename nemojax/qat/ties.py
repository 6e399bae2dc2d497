"""Operations that share their weights, and must go on sharing them while they are trained."""

from collections.abc import Mapping
from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from ..interpreter import Folded
from ..quantized import QuantizedNetwork


class Tie(NamedTuple):
    """An operation that reads another one's kernel, transposed and reshaped; hashed by value."""

    name: str
    owner: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    bias: bool  # and its bias


def ties(network: QuantizedNetwork) -> tuple[Tie, ...]:
    """Of a network with concrete arrays.

    Operations into which different batch norms are folded share no numbers any more, and are no tie.
    """
    folded, operations = network.folded, network.workload.operations
    found = []
    for i, op in enumerate(operations):
        if op.weight_point < 0 or op.w_id in (-1, i) or op.name not in folded.kernels:
            continue
        owner = operations[op.w_id]
        own, other = (np.asarray(folded.kernels[name]) for name in (op.name, owner.name))
        orders = permutations(range(other.ndim)) if own.size == other.size else ()
        axes = next((o for o in orders if np.array_equal(other.transpose(o).reshape(own.shape), own)), None)
        if axes is None:
            continue
        one, two = (np.asarray(folded.biases.get(name, 0.0)) for name in (op.name, owner.name))
        bias = not op.bias_elems and bool(one.any()) and np.array_equal(one, two)
        found.append(Tie(op.name, owner.name, axes, own.shape, bias))
    return tuple(found)


def tied(folded: Folded, ties: tuple[Tie, ...]) -> Folded:
    """With the owners' numbers wherever they are read."""
    kernels, biases = dict(folded.kernels), dict(folded.biases)
    for tie in ties:
        kernels[tie.name] = kernels[tie.owner].transpose(tie.axes).reshape(tie.shape)
        if tie.bias:
            biases[tie.name] = biases[tie.owner]
    return Folded(kernels, biases, folded.constants)


def tied_ranges(learned: Mapping[str, Array], ties: tuple[Tie, ...]) -> dict[str, Array]:
    """What is learned of the owners' ranges for all that read their kernels; where both lie along other axes,
    each keeps its own.
    """
    out = dict(learned)
    for tie in ties:
        owner, own = learned[tie.owner], learned[tie.name]
        if owner.size == own.size == 1:
            out[tie.name] = owner.reshape(own.shape)
        elif owner.shape == own.shape and tie.axes == tuple(range(len(tie.axes))):
            out[tie.name] = owner
    return out
