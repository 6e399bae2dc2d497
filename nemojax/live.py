"""Work on the living members of a population of fixed capacity."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def rows_of_living(
    make: Callable[[jax.Array], jax.Array], live: Int[Array, ""] | int, capacity: int, chunk: int
) -> jax.Array:
    """(capacity, ...) rows, made `chunk` at a time and only as far as members live; zeros beyond.

    Costs what the living cost, though shapes are fixed. Rows of the last chunk made may lie beyond `live`.

    Args:
        make: () int32, the number i of a chunk -> its rows (chunk, ...), for members i·chunk and on.
    """
    chunk = min(chunk, capacity)
    count = -(-capacity // chunk)
    shape = jax.eval_shape(make, jax.ShapeDtypeStruct((), jnp.int32))
    if shape.shape[0] != chunk:
        raise ValueError(f"make must give {chunk} rows, got shape {shape.shape}")
    empty = jnp.zeros((count, *shape.shape), shape.dtype)
    chunks = (jnp.minimum(live, capacity) + chunk - 1) // chunk
    filled = jax.lax.fori_loop(0, chunks, lambda i, table: table.at[i].set(make(i)), empty)
    return filled.reshape(count * chunk, *shape.shape[1:])[:capacity]
