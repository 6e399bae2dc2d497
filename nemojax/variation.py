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
        # exp(e log x) for xᵉ: XLA:CPU takes twice as long for a power.
        alpha = 2 - jnp.exp(-(eta + 1) * jnp.log(1 + 2 * room / gap))
        base = jnp.where(u <= 1 / alpha, u * alpha, 1 / (2 - u * alpha))
        return jnp.exp(jnp.log(base) / (eta + 1)) * gap

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
    pair_rate: Number | Float[Array, "k 1"],
    gene_rate: Number,
) -> tuple[Float[Array, "k n"], Float[Array, "k n"]]:
    """Two children each of k pairs of parents a and b.

    Args:
        pair_rate: probability that a pair is crossed at all, one for all or one each.
        gene_rate: probability that a gene of a crossed pair is; its two children are then dealt
            to the two members at random.
    """
    draws = jax.random.uniform(key, (a.shape[0] * (1 + a.shape[1]),), a.dtype)
    pair = draws[: a.shape[0], None]
    # One draw a gene decides three things: below the rate the gene is crossed, and then its place below
    # the rate is uniform again, half for each way of dealing, and inside a half uniform once more.
    gene = draws[a.shape[0] :].reshape(a.shape)
    crossed = (pair < pair_rate) & (gene < gene_rate)
    place = 2 * gene / jnp.maximum(gene_rate, jnp.finfo(a.dtype).tiny)
    kept = place < 1
    spread = jnp.clip(jnp.where(kept, place, place - 1), 0, 1 - jnp.finfo(a.dtype).epsneg)
    lower, upper = jax.vmap(sbx_children, (0, 0, 0, None, None, None))(spread, a, b, low, high, eta)
    return (
        jnp.where(crossed, jnp.where(kept, lower, upper), a),
        jnp.where(crossed, jnp.where(kept, upper, lower), b),
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
    down = u <= 0.5
    # The two formulas are mirror images: one serves both. Small steps are worked out with log1p and expm1:
    # the plain powers cancel near a bound, and in float32 a gene would come no nearer to it than 1e-7.
    v, d = jnp.where(down, u, 1 - u), jnp.where(down, x - low, high - x) / width
    rest = (eta + 1) * jnp.log1p(-jnp.clip(d, 0, 1))  # log (1 − d)^(η+1)
    covered = -jnp.expm1(rest)
    log_base = jnp.where(
        covered < 0.5, jnp.log1p((2 * v - 1) * covered), jnp.log(jnp.exp(rest) + 2 * v * covered)
    )
    step = -jnp.expm1(log_base / (eta + 1))
    moved = x + jnp.where(down, -step, step) * width
    return jnp.where(free, jnp.clip(moved, low, high), x)


def polynomial_mutation(
    key: jax.Array,
    x: Float[Array, "k n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    eta: Number,
    gene_rate: Number | Float[Array, " n"],
    most: int | None = None,
) -> Float[Array, "k n"]:
    """Each gene of k members mutated with probability `gene_rate`, one for all or one each, independently.

    Args:
        most: genes of a member that are mutated at most, see `most_mutated`; `gene_rate` must be one number.
            The gaps between mutated genes are drawn, not the genes: work grows with `most`, not with n.
    """
    if most is not None:
        return _mutated_at_gaps(key, x, low, high, eta, jnp.asarray(gene_rate, x.dtype), most)
    draw = _uniform(key, x.shape, x.dtype)
    rate = jnp.broadcast_to(jnp.asarray(gene_rate, x.dtype), x.shape[1:])[None]
    # Below the rate, a draw's place below it is uniform in [0, 1): a second draw is not needed.
    move = draw / jnp.maximum(rate, jnp.finfo(x.dtype).tiny)
    moved = jax.vmap(mutated, (0, 0, None, None, None))(jnp.minimum(move, 1), x, low, high, eta)
    return jnp.where(draw < rate, moved, x)


def most_mutated(count: int, gene_rate: float) -> int | None:
    """Of `count` genes, more than so many are mutated in fewer than one member of 10⁹; none: about all."""
    if gene_rate >= 0.25:
        return None
    tail, most, chance = 1.0, 0, (1 - gene_rate) ** count  # of exactly `most`
    while 4 * most <= count:
        tail -= chance
        if tail <= 1e-9:
            return max(most, 1)
        chance *= (count - most) / (most + 1) * gene_rate / (1 - gene_rate)
        most += 1
    return None


def _mutated_at_gaps(
    key: jax.Array,
    x: Float[Array, "k n"],
    low: Float[Array, " n"],
    high: Float[Array, " n"],
    eta: Number,
    rate: Float[Array, ""],
    most: int,
) -> Float[Array, "k n"]:
    count, n = x.shape
    gap_draw, move = _uniform(key, (2, count, most), x.dtype)
    # Between independent events of one rate the gaps are geometric.
    gaps = jnp.log1p(-gap_draw) / jnp.log1p(-rate)
    gaps = jnp.where(rate > 0, jnp.minimum(gaps, n), n)
    place = jnp.cumsum(jnp.floor(gaps).astype(jnp.int32) + 1, axis=1) - 1
    row = jnp.arange(count, dtype=jnp.int32)[:, None]
    at = jnp.minimum(place, n - 1)
    moved = jax.vmap(mutated, (0, 0, 0, 0, None))(move, x[row, at], low[at], high[at], eta)
    return x.at[row, place].set(moved, mode="drop", unique_indices=True)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """jax.random.uniform, drawn flat: XLA:CPU compiles a draw along several axes four times as long."""
    return jax.random.uniform(key, (prod(shape),), dtype).reshape(shape)
