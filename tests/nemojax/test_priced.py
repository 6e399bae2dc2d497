"""The priced species: the bargain against enumeration, its range of prices, and what it refuses."""

import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.box import Box
from nemojax.calibration import QuantizerConfig
from nemojax.config import NemoConfig
from nemojax.networks import Network
from nemojax.prices import SWEEPS, Prices, bargain, price_range
from nemojax.quantized import quantize
from nemojax.sensitivity import Sensitivity
from nemojax.space import BitSpace
from nemojax.species import SPECIES, Setting, priced
from nemojax.task import search_space

NAMES = ("a", "b", "c", "d", "e")  # three weights and the two activations that feed them
WEIGHT, FED_BY = np.array([0, 1, 2], np.int32), np.array([3, 3, 4], np.int32)
FEEDS = tuple(zip(WEIGHT.tolist(), FED_BY.tolist(), strict=True))
SPACES = {
    "plain": BitSpace.create(NAMES, (2, 4, 8)),
    "pinned": BitSpace(NAMES, ((2, 4, 8), (2, 4), (8,), (2, 3, 8), (4, 8))),
    "tied": BitSpace.create(NAMES, (2, 4, 8), ties=[("a", "b"), ("d", "e")]),
    "pairs": BitSpace.create(NAMES, (2, 4, 8), pairs=((2, 2), (2, 4), (4, 4), (4, 8), (8, 8)), feeds=FEEDS),
}
SPACE = SPACES["plain"]
NO_PRICE = -60.0  # logarithm of a price that counts for nothing


def drawn(seed: int, space: BitSpace = SPACE, inputs: np.ndarray = FED_BY) -> Prices:
    """Noise that falls with the bits, and shares as a workload gives them: 1/32 in all."""
    rng = np.random.default_rng(seed)
    noise = np.full(space.choices.shape, np.inf, np.float32)
    for row, bits in zip(noise, space.allowed, strict=True):
        row[: len(bits)] = np.sort(rng.lognormal(size=len(bits)))[::-1]
    size = np.where(np.isin(np.arange(5), WEIGHT), rng.uniform(0.1, 1, 5), 0)
    macs = rng.uniform(0.1, 1, 3)
    parts = (x / x.sum() / 32 for x in (size, macs))
    return Prices(
        noise, *(part.astype(np.float32) for part in parts), WEIGHT, inputs.astype(np.int32), np.float32(1)
    )


@functools.cache
def compiled(space: BitSpace, sweeps: int):
    return jax.jit(lambda prices, *given: bargain(space, prices, *given))


def solved(
    space: BitSpace, prices: Prices, log_prices, log_factors=(0,) * 5, sweeps: int = SWEEPS
) -> np.ndarray:
    """The bargain's bits; compiled once for each number of sweeps."""
    given = (np.asarray(x, np.float32) for x in (log_prices, log_factors))
    return np.asarray(compiled(space, sweeps)(prices, *given))


def lagrangian(space: BitSpace, prices: Prices, rows, log_prices, log_factors) -> np.ndarray:
    """Σ_i f_i noise_i + p_s Σ_i size_i b_i + p_o Σ_l macs_l max(b_w, b_a) of each row, in loops."""
    values = []
    for row in np.asarray(rows):
        value = 0.0
        for i, b in enumerate(row):
            value += float(np.exp(log_factors[i])) * prices.noise[i, space.allowed[i].index(b)]
            value += float(np.exp(log_prices[0])) * prices.size[i] * b
        for w, a, macs in zip(prices.weight, prices.input, prices.macs, strict=True):
            value += float(np.exp(log_prices[1])) * macs * max(row[w], row[a] if a < len(row) else 32)
        values.append(value)
    return np.array(values)


def legal(space: BitSpace) -> np.ndarray:
    rows = np.array(list(itertools.product(*space.allowed)), np.int32)
    return rows[space.contains(rows)]


def cases(space: BitSpace, inputs: np.ndarray = FED_BY, count: int = 40):
    """Prices within their range and factors, (prices, log_prices, log_factors) of each case."""
    rng = np.random.default_rng(len(space.allowed[0]))
    for seed in range(count):
        prices = drawn(seed, space, inputs)
        low, high = price_range(space, prices).T
        factors = rng.normal(size=5) * (seed % 2)
        yield prices, rng.uniform(low, high).astype(np.float32), factors.astype(np.float32)


def excess(space: BitSpace, inputs: np.ndarray = FED_BY) -> np.ndarray:
    """By what share each case's bargain is above the least of all legal configurations."""
    rows, found = legal(space), []
    for prices, log_prices, log_factors in cases(space, inputs):
        bits = solved(space, prices, log_prices, log_factors)
        assert space.contains(bits[None]).all()
        own = lagrangian(space, prices, bits[None], log_prices, log_factors)[0]
        found.append(own / lagrangian(space, prices, rows, log_prices, log_factors).min() - 1)
    return np.array(found)


@pytest.mark.parametrize("name", ["plain", "pinned", "tied"])
def test_the_bargain_is_near_the_least_of_all_configurations(name):
    above = excess(SPACES[name])
    assert above.min() > -1e-5, "nothing legal is below the least"
    assert above.mean() < 0.01
    assert (above < 1e-5).mean() > 0.8


def test_under_pairs_the_bargain_is_legal_and_often_the_least():
    above = excess(SPACES["pairs"])
    assert above.min() > -1e-5
    assert above.mean() < 0.05
    assert (above < 1e-5).mean() > 0.5


def test_the_bargain_is_exact_where_no_operation_couples_two_quantizers():
    """Every input stays at 32 bits: each quantizer decides by itself."""
    assert np.abs(excess(SPACE, np.full(3, 5))).max() < 1e-5


@pytest.mark.parametrize("name", ["tied", "pairs"])
def test_no_sweep_raises_the_sum(name, monkeypatch):
    space = SPACES[name]
    module = importlib.import_module("nemojax.prices")
    for prices, log_prices, log_factors in cases(space, count=20):
        values = []
        for sweeps in range(4):
            monkeypatch.setattr(module, "SWEEPS", sweeps)
            bits = solved(space, prices, log_prices, log_factors, sweeps)
            values.append(lagrangian(space, prices, bits[None], log_prices, log_factors)[0])
        assert (np.diff(values) <= 1e-6 * values[0]).all()


@pytest.mark.parametrize("which", [0, 1])
def test_the_range_goes_from_all_at_the_highest_to_all_at_the_lowest(which):
    """One price alone; the highest price of bit-operations is worth its full share to both of a pair."""
    for seed in range(20):
        prices = drawn(seed)
        low, high = price_range(SPACE, prices)[which]
        at = np.full((2, 2), NO_PRICE, np.float32)
        at[:, which] = low - 1e-3, high + 1e-3 + which * np.log(2)
        least, most = (solved(SPACE, prices, row) for row in at)
        np.testing.assert_array_equal(least, SPACE.high)
        weights = np.arange(5) < 3
        costly = weights if which == 0 else np.ones(5, bool)
        np.testing.assert_array_equal(most[costly], SPACE.low[costly])
        np.testing.assert_array_equal(most[~costly], SPACE.high[~costly])


def test_the_range_ends_where_the_first_and_last_quantizer_change_their_minds():
    prices = drawn(3)
    low, high = price_range(SPACE, prices)[0]

    def chosen(log_price: float) -> np.ndarray:
        return solved(SPACE, prices, [log_price, NO_PRICE])

    assert (chosen(float(low) + 1e-3) < SPACE.high).any()
    assert (chosen(float(high) - 1e-3)[:3] > SPACE.low[:3]).any()


def test_without_anything_to_gain_the_range_is_a_point():
    flat = drawn(0)._replace(noise=np.ones((5, 3), np.float32))
    np.testing.assert_array_equal(price_range(SPACE, flat), np.zeros((2, 2)))


# The species


def setting(space=SPACE, prices=None, slots=12) -> Setting:
    return Setting(space, slots, NemoConfig(species=("priced",), population=slots), None, prices)


@pytest.mark.parametrize("name", ["pinned", "pairs"])
def test_members_and_children_are_legal_and_differ(name):
    space = SPACES[name]
    kind = SPECIES["priced"](setting(space, drawn(0, space)))
    key = jax.random.key(0)
    genotypes = kind.init(key)
    assert genotypes.shape == (12, 7)
    state = kind.algorithm.init(key, genotypes, jnp.arange(12.0), kind.params)
    children, _ = kind.algorithm.ask(jax.random.key(1), state, kind.params)
    low, high = kind.algorithm.low, kind.algorithm.high
    for genes in (genotypes, children):
        assert ((np.asarray(genes) >= low) & (np.asarray(genes) <= high)).all()
        bits = np.asarray(kind.decode(key, genes, 12))
        assert space.contains(bits).all()
        assert len(np.unique(bits, axis=0)) > 2
    assert not np.array_equal(genotypes, children)
    assert kind.encode is None


def test_prices_or_a_space_of_bits_are_wanted():
    with pytest.raises(ValueError, match="needs a BitSpace and a sensitivity table"):
        priced(setting())
    box = Box(np.zeros(5), np.ones(5))
    with pytest.raises(ValueError, match="needs a BitSpace and a sensitivity table"):
        priced(setting(box, drawn(0)))


# Prices of a workload


def apply(p, x):
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return hidden @ p["b"]


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    shapes = {"a": (48, 16), "bias": (16,), "b": (16, 5)}
    params = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    images = np.float32(rng.normal(size=(2, 4, 4, 3)))
    return quantize(Network("tiny", apply, params), images, QuantizerConfig(activation_range="minmax"))


def table(names, widths=(2, 4, 8)) -> Sensitivity:
    values = np.linspace(1, 2, len(names))[:, None] / 4.0 ** np.array(widths)[None]
    return Sensitivity(tuple(names), widths, values, "sqnr")


def test_prices_are_the_workloads_shares(network):
    """a: 48·16 of 864 stored numbers, the biases among them; 768 of 848 multiplications."""
    space = search_space(network, (2, 4, 8))
    prices = Prices.of(space, network.workload, table(space.names))
    size, work = dict(zip(space.names, prices.size, strict=True)), prices.macs
    stored = sorted(value for value in size.values() if value > 0)
    total = 48 * 16 + 16 * 5 + 16
    np.testing.assert_allclose(stored, [80 / total / 32, 768 / total / 32], rtol=1e-5)
    np.testing.assert_allclose(sorted(work), [80 / 848 / 32, 768 / 848 / 32], rtol=1e-5)
    np.testing.assert_allclose(prices.noise, table(space.names).table, rtol=1e-6)


def test_what_a_space_does_not_allow_is_infinite(network):
    space = search_space(network, (2, 4, 8), {"*.weight": 4})
    prices = Prices.of(space, network.workload, table(space.names))
    pinned = np.array([name.endswith(".weight") for name in space.names])
    assert pinned.any()
    np.testing.assert_array_equal(np.isinf(prices.noise), pinned[:, None] & np.array([[False, True, True]]))


def test_a_sensitivity_of_other_quantizers_or_widths_is_refused(network):
    space = search_space(network, (2, 4, 8))
    with pytest.raises(ValueError, match="sensitivity is of other quantizers"):
        Prices.of(space, network.workload, table([f"x{i}" for i in range(space.size)]))
    with pytest.raises(ValueError, match="sensitivity has no 4 bits of"):
        Prices.of(space, network.workload, table(space.names, (2, 8)))
    holes = np.array(table(space.names).table)
    holes[1, 2] = np.nan
    with pytest.raises(ValueError, match=f"sensitivity has no 8 bits of {space.names[1]!r}"):
        Prices.of(space, network.workload, Sensitivity(space.names, (2, 4, 8), holes, "sqnr"))
