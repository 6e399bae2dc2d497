"""Correcting a table by evaluations: against SciPy's optimum of the posterior, and by known factors."""

import jax
import numpy as np
import pytest
from scipy import optimize

import nemojax as nemo
from nemojax.correction import Prior, corrected
from nemojax.prices import Prices, predicted

N, WIDTHS, WORST = 12, (2, 4, 8), 1.5


@pytest.fixture(scope="module")
def space():
    return nemo.BitSpace.create([f"q{i}" for i in range(N)], WIDTHS)


@pytest.fixture(scope="module")
def prices(space):
    """Six operations: even quantizers are weights, odd ones feed them."""
    level = np.random.default_rng(0).lognormal(-6, size=(N, 1))
    noise = np.float32(level / 4.0 ** (np.array(WIDTHS)[None] - 4))
    return Prices(
        noise,
        np.full(N, 0.01, np.float32),
        np.full(N // 2, 0.005, np.float32),
        np.arange(0, N, 2, dtype=np.int32),
        np.arange(1, N, 2, dtype=np.int32),
        np.float32(WORST),
    )


@pytest.fixture(scope="module")
def bits(space):
    return np.asarray(space.sample(jax.random.key(0), 90))


def share_of(space, noise, bits):
    column = np.searchsorted(WIDTHS, bits)
    return 1 - np.exp(-noise[np.arange(N), column].astype(np.float64).sum(axis=1) / WORST)


def truth(prices, seed):
    """Factors per quantizer, and per bit-width apart for weights and activations."""
    rng = np.random.default_rng(seed)
    own, shared = rng.normal(0, 0.7, N), rng.normal(0, 0.7, (2, len(WIDTHS)))
    is_weight = (np.arange(N) % 2 == 0).astype(int)
    return prices.noise * np.exp(own[:, None] + shared[is_weight])


@pytest.mark.parametrize("seed", range(3))
def test_unseen_configurations_are_predicted_far_better(space, prices, bits, seed):
    true = truth(prices, seed)
    found = corrected(space, prices, bits, share_of(space, true, bits))
    unseen = np.asarray(space.sample(jax.random.key(99), 200))
    wanted = np.log(share_of(space, true, unseen))
    before, after = (
        np.abs(np.log(predicted(space, p, unseen)[:, 0]) - wanted).mean() for p in (prices, found)
    )
    assert after < 0.05
    assert after < before / 5


def test_it_is_the_most_probable_by_another_optimizer(space, prices, bits):
    """The posterior retold, minimised by SciPy's BFGS with numerical derivatives."""
    prior, few = Prior(0.5, 0.8, 0.2), bits[:15]
    share = share_of(space, truth(prices, 5), few) * np.exp(np.random.default_rng(1).normal(0, 0.2, 15))
    share = np.clip(share, 1e-6, 0.999)
    column, is_weight = np.searchsorted(WIDTHS, few), (np.arange(N) % 2 == 0).astype(int)

    def loss(x):
        own, shared = x[:N], x[N:].reshape(2, len(WIDTHS))
        noise = prices.noise.astype(np.float64) * np.exp(own[:, None] + shared[is_weight])
        left = np.log(1 - np.exp(-noise[np.arange(N), column].sum(axis=1) / WORST)) - np.log(share)
        return (left**2).sum() / 0.2**2 + (own**2).sum() / 0.5**2 + (shared**2).sum() / 0.8**2

    best = optimize.minimize(loss, np.zeros(N + 2 * len(WIDTHS)), method="BFGS", options={"gtol": 1e-4})
    own, shared = best.x[:N], best.x[N:].reshape(2, len(WIDTHS))
    wanted = prices.noise * np.exp(own[:, None] + shared[is_weight])
    np.testing.assert_allclose(corrected(space, prices, few, share, prior=prior).noise, wanted, rtol=2e-3)


def test_a_table_that_is_right_stays(space, prices, bits):
    found = corrected(space, prices, bits, share_of(space, prices.noise, bits))
    np.testing.assert_allclose(found.noise, prices.noise, rtol=1e-3)
    for one, two in zip(found[1:], prices[1:], strict=True):
        np.testing.assert_array_equal(one, two)


def test_failed_ones_and_none_at_all_change_nothing(space, prices, bits):
    share = share_of(space, truth(prices, 2), bits)
    mixed = np.where(np.arange(len(bits)) % 3 == 0, np.inf, share)
    kept = np.isfinite(mixed)
    some = corrected(space, prices, bits, mixed)
    np.testing.assert_array_equal(some.noise, corrected(space, prices, bits[kept], share[kept]).noise)
    nothing = corrected(space, prices, bits[:2], np.array([np.nan, np.inf]))
    np.testing.assert_array_equal(nothing.noise, prices.noise)
    np.testing.assert_array_equal(corrected(space, prices, bits[:0], share[:0]).noise, prices.noise)


def test_counted_errors_have_the_noise_of_counting(space, prices, bits):
    """Of 50 images no error is seen below 1/50: zeros say little, and far from what 0 would say."""
    true = truth(prices, 3) / 4
    counted = np.random.default_rng(0).binomial(50, share_of(space, true, bits)) / 50
    assert (counted == 0).mean() > 0.1
    found = corrected(space, prices, bits, counted, resolution=1 / 50)
    exact = corrected(space, prices, bits, share_of(space, true, bits))
    at = share_of(space, true, bits) > 0.03
    one, two = (np.log(predicted(space, p, bits[at])[:, 0]) for p in (found, exact))
    assert np.abs(one - two).mean() < 0.3
    naive = corrected(space, prices, bits, counted)
    three = np.log(predicted(space, naive, bits[at])[:, 0])
    assert np.abs(three - two).mean() > np.abs(one - two).mean()


def test_counted_errors_correct_a_table_that_sees_none(space, prices, bits):
    """Where the table predicts less than can be counted and errors are seen all the same."""
    tiny = prices._replace(noise=prices.noise / np.float32(1e3))
    found = corrected(space, tiny, bits, np.full(len(bits), 0.3), resolution=1 / 48)
    before, after = (np.abs(np.log(predicted(space, p, bits)[:, 0] / 0.3)).mean() for p in (tiny, found))
    assert before > 5
    assert after < 0.3


def test_widths_that_are_not_allowed_stay_out(prices):
    space = nemo.BitSpace.create([f"q{i}" for i in range(N)], WIDTHS, sets={"q0": (4, 8), "q1": (8,)})
    noise = np.where(np.isinf(space.choices), np.inf, 0.1).astype(np.float32)
    bits = np.asarray(space.sample(jax.random.key(1), 30))
    found = corrected(space, prices._replace(noise=noise), bits, np.full(30, 0.3))
    np.testing.assert_array_equal(np.isinf(found.noise), np.isinf(noise))
    assert found.noise.dtype == np.float32


def test_bad_input(space, prices, bits):
    with pytest.raises(ValueError, match="bits has shape"):
        corrected(space, prices, bits, np.zeros(3))
    with pytest.raises(ValueError, match="bits has shape"):
        corrected(space, prices, bits[:, :3], np.zeros(len(bits)))
    for name in ("quantizer", "width", "error"):
        with pytest.raises(ValueError, match=f"prior.{name} must be a positive number, got -1"):
            Prior(**{name: -1.0})
