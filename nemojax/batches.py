"""Inputs of a network: one array, or any pytree of arrays that share their leading axis, one row a sample."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Inputs = Any  # pytree of arrays (N, ...)


def count(inputs: Inputs) -> int:
    """N, the samples of a batch.

    Raises:
        ValueError: there is no array, one has no leading axis, or their lengths differ.
    """
    leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
    if not leaves:
        raise ValueError("inputs hold no array: give one, or a pytree of arrays (N, ...)")
    shapes = {jax.tree_util.keystr(path) or "inputs": np.shape(leaf) for path, leaf in leaves}
    for name, shape in shapes.items():
        if not shape:
            raise ValueError(f"{name} is a single number: the leading axis must be the samples")
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"inputs must have equally many rows, got {lengths}")
    return next(iter(lengths.values()))


def take(inputs: Inputs, index: Any) -> Inputs:
    """The rows at `index`: a slice, or an array of places."""
    return jax.tree.map(lambda leaf: leaf[index], inputs)


def chunks(inputs: Inputs, size: int) -> Iterator[tuple[slice, Inputs]]:
    """(rows, exactly `size` samples) of all inputs in order; the last chunk is filled up with its own last
    sample, of which `rows` does not tell, so that one shape is compiled."""
    total = count(inputs)
    for start in range(0, total, size):
        places = np.minimum(np.arange(start, start + size), total - 1)
        yield slice(start, min(start + size, total)), take(inputs, places)


def standard(inputs: Inputs) -> Inputs:
    """As device arrays: real numbers in float32, whole ones in int32, masks as they are."""

    def convert(leaf: Any) -> jax.Array:
        kind = np.dtype(jnp.result_type(leaf)).kind
        return jnp.asarray(leaf, {"i": jnp.int32, "u": jnp.int32, "b": jnp.bool_}.get(kind, jnp.float32))

    return jax.tree.map(convert, inputs)


def specs(inputs: Inputs) -> Any:
    """Shape and type of one sample, as a pytree of ShapeDtypeStruct without the leading axis."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)


def fitting(inputs: Inputs, sample: Any) -> Inputs:
    """`standard(inputs)`, if they are at least one sample like `sample` (of `specs`).

    Raises:
        ValueError: another structure or shape, or no sample; the message names the leaf.
    """
    wanted: Any = jax.tree.structure(sample)
    found: Any = jax.tree.structure(inputs)
    if wanted != found:
        raise ValueError(f"inputs are {_kind(found)}, the network was traced for {_kind(wanted)}")
    if count(inputs) < 1:
        raise ValueError("inputs are empty: give at least one sample")
    inputs = standard(inputs)
    leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
    for (path, leaf), spec in zip(leaves, jax.tree.leaves(sample), strict=True):
        name = jax.tree_util.keystr(path) or "inputs"
        if leaf.shape[1:] != spec.shape or leaf.dtype != spec.dtype:
            raise ValueError(
                f"{name} has shape {leaf.shape} and type {leaf.dtype}, the network was traced for "
                f"{('N', *spec.shape)} of {spec.dtype}"
            )
    return inputs


def check_finite(inputs: Inputs) -> None:
    """ValueError for inputs with NaN or infinity, by the first such sample."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(inputs)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            fine = np.asarray(jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1))
            if not fine.all():
                name = jax.tree_util.keystr(path) or "inputs"
                first = f"{name}[{int(np.argmin(fine))}]"
                raise ValueError(f"{first} holds NaN or infinity: leave such samples out, or mend them")


def _kind(structure: Any) -> str:
    return "one array" if structure == jax.tree.structure(0) else str(structure)
