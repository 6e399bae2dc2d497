"""Bit-widths that each quantizer's sensitivity is worth at given prices: the Lagrangian of a knapsack.

Two prices, of a parameter's bit and of a bit-operation, sweep the whole trade-off between error, size and
bit-operations, at the cost of a few array operations each.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hwmodel import Workload

from .sensitivity import MEASURES, Sensitivity
from .shares import Shares
from .space import HIGHEST_BITS, BitSpace

SWEEPS = 2
LEAST_SHARE = 5e-3  # of the worst error, that an entry of a table of errors counts at least
SIDE, AT_ONCE = 50, 64  # of the grid of `bargains`


class Prices(NamedTuple):
    """What a bit costs and saves: n quantizers, B choices, L operations with weights."""

    noise: Float[Any, "n B"]  # sensitivity at each of the space's choices; +inf where there is none
    size: Float[Any, " n"]  # share of model_ratio that a bit takes
    macs: Float[Any, " L"]  # share of bitops_max that a bit takes
    weight: Int[Any, " L"]  # quantizer of each operation's weight
    input: Int[Any, " L"]  # and of what feeds it; n: none
    worst: Any  # sum of noise at which a network fails wholly

    @classmethod
    def of(
        cls, space: BitSpace, workload: Workload, sensitivity: Sensitivity, worst: float = 1.0
    ) -> "Prices":
        """For the space's quantizers, in its order.

        An error measured on few images is 0 or negative at many entries; none counts as less than a share of
        `worst` at the lowest bit-width, and a quarter of it per bit more (as of noise power).

        Args:
            worst: error of a network that fails wholly, in the table's unit; not used for noise over signal,
                which takes its sum at 4 bits everywhere, where networks begin to fail.

        Raises:
            ValueError: a sensitivity of other quantizers, or without a bit-width that the space allows.
        """
        shares, n = Shares.of(workload), space.size
        least = 0.0 if sensitivity.measure in MEASURES else LEAST_SHARE * worst
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
                noise[i, k] = max(float(value), least * 4.0 ** (space.widths[0] - width), 1e-12)
        if sensitivity.measure == "sqnr":
            worst = float(sensitivity.additive(space.uniform(4)[None])[0]) or 1.0
        return cls(
            noise,
            (shares.size / 32).astype(np.float32),
            (shares.macs / 32).astype(np.float32),
            shares.weight.astype(np.int32),
            np.where(shares.input >= 0, shares.input, n).astype(np.int32),
            np.float32(worst),
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


def bargains(space: BitSpace, prices: Prices) -> tuple[Float[np.ndarray, "K 2"], Int[np.ndarray, "K n"]]:
    """Logarithms of the prices of a grid over their range, and the configurations that they give."""
    (size_low, size_high), (work_low, work_high) = price_range(space, prices)
    grid = np.meshgrid(np.linspace(size_low, size_high, SIDE), np.linspace(work_low, work_high, SIDE))
    logs = np.stack(grid, axis=-1).reshape(-1, 2).astype(np.float32)
    return logs, np.asarray(_bargains(space, Prices(*map(jnp.asarray, prices)), jnp.asarray(logs)))


@partial(jax.jit, static_argnums=0)
def _bargains(space: BitSpace, prices: Prices, log_prices: Float[Array, "K 2"]) -> Int[Array, "K n"]:
    neutral = jnp.zeros(space.size)
    return jax.lax.map(lambda p: bargain(space, prices, p, neutral), log_prices, batch_size=AT_ONCE)


def predicted(space: BitSpace, prices: Prices, bits: Int[np.ndarray, "K n"]) -> Float[np.ndarray, "K 3"]:
    """Error, size and bit-operations of configurations, by the table alone; what no quantizer holds left out.

    A sum x of the table's entries counts as 1 - exp(-x / worst), since none can fail more than wholly.
    """
    noise, size, macs, weight, feed, worst = (np.asarray(x) for x in prices)
    column = np.argmax(space.choices[None] == bits[:, :, None], axis=2)
    error = np.where(np.isinf(noise), 0, noise)[np.arange(space.size), column].astype(np.float64).sum(axis=1)
    fed = np.concatenate([bits, np.full((len(bits), 1), 32)], axis=1)[:, feed]
    work = (np.maximum(bits[:, weight], fed) * macs).sum(axis=1)
    return np.column_stack([1 - np.exp(-error / float(worst)), (bits * size).sum(axis=1), work])
