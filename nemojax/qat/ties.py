"""Parameters that are read in several places, and must go on being one while they are trained.

Who reads the same parameter follows from the function, not from its numbers: what is equal when all
parameters are drawn at random (a kernel that starts as its own transpose is not, a bias that starts at 0 is).
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..interpreter import Folded, fold
from ..quantized import QuantizedNetwork


class Tie(NamedTuple):
    """A place in `Folded` that reads another one, transposed and reshaped; hashed by value."""

    part: Literal["kernels", "biases", "constants"]
    name: str
    owner: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]


def ties(network: QuantizedNetwork) -> tuple[Tie, ...]:
    """Of a network with concrete arrays.

    Operations into which different batch norms are folded share no numbers any more, and are no tie; nor are
    biases that were corrected apart.
    """
    operations = network.workload.operations
    drawn = jax.jit(fold, static_argnums=0)(network.workload, _drawn(network.traced.params))  # as `quantize`
    found: list[Tie | None] = []
    for i, op in enumerate(operations):
        if op.weight_point < 0 or op.w_id in (-1, i):
            continue
        owner = operations[op.w_id].name
        kernel = _tie("kernels", op.name, owner, drawn, network.folded)
        if kernel is not None:
            found.append(kernel)
            if owner in drawn.biases and op.name in drawn.biases:
                found.append(_tie("biases", op.name, owner, drawn, network.folded))
    first: dict[bytes, str] = {}  # numbers of a parameter -> where it is read first
    for name, array in drawn.constants.items():
        owner = first.setdefault(np.asarray(array).tobytes(), name)
        if owner != name:
            found.append(_tie("constants", name, owner, drawn, network.folded))
    return tuple(tie for tie in found if tie is not None)


def _drawn(shapes: Any) -> Any:
    """Parameters that no function of others equals by chance; positive, as variances are."""
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> Array:
        real = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape) if real else np.zeros(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, shapes)


def _tie(part: Any, name: str, owner: str, drawn: Folded, folded: Folded) -> Tie | None:
    """None where no view of the owner's numbers is the other's, drawn or as they are."""
    own, other = (np.asarray(getattr(drawn, part)[n]) for n in (name, owner))
    now, then = (np.asarray(getattr(folded, part)[n]) for n in (name, owner))
    for axes in permutations(range(other.ndim)) if own.size == other.size else ():
        if all(np.array_equal(a.transpose(axes).reshape(b.shape), b) for a, b in ((other, own), (then, now))):
            return Tie(part, name, owner, axes, own.shape)
    return None


def tied(folded: Folded, ties: tuple[Tie, ...]) -> Folded:
    """With the owners' numbers wherever they are read."""
    parts = {name: dict(part) for name, part in folded._asdict().items()}
    for tie in ties:
        part = parts[tie.part]
        part[tie.name] = part[tie.owner].transpose(tie.axes).reshape(tie.shape)
    return Folded(**parts)


def tied_ranges(learned: Mapping[str, Array], ties: tuple[Tie, ...]) -> dict[str, Array]:
    """What is learned of the owners' ranges for all that read their kernels; where the two lie along
    different axes, each keeps its own.
    """
    out = dict(learned)
    for tie in ties:
        if tie.part == "kernels":
            owner, own = learned[tie.owner].transpose(tie.axes), learned[tie.name]
            if owner.size == own.size == 1:
                out[tie.name] = owner.reshape(own.shape)
            elif owner.shape == own.shape:
                out[tie.name] = owner
    return out
