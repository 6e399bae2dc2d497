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
    draw = uniform_index(jax.random.uniform(key, (size * num,)), jnp.sum(live)).reshape(size, num)
    best, *others = packed[draw].astype(jnp.int32)
    for other in others:
        one, two = fitness[other], fitness[best]
        best = jnp.where((one < two) | ((one == two) & (other < best)), other, best)
    return jnp.where(jnp.any(live), best, 0)


def repeats(rows: Int[Array, "n ..."]) -> Bool[Array, " n"]:
    """Whether a row is equal to an earlier one."""
    axes = tuple(range(2, rows.ndim + 1))
    same = jnp.all(rows[:, None] == rows[None], axis=axes)
    return jnp.any(same & jnp.tril(jnp.ones_like(same), -1), axis=1)


def uniform_index(draw: Float[Array, "..."], count: Int[Array, ""] | int) -> Int[Array, "..."]:
    """Whole numbers 0 ... count-1, uniform for uniform draws in [0, 1); 0 if count is 0.

    Two draws of bits fewer than jax.random.randint; count must be small beside 2²³.
    """
    count = jnp.asarray(count, jnp.int32)
    return jnp.clip((draw * count.astype(draw.dtype)).astype(jnp.int32), 0, jnp.maximum(count - 1, 0))
