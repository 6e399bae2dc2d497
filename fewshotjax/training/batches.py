"""Which examples a step sees, and how they are moved: pure functions of keys, under jit."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num, PRNGKeyArray


def class_table(
    labels: Int[np.ndarray, " N"], classes: int
) -> tuple[Int[np.ndarray, "classes P"], Int[np.ndarray, " classes"]]:
    """Rows of each class, padded with zeros to the largest one, and how many there are."""
    counts = np.bincount(labels, minlength=classes).astype(np.int32)
    table = np.zeros((classes, max(1, int(counts.max(initial=0)))), np.int32)
    for label in range(classes):
        table[label, : counts[label]] = np.flatnonzero(labels == label)
    return table, counts


def balanced(
    key: PRNGKeyArray,
    table: Int[Array, "classes P"],
    counts: Int[Array, " classes"],
    ways: int,
    per_class: int,
) -> Int[Array, " B"]:
    """Rows of `ways` classes, `per_class` of each, all drawn without replacement; class after class.

    By the largest of Gumbel noise, which are a uniform sample (Efraimidis & Spirakis 2006). Classes without
    examples are never drawn; every other one must have `per_class`, see `train`.
    """
    k_ways, k_rows = jax.random.split(key)
    _, chosen = jax.lax.top_k(jnp.where(counts > 0, jax.random.gumbel(k_ways, counts.shape), -jnp.inf), ways)
    noise = jax.random.gumbel(k_rows, (ways, table.shape[1]))
    there = jnp.arange(table.shape[1])[None] < counts[chosen][:, None]
    _, columns = jax.lax.top_k(jnp.where(there, noise, -jnp.inf), per_class)
    return jnp.take_along_axis(table[chosen], columns, axis=1).reshape(-1)


def shifted(
    key: PRNGKeyArray, images: Num[Array, "B H W C"], padding: int, mirror: bool
) -> Num[Array, "B H W C"]:
    """Each image moved by up to `padding` pixels both ways, its border repeated; half of them mirrored.

    The usual crop of an image padded with black (He et al. 2016), but for the repeated border: black frames
    would be strokes in images of characters on white.
    """
    k_rows, k_columns, k_mirror = jax.random.split(key, 3)
    batch, height, width, _ = images.shape

    def places(key: PRNGKeyArray, size: int) -> Int[Array, "B size"]:
        shift = jax.random.randint(key, (batch, 1), -padding, padding + 1)
        return jnp.clip(jnp.arange(size)[None] + shift, 0, size - 1)

    rows, columns = places(k_rows, height), places(k_columns, width)
    if mirror:
        columns = jnp.where(jax.random.bernoulli(k_mirror, 0.5, (batch, 1)), columns[:, ::-1], columns)
    return images[jnp.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
