"""Bounded simulated binary crossover and polynomial mutation (Deb & Agrawal 1995; Deb & Deb 2014).

Genes are real numbers within [low, high]; a gene with low == high is pinned and never changes. The
formulas take one pair or one member and their uniform draws as arguments. The operators take k of
them, since one draw of random numbers for all compiles and runs faster than one for each.
"""

from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Number = Float[Array, ""] | float


def sbx_children(
    u: Float[Array, " n"],
    a: Float[Array, " n"],
    b: Float[Array, " n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    eta: Number,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The lower and the upper child of each gene, for one uniform draw u in [0, 1) each.

    With x1 < x2 the parents, β = 1 + 2 (x1 − low)/(x2 − x1), α = 2 − β^−(η+1), and
    β_q = (u α)^(1/(η+1)) if u ≤ 1/α, else (1/(2 − u α))^(1/(η+1)):
    lower = (x1 + x2 − β_q (x2 − x1))/2. The upper child is its mirror image, with (high − x2) in β.
    Equal parents give themselves.
    """
    x1, x2 = jnp.minimum(a, b), jnp.maximum(a, b)
    gap = jnp.where(x2 > x1, x2 - x1, 1)  # both branches of a `where` are evaluated: no 0/0 in either

    def spread(room):
        alpha = 2 - (1 + 2 * room / gap) ** -(eta + 1)
        base = jnp.where(u <= 1 / alpha, u * alpha, 1 / (2 - u * alpha))
        return base ** (1 / (eta + 1)) * gap

    lower = jnp.clip(0.5 * (x1 + x2 - spread(x1 - low)), low, high)
    upper = jnp.clip(0.5 * (x1 + x2 + spread(high - x2)), low, high)
    same = x1 == x2
    return jnp.where(same, x1, lower), jnp.where(same, x2, upper)


def sbx(
    key: jax.Array,
    a: Float[Array, "k n"],
    b: Float[Array, "k n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    eta: Number,
    pair_rate: Number,
    gene_rate: Number,
) -> tuple[Float[Array, "k n"], Float[Array, "k n"]]:
    """Two children each of k pairs of parents a and b.

    Args:
        pair_rate: probability that a pair is crossed at all.
        gene_rate: probability that a gene of a crossed pair is; its two children are then dealt
            to the two members at random.
    """
    pair, gene, spread, deal = _uniform(key, (4, *a.shape), a.dtype)
    crossed = (pair[:, :1] < pair_rate) & (gene < gene_rate)
    lower, upper = jax.vmap(sbx_children, (0, 0, 0, None, None, None))(spread, a, b, low, high, eta)
    return (
        jnp.where(crossed, jnp.where(deal < 0.5, lower, upper), a),
        jnp.where(crossed, jnp.where(deal < 0.5, upper, lower), b),
    )


def mutated(
    u: Float[Array, " n"],
    x: Float[Array, " n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    eta: Number,
) -> Float[Array, " n"]:
    """Every gene moved by bounded polynomial mutation, for one uniform draw u in [0, 1) each.

    x + δ (high − low), where with d1 = (x − low)/(high − low), d2 = (high − x)/(high − low):
    δ = [2u + (1 − 2u)(1 − d1)^(η+1)]^(1/(η+1)) − 1 if u ≤ 1/2,
    else 1 − [2(1 − u) + 2(u − 1/2)(1 − d2)^(η+1)]^(1/(η+1)).
    """
    free = high > low
    width = jnp.where(free, high - low, 1)
    d1, d2 = jnp.clip((x - low) / width, 0, 1), jnp.clip((high - x) / width, 0, 1)
    power = 1 / (eta + 1)
    down = (2 * u + (1 - 2 * u) * (1 - d1) ** (eta + 1)) ** power - 1
    up = 1 - (2 * (1 - u) + 2 * (u - 0.5) * (1 - d2) ** (eta + 1)) ** power
    moved = x + jnp.where(u <= 0.5, down, up) * width
    return jnp.where(free, jnp.clip(moved, low, high), x)


def polynomial_mutation(
    key: jax.Array,
    x: Float[Array, "k n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    eta: Number,
    gene_rate: Number,
) -> Float[Array, "k n"]:
    """Each gene of k members mutated with probability `gene_rate`, independently."""
    which, move = _uniform(key, (2, *x.shape), x.dtype)
    moved = jax.vmap(mutated, (0, 0, None, None, None))(move, x, low, high, eta)
    return jnp.where(which < gene_rate, moved, x)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """jax.random.uniform, drawn flat: XLA:CPU compiles a draw along several axes four times as long."""
    return jax.random.uniform(key, (prod(shape),), dtype).reshape(shape)
