"""Which of a species' parents and children live on."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from .species.protocol import Survivors


def survivors(position: Int[Array, "2 C"], live: Int[Array, ""], worst: float, refill: str) -> Survivors:
    """The best C of a species' parents and children; places that they do not fill are refilled.

    Args:
        position: in the joint order; -1 for those that were not evaluated: the dead, and children beyond
            the living.
    """
    slots = position.shape[1]
    ranked = position.reshape(-1)
    evaluated = ranked >= 0
    # Positions are all different: counting sorts them, many times as fast as a sort.
    taken = jnp.zeros(int(worst), jnp.int32).at[jnp.where(evaluated, ranked, int(worst))].set(1, mode="drop")
    before = jnp.cumsum(taken)[ranked] - 1
    # Behind the evaluated come children that nobody evaluated yet: parents that cost no evaluation.
    never = jnp.roll(jnp.cumsum(jnp.roll(~evaluated, slots)), slots) + jnp.sum(evaluated) - 1
    place = jnp.where(evaluated, before, never)
    best = jnp.zeros(2 * slots, jnp.int32).at[place].set(jnp.arange(2 * slots, dtype=jnp.int32))[:slots]
    if refill == "repeats":  # start again with the best, as copies that rank like them
        have = jnp.minimum(jnp.sum(evaluated), slots)
        index = jnp.arange(slots)
        best = best[jnp.where((index < have) | (index >= live), index, index % jnp.maximum(have, 1))]
    fitness = jnp.where(evaluated, ranked.astype(jnp.float32), worst)
    kept = jnp.where(jnp.arange(slots) < live, fitness[best], worst)
    return Survivors(best, fitness[:slots], fitness[slots:], kept, live)


def spread(values: Array, places: Int[Array, " N"], kinds: int, slots: int, empty: int | float) -> Array:
    """(S, C, ...): N values at their places, `empty` elsewhere."""
    table = jnp.full((kinds * slots, *values.shape[1:]), empty, values.dtype)
    return table.at[places].set(values).reshape(kinds, slots, *values.shape[1:])
