"""A network's parameters as one flat vector, with a note of where each entry belongs."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


@dataclass(frozen=True)
class Genome:
    """P parameters in T tensors, in the order of `jax.tree.leaves`; hashed by structure, names and shapes.

    A tensor of two or more axes is a matrix whose rows are the OUTPUT units, the LAST axis of a flax kernel
    (inputs, outputs). Evolutionary reinforcement learning (Khadka & Tumer 2018) crosses over such rows, which
    its PyTorch code finds on the first axis. A tensor of at most one axis is a bias: every entry is a row.
    """

    structure: jax.tree_util.PyTreeDef
    names: tuple[str, ...]  # of the tensors, as "params/convolution/bias"
    shapes: tuple[tuple[int, ...], ...]  # likewise

    @property
    def size(self) -> int:
        """P."""
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def segments(self) -> Int[np.ndarray, " P"]:
        """The tensor of each entry, int32, 0 to T - 1, ascending."""
        return np.repeat(np.arange(len(self.shapes), dtype=np.int32), self.sizes)

    @cached_property
    def rows(self) -> Int[np.ndarray, " P"]:
        """The row of each entry within its tensor, int32: its output unit."""
        return np.concatenate(
            [np.arange(prod(shape), dtype=np.int32) % (shape[-1] if shape else 1) for shape in self.shapes]
        )

    @cached_property
    def is_bias(self) -> Bool[np.ndarray, " P"]:
        """Whether each entry belongs to a tensor of at most one axis: biases, scales of norms."""
        return np.repeat([len(shape) < 2 for shape in self.shapes], self.sizes)

    @cached_property
    def layers(self) -> Int[np.ndarray, " P"]:
        """The layer of each entry, int32, from 0: tensors that share all of their name but its end."""
        parents = [name.rpartition("/")[0] for name in self.names]
        order = {parent: i for i, parent in enumerate(dict.fromkeys(parents))}
        return np.repeat(np.array([order[parent] for parent in parents], np.int32), self.sizes)

    def ravel(self, params: Any) -> Float[Array, " P"]:
        """The parameters as a vector, tensor after tensor, each in C order; vmap for several.

        Raises:
            ValueError: parameters of another structure or other shapes.
        """
        leaves, structure = jax.tree.flatten(params)
        shapes = tuple(leaf.shape for leaf in leaves)
        if structure != self.structure or shapes != self.shapes:
            raise ValueError(f"params must have the tensors {self._tensors()}, got {structure} with {shapes}")
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])

    def unravel(self, vector: Float[Array, " P"]) -> Any:
        """The parameters of a vector; vmap for several."""
        parts = jnp.split(vector, np.cumsum(self.sizes)[:-1])
        return jax.tree.unflatten(
            self.structure, [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        )

    def _tensors(self) -> dict[str, tuple[int, ...]]:
        return dict(zip(self.names, self.shapes, strict=True))


def genome(params: Any) -> Genome:
    """How a pytree of parameters becomes a vector; its numbers are not looked at.

    Raises:
        ValueError: no tensors, or one that is empty or not float32.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    if not leaves:
        raise ValueError("params must hold at least one tensor, got none")
    names = tuple(jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if leaf.dtype != jnp.float32 or leaf.size == 0:
            raise ValueError(
                f"params must be non-empty float32 tensors, got {name}: {leaf.dtype}{leaf.shape}"
            )
    return Genome(structure, names, tuple(tuple(leaf.shape) for _, leaf in leaves))
