"""Which sample of its class each sample is the change of: references, drawn anew each epoch under jit."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..distances import squared_distances
from ..training.batches import class_table
from .config import PAIRS


def make_pairs(
    key: PRNGKeyArray,
    labels: Int[Array | np.ndarray, " N"],
    policy: str = "random",
    nearest: Int[Array | np.ndarray, " N"] | None = None,
) -> Int[Array, " N"]:
    """Row of each sample's reference y; classes may be of any sizes, labels any whole numbers.

    Each is a bijection within the classes, but for "nearest" and "shuffled_labels".

    Args:
        policy: "random": a uniform permutation of each class, so that a sample may be its own reference
            (the authors' code). "no_self": the next one around a random circle of the class; a class of one
            sample has no other. "nearest": as given. "shuffled_labels": random pairs after the labels were
            permuted, so that references are of any class.
        nearest: of `nearest_pairs`, for that policy.

    Raises:
        ValueError: no such policy, or "nearest" without its rows.
    """
    if policy not in PAIRS:
        raise ValueError(f"policy must be one of {', '.join(PAIRS)}, got {policy!r}")
    if policy == "nearest":
        if nearest is None:
            raise ValueError("policy 'nearest' needs nearest: the rows that nearest_pairs gives")
        return jnp.asarray(nearest, jnp.int32)
    labels = jnp.asarray(labels)
    if policy == "shuffled_labels":
        k_labels, key = jax.random.split(key)
        labels = jax.random.permutation(k_labels, labels)
    noise = jax.random.bits(key, labels.shape, jnp.uint32)
    shuffled = jnp.lexsort((noise, labels)).astype(jnp.int32)  # by class, in random order within each
    if policy == "no_self":
        of_class = labels[shuffled]
        slots = shuffled
        ahead = jnp.roll(shuffled, -1)
        ends = jnp.concatenate([of_class[1:] != of_class[:-1], jnp.ones(min(1, len(labels)), bool)])
        first = jnp.searchsorted(of_class, of_class, side="left")
        partners = jnp.where(ends, shuffled[first], ahead)
    else:
        slots, partners = jnp.argsort(labels, stable=True), shuffled
    return jnp.zeros(labels.shape, jnp.int32).at[slots].set(partners)


def nearest_pairs(
    features: Float[Array | np.ndarray, "N D"], labels: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """Row of each sample's nearest other one of its class, by Euclidean distance; ties: the lowest row.

    A class of one sample has itself.
    """
    _, of_class = np.unique(labels, return_inverse=True)
    table, counts = class_table(of_class, int(of_class.max(initial=-1)) + 1)
    there = np.arange(table.shape[1])[None] < counts[:, None]
    columns = np.asarray(_nearest(jnp.asarray(features), jnp.asarray(table), jnp.asarray(there)))
    found = np.zeros(len(of_class), np.int32)
    found[table[there]] = np.take_along_axis(table, columns, axis=1)[there]
    return found


@jax.jit
def _nearest(
    features: Float[Array, "N D"], table: Int[Array, "C P"], there: Bool[Array, "C P"]
) -> Int[Array, "C P"]:
    """Place of the nearest other example within each class, class after class."""

    def one(item: tuple[Array, Array]) -> Array:
        rows, mask = item
        x = features[rows]
        far = jnp.where(mask[None] & ~jnp.eye(len(rows), dtype=bool), squared_distances(x, x), jnp.inf)
        alone = jnp.sum(mask) < 2
        return jnp.where(alone, jnp.arange(len(rows)), jnp.argmin(far, axis=1))

    return jax.lax.map(one, (table, there))
