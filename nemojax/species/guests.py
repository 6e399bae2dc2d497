"""Guests: members of the archive as parents in a species that can encode any configuration.

Ours; in the paper species never meet. The archive holds the front of all species, so that what one finds
the direct species refine, gene by gene.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from egrljax import uniform_index

from ..archive import Archive

TRIES = 6  # guests drawn for a second parent
MOST = 0.25  # share of genes that a visit changes at most, in the mean

Step = Callable[
    [Array, Array], Array
]  # genes (n,), directions (n,) of -1, 0 or 1 -> genes one choice further


@struct.dataclass
class Guests:
    """The first `count` rows are there."""

    bits: jax.Array  # (A, n) int32
    costs: jax.Array  # (A, M), each objective's span on the archive is 1
    count: jax.Array  # () int32


def from_archive(archive: Archive) -> Guests:
    """The archive's members."""
    valid = archive.valid[:, None]
    low = jnp.min(jnp.where(valid, archive.costs, jnp.inf), axis=0)
    span = jnp.max(jnp.where(valid, archive.costs, -jnp.inf), axis=0) - low
    span = jnp.where(jnp.isfinite(span) & (span > 0), span, 1)
    costs = jnp.where(valid, archive.costs, 0) / span[None]
    return Guests(archive.bits, costs, jnp.sum(archive.valid, dtype=jnp.int32))


def invite(
    key: jax.Array, first: Float[Array, "p n"], second: Float[Array, "p n"], guests: Guests
) -> tuple[Float[Array, "p n"], Float[Array, "p n"]]:
    """Pairs of guests: one drawn uniformly, and of `TRIES` more the nearest to it in cost. Genes are bits.

    Where there are none, the pairs `first` and `second`.
    """
    pairs = first.shape[0]
    drawn = uniform_index(jax.random.uniform(key, (pairs * (1 + TRIES),)), guests.count)
    one, others = drawn[:pairs], drawn[pairs:].reshape(pairs, TRIES)
    gap = jnp.sum((guests.costs[others] - guests.costs[one][:, None]) ** 2, axis=2)
    gap = jnp.where(others == one[:, None], jnp.inf, gap)
    two = others[jnp.arange(pairs), jnp.argmin(gap, axis=1)]
    some = guests.count > 0

    def seat(row: Array, host: Array) -> Array:
        return jnp.where(some, guests.bits[row].astype(host.dtype), host)

    return seat(one, first), seat(two, second)


def stepped(
    key: jax.Array, genes: Float[Array, "k n"], step: Step, free: Int[np.ndarray, " f"]
) -> Float[Array, "k n"]:
    """Each of k members with some genes one choice up or down, at least one of the `free` ones.

    The first half of them move one gene, neighbours of their parents. The others draw a share of genes,
    log-uniform between 1/n and 1, at most `MOST`: where evaluations are few, larger moves get further.
    """
    count, n = genes.shape
    far = count // 2
    draws = jax.random.uniform(key, (count + far + far * n,))
    gene, share, draw = jnp.split(draws, (count, count + far))
    place = uniform_index(gene, 2 * len(free))[:, None]  # each gene has two ways
    one = jnp.arange(n)[None] == jnp.asarray(free)[place // 2]
    direction = jnp.where(one, jnp.where(place % 2 == 0, 1, -1), 0)
    rate = jnp.minimum(float(n) ** -share[:, None], MOST)
    draw = draw.reshape(far, n)
    # Below the rate a draw's place is uniform again: it decides the direction.
    further = jnp.where(draw < rate, jnp.where(draw < rate / 2, 1, -1), direction[count - far :])
    direction = jnp.concatenate([direction[: count - far], further])
    return jax.vmap(step)(genes, direction.astype(genes.dtype))
