"""Bounded simulated binary crossover and polynomial mutation (Deb & Agrawal 1995; Deb & Deb 2014).

All functions take one pair or one member of n real genes within [low, high]; a gene with
low == high is pinned and never changes. The formulas take their uniform draws as arguments.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    a: Float[Array, " n"],
    b: Float[Array, " n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    eta: Number,
    pair_rate: Number,
    gene_rate: Number,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Two children of parents a and b.

    Args:
        pair_rate: probability that the pair is crossed at all.
        gene_rate: probability that a gene of a crossed pair is; its two children are then dealt
            to the two members at random.
    """
    k_pair, k_gene, k_spread, k_deal = jax.random.split(key, 4)
    shape = a.shape
    crossed = jax.random.bernoulli(k_pair, pair_rate) & jax.random.bernoulli(k_gene, gene_rate, shape)
    lower, upper = sbx_children(jax.random.uniform(k_spread, shape, a.dtype), a, b, low, high, eta)
    deal = jax.random.bernoulli(k_deal, 0.5, shape)
    return (
        jnp.where(crossed, jnp.where(deal, lower, upper), a),
        jnp.where(crossed, jnp.where(deal, upper, lower), b),
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
    x: Float[Array, " n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    eta: Number,
    gene_rate: Number,
) -> Float[Array, " n"]:
    """Each gene mutated with probability `gene_rate`, independently."""
    k_which, k_move = jax.random.split(key)
    chosen: Bool[Array, " n"] = jax.random.bernoulli(k_which, gene_rate, x.shape)
    return jnp.where(chosen, mutated(jax.random.uniform(k_move, x.shape, x.dtype), x, low, high, eta), x)
