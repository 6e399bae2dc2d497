"""A species that bargains: each quantizer takes the bit-width that its sensitivity is worth at given prices.

Ours; not in the paper. A genotype holds two prices, of a parameter's bit and of a bit-operation, each as its
place from 0 to 1 between the lowest and the highest useful one on a log scale, and the logarithms of one
factor per quantizer on its sensitivity. Two genes thus move a member along the
whole trade-off, and the factors correct a table that was measured one quantizer at a time (they are 1 where
it is right). This is the Lagrangian of the knapsack of `baselines.knapsack`, with its numbers evolved.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..prices import Prices, bargain, bargains, predicted, price_range
from ..space import BitSpace
from ..subset import most_hypervolume
from .direct import DirectBits
from .protocol import Setting, Species

FACTOR = 4.6  # bounds of the logarithm of a factor: 1/100 to 100
PRICE_RATE, FACTOR_GENES = 0.5, 2.0  # mutated: share of the price genes; factors per child, in the mean


def priced(setting: Setting) -> Species:
    """Two prices and n factors; tournaments, SBX and polynomial mutation as in the direct species.

    Raises:
        ValueError: no prices, since no sensitivity was given, or a space that is none of bit-widths.
    """
    space, prices = setting.space, setting.prices
    if not isinstance(space, BitSpace) or prices is None:
        raise ValueError(
            "species 'priced' needs a BitSpace and a sensitivity table: give warm_start='fisher' to search, "
            "prices=Prices.of(...) to nemo, or leave the species out"
        )
    n, slots = space.size, setting.slots
    own = (Prices(*map(jnp.asarray, prices)), jnp.asarray(price_range(space, prices)))
    low = np.concatenate([np.zeros(2, np.float32), np.full(n, -FACTOR, np.float32)])
    high = np.concatenate([np.ones(2, np.float32), np.full(n, FACTOR, np.float32)])
    best = _best_places(space, prices, slots)
    everyone = not setting.config.resize.rate_limited
    algorithm = DirectBits(slots, low, high, setting.config.direct, everyone)
    rate = np.concatenate([np.full(2, PRICE_RATE), np.full(n, min(1.0, FACTOR_GENES / n))]).astype(np.float32)

    def init(key: jax.Array) -> Float[Array, "C G"]:
        """The prices whose bargains promise the most hypervolume, with factors 1; more of them are uniform,
        with factors that spread up to e, each member by its own.
        """
        k_price, k_spread, k_factor = jax.random.split(key, 3)
        places = jax.random.uniform(k_price, (slots, 2)).at[: len(best)].set(best)
        spread = jax.random.uniform(k_spread, (slots, 1)).at[: len(best)].set(0)
        factors = spread * jax.random.normal(k_factor, (slots, n))
        genes = jnp.concatenate([places, factors], axis=1)
        return jnp.clip(genes, low[None], high[None])

    def decode(
        key: jax.Array,
        genotypes: Float[Array, "C G"],
        live: Int[Array, ""] | int,
        data: tuple[Prices, Float[Array, "2 2"]] = own,
    ) -> Int[Array, "C n"]:
        prices, ends = data
        least, most = ends[:, 0], ends[:, 1]
        return jax.vmap(lambda g: bargain(space, prices, least + g[:2] * (most - least), g[2:]))(genotypes)

    return Species(
        algorithm=algorithm,
        params=algorithm.default_params.replace(mutation_rate=jnp.asarray(rate)),
        init=init,
        decode=decode,
        encode=None,
        data=own,
    )


def _best_places(space: BitSpace, prices: Prices, count: int) -> Float[np.ndarray, "k 2"]:
    ends = price_range(space, prices)
    logs, rows = bargains(space, prices)
    rows, first = np.unique(rows, axis=0, return_index=True)
    costs = predicted(space, prices, rows)
    chosen = most_hypervolume(costs / np.maximum(costs.max(axis=0), 1e-30), count)
    span = np.maximum(ends[:, 1] - ends[:, 0], 1e-30)
    return ((logs[first[chosen]] - ends[:, 0]) / span).clip(0, 1).astype(np.float32)
