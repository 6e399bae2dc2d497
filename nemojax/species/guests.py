"""Guests: members of the archive as parents in a species that can encode any configuration.

Ours; in the paper species never meet. The archive holds the front of all species, so that what one finds
the direct species refine, gene by gene.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from ..archive import Archive

TRIES = 6  # guests drawn for a second parent
MOST = 0.25  # share of genes that a visit changes at most, in the mean

Step = Callable[
    [Array, Array], Array
]  # genes (n,), directions (n,) of -1, 0 or 1 -> genes one choice further


@struct.dataclass
class Guests:
    """The first `count` rows are there."""

    genes: jax.Array  # (A, n) float
    costs: jax.Array  # (A, M), each objective's span on the archive is 1
    count: jax.Array  # () int32


class Pairs(NamedTuple):
    """p pairs of parents, and which of them are guests."""

    first: Float[Array, "p n"]
    second: Float[Array, "p n"]
    invited: Bool[Array, " p"]


def from_archive(archive: Archive, encode: Callable[[Array], Array]) -> Guests:
    """The archive's members as genotypes."""
    valid = archive.valid[:, None]
    low = jnp.min(jnp.where(valid, archive.costs, jnp.inf), axis=0)
    span = jnp.max(jnp.where(valid, archive.costs, -jnp.inf), axis=0) - low
    span = jnp.where(jnp.isfinite(span) & (span > 0), span, 1)
    costs = jnp.where(valid, archive.costs, 0) / span[None]
    return Guests(encode(archive.bits), costs, jnp.sum(archive.valid, dtype=jnp.int32))


def invite(
    key: jax.Array,
    first: Float[Array, "p n"],
    second: Float[Array, "p n"],
    guests: Guests,
    rate: jax.Array | float,
) -> Pairs:
    """Some of p pairs replaced: by a guest drawn uniformly, and of `TRIES` more the nearest to it in cost."""
    k_pair, k_draw = jax.random.split(key)
    pairs = first.shape[0]
    invited = (jax.random.uniform(k_pair, (pairs,)) < rate) & (guests.count > 0)
    drawn = jax.random.randint(k_draw, (pairs * (1 + TRIES),), 0, jnp.maximum(guests.count, 1))
    one, others = drawn[:pairs], drawn[pairs:].reshape(pairs, TRIES)
    gap = jnp.sum((guests.costs[others] - guests.costs[one][:, None]) ** 2, axis=2)
    gap = jnp.where(others == one[:, None], jnp.inf, gap)
    two = others[jnp.arange(pairs), jnp.argmin(gap, axis=1)]
    return Pairs(
        jnp.where(invited[:, None], guests.genes[one], first),
        jnp.where(invited[:, None], guests.genes[two], second),
        invited,
    )


def stepped(key: jax.Array, genes: Float[Array, "k n"], step: Step) -> Float[Array, "k n"]:
    """Each of k members with some genes one choice up or down, at least one.

    Every second member moves one gene, a neighbour of its parent. The others draw a share of genes,
    log-uniform between 1/n and 1, at most `MOST`: where evaluations are few, larger moves get further.
    """
    k_rate, k_gene, k_one = jax.random.split(key, 3)
    count, n = genes.shape
    place = 2 * jax.random.uniform(k_rate, (count, 1))
    rate = jnp.where(place < 1, 0, jnp.minimum(float(n) ** (1 - place), MOST))
    draw = jax.random.uniform(k_gene, (count * n,)).reshape(count, n)
    one = jnp.arange(n)[None] == jax.random.randint(k_one, (count, 1), 0, n)
    # Below the rate a draw's place is uniform again: it decides the direction.
    up = draw < rate / 2
    direction = jnp.where((draw < rate) | one, jnp.where(up, 1, -1), 0)
    direction = jnp.where(one & (draw >= rate), jnp.where(draw < (1 + rate) / 2, 1, -1), direction)
    return jax.vmap(step)(genes, direction.astype(genes.dtype))
