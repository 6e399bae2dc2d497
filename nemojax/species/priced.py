"""A species that bargains: each quantizer takes the bit-width that its sensitivity is worth at given prices.

Ours; not in the paper. A genotype holds two prices, of a parameter's bit and of a bit-operation, each as its
place from 0 to 1 between the lowest and the highest useful one on a log scale, and the logarithms of one
factor per quantizer on its sensitivity. Two genes thus move a member along the
whole trade-off, and the factors correct a table that was measured one quantizer at a time (they are 1 where
it is right). This is the Lagrangian of the knapsack of `baselines.knapsack`, with its numbers evolved.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hwmodel import Workload

from ..baselines.shares import Shares
from ..sensitivity import Sensitivity
from ..space import HIGHEST_BITS, BitSpace
from .direct import DirectBits
from .protocol import Setting, Species

FACTOR = 4.6  # bounds of the logarithm of a factor: 1/100 to 100
PRICE_RATE, FACTOR_GENES = 0.5, 2.0  # mutated: share of the price genes; factors per child, in the mean
SWEEPS = 2


class Prices(NamedTuple):
    """What a bit costs and saves: n quantizers, B choices, L operations with weights."""

    noise: Float[Any, "n B"]  # sensitivity at each of the space's choices; +inf where there is none
    size: Float[Any, " n"]  # share of model_ratio that a bit takes
    macs: Float[Any, " L"]  # share of bitops_max that a bit takes
    weight: Int[Any, " L"]  # quantizer of each operation's weight
    input: Int[Any, " L"]  # and of what feeds it; n: none

    @classmethod
    def of(cls, space: BitSpace, workload: Workload, sensitivity: Sensitivity) -> "Prices":
        """For the space's quantizers, in its order.

        Raises:
            ValueError: a sensitivity of other quantizers, or without a bit-width that the space allows.
        """
        shares, n = Shares.of(workload), space.size
        noise = np.full(space.choices.shape, np.inf, np.float32)
        if sensitivity.names != space.names:
            raise ValueError("sensitivity is of other quantizers: measure it for this task")
        for i, bits in enumerate(space.allowed):
            for k, width in enumerate(bits):
                value = (
                    sensitivity.table[i, sensitivity.widths.index(width)]
                    if width in sensitivity.widths
                    else np.nan
                )
                if np.isnan(value):
                    raise ValueError(
                        f"sensitivity has no {width} bits of {space.names[i]!r}: measure it anew"
                    )
                noise[i, k] = max(float(value), 1e-12)
        return cls(
            noise,
            (shares.size / 32).astype(np.float32),
            (shares.macs / 32).astype(np.float32),
            shares.weight.astype(np.int32),
            np.where(shares.input >= 0, shares.input, n).astype(np.int32),
        )


def bargain(
    space: BitSpace, prices: Prices, log_prices: Float[Array, " 2"], log_factors: Float[Array, " n"]
) -> Int[Array, " n"]:
    """Bits that nearly minimise Σ_i (f_i noise_i(b_i) + p_s size_i b_i) + p_o Σ_l macs_l max(b_w(l), b_a(l)).

    Activations choose first, each knowing how the weights that it feeds would best respond; then weights
    respond: exact where every weight belongs to one operation. Then both in turns, each the best against the
    other, as far as that lowers the sum.
    """
    n, choices = space.size, jnp.asarray(np.where(np.isinf(space.choices), 0, space.choices))
    size_price, work_price = jnp.exp(log_prices)
    noise = jnp.asarray(prices.noise) * jnp.exp(log_factors)[:, None]
    base = noise + size_price * jnp.asarray(prices.size)[:, None] * choices
    weight, feed = jnp.asarray(prices.weight), jnp.asarray(prices.input)
    macs = work_price * jnp.asarray(prices.macs)
    index = jnp.arange(n)

    def total(bits: Array) -> Array:
        own = base[index, jnp.argmax(choices == bits[:, None].astype(choices.dtype), axis=1)]
        wider = jnp.maximum(bits[weight], jnp.append(bits, 32)[feed])
        return jnp.sum(own) + jnp.sum(macs * wider.astype(macs.dtype))

    def against(own: Array, other: Array, bits: Array) -> Array:
        """(n, B): price of bit-operations at each choice of the quantizers `own`, the `other` as they are."""
        partner = jnp.append(bits, 32)[other].astype(jnp.float32)
        wider = jnp.maximum(jnp.append(choices, choices[:1], 0)[own], partner[:, None]) * macs[:, None]
        return jnp.zeros((n + 1, choices.shape[1])).at[own].add(wider)[:n]

    uses = jnp.zeros(n).at[weight].add(1)
    weighs = uses > 0
    pairs = jnp.maximum(choices[weight][:, :, None], choices[jnp.minimum(feed, n - 1)][:, None])
    pairs = jnp.where(_allowed(space, weight, feed), pairs * macs[:, None, None], jnp.inf)
    response = jnp.min((base / jnp.maximum(uses, 1)[:, None])[weight][:, :, None] + pairs, axis=1)  # (L, B)
    expected = base + jnp.zeros((n + 1, choices.shape[1])).at[feed].add(response)[:n]
    bits = space.resolve(-expected, ties="sum")
    respond = space.resolve(-(base + against(weight, feed, bits)), ties="sum")
    best = space.snap(jnp.where(weighs, respond, bits))
    for _ in range(SWEEPS):
        for own, other, mine in ((feed, weight, ~weighs), (weight, feed, weighs)):
            moved = space.resolve(-(base + against(own, other, best)), ties="sum")
            tried = space.snap(jnp.where(mine, moved, best))
            best = jnp.where(total(tried) < total(best), tried, best)
    return best


def _allowed(space: BitSpace, weight: Int[Array, " L"], feed: Int[Array, " L"]) -> Bool[Array, "L B B"]:
    """Which choices of an operation's weight and of its input are there and pair."""
    widths = np.where(np.isinf(space.choices), 0, space.choices).astype(np.int32)
    legal = np.zeros((HIGHEST_BITS + 1, HIGHEST_BITS + 1), bool)
    legal[1:, 1:] = not space.pairs
    for weight_bits, activation_bits in space.pairs:
        legal[weight_bits, activation_bits] = True
    own, fed = jnp.asarray(widths)[weight], jnp.asarray(widths)[jnp.minimum(feed, space.size - 1)]
    return jnp.asarray(legal)[own[:, :, None], fed[:, None]]


def price_range(space: BitSpace, prices: Prices) -> Float[np.ndarray, "2 2"]:
    """Lowest and highest useful logarithm (columns) of both prices (rows): where the first and the last
    quantizer changes its mind.
    """
    n = space.size
    share = np.zeros(n + 1)
    np.add.at(share, prices.weight, prices.macs)
    np.add.at(share, prices.input, prices.macs)
    widths = np.where(np.isinf(space.choices), np.nan, space.choices)
    known = np.where(np.isinf(prices.noise), np.nan, prices.noise)
    saved, gained = np.diff(widths, axis=1), -np.diff(known, axis=1)
    ranges = []
    for taken in (prices.size, share[:n]):
        with np.errstate(divide="ignore", invalid="ignore"):
            worth = gained / (saved * taken[:, None])
        worth = worth[np.isfinite(worth) & (worth > 0)]
        ranges.append(np.log([worth.min(), worth.max()]) if worth.size else np.zeros(2))
    return np.array(ranges, np.float32)


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
    everyone = not setting.config.resize.rate_limited
    algorithm = DirectBits(slots, low, high, setting.config.direct, everyone)
    rate = np.concatenate([np.full(2, PRICE_RATE), np.full(n, min(1.0, FACTOR_GENES / n))]).astype(np.float32)

    def init(key: jax.Array) -> Float[Array, "C G"]:
        """Prices uniform on a log scale; factors 1, but for a spread of up to e per member."""
        k_price, k_spread, k_factor = jax.random.split(key, 3)
        places = jax.random.uniform(k_price, (slots, 2))
        spread = jax.random.uniform(k_spread, (slots, 1))
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
