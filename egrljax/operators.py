"""Genetic operators that know nothing of the genome."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def tournament(
    key: jax.Array,
    fitness: Float[Array, " n"],
    live: Bool[Array, " n"],
    num: int,
    size: int,
) -> Int[Array, " num"]:
    """Winners of `num` tournaments among the live members, as indices into the population, int32.

    Each tournament draws `size` live members uniformly with replacement; the lowest fitness wins,
    ties go to the lowest index. So the best of L live members wins with probability 1 − (1 − 1/L)^size.

    Args:
        fitness: minimised; what dead members hold is never looked at. NaN counts as +inf.
        live: at least one; with none the answer is index 0 throughout.
        num, size: static, at least 1.

    Raises:
        ValueError: num or size below 1.
    """
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    fitness = jnp.where(jnp.isnan(fitness), jnp.inf, fitness)
    packed = jnp.argsort(~live, stable=True)  # live members first, in order of their index
    draw = jax.random.randint(key, (num * size,), 0, jnp.maximum(jnp.sum(live), 1)).reshape(num, size)
    entrants = jnp.sort(packed[draw], axis=1)
    winner = jnp.argmin(fitness[entrants], axis=1)
    return jnp.where(jnp.any(live), entrants[jnp.arange(num), winner], 0).astype(jnp.int32)
