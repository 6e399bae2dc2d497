"""Crossover and mutation against a NumPy retelling with the same draws, and against pymoo by distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm
from scipy.stats import binom, ks_2samp

from nemojax.variation import most_mutated, mutated, polynomial_mutation, sbx, sbx_children

LOW, HIGH = np.array([2.0, 2.0, 4.0, 2.0]), np.array([8.0, 8.0, 4.0, 6.0])  # the third gene is pinned
jitted_sbx, jitted_mutation = jax.jit(sbx), jax.jit(polynomial_mutation, static_argnames="most")


def retold_sbx(u, a, b, low, high, eta):
    """One gene, in plain Python."""
    if a == b:
        return a, b
    x1, x2 = min(a, b), max(a, b)
    children = []
    for room, sign in ((x1 - low, -1), (high - x2, 1)):
        beta = 1 + 2 * room / (x2 - x1)
        alpha = 2 - beta ** -(eta + 1)
        q = (u * alpha) ** (1 / (eta + 1)) if u <= 1 / alpha else (1 / (2 - u * alpha)) ** (1 / (eta + 1))
        children.append(min(max(((x1 + x2) + sign * q * (x2 - x1)) / 2, low), high))
    return tuple(children)


def retold_mutation(u, x, low, high, eta):
    if low == high:
        return x
    d1, d2 = (x - low) / (high - low), (high - x) / (high - low)
    if u <= 0.5:
        d = (2 * u + (1 - 2 * u) * (1 - d1) ** (eta + 1)) ** (1 / (eta + 1)) - 1
    else:
        d = 1 - (2 * (1 - u) + 2 * (u - 0.5) * (1 - d2) ** (eta + 1)) ** (1 / (eta + 1))
    return min(max(x + d * (high - low), low), high)


def draws(seed, count=300):
    """Uniforms with both ends, and genes with both bounds, equal parents and near-equal parents."""
    rng = np.random.default_rng(seed)
    u = np.concatenate([[0.0, 0.5, 1 - 2**-53], rng.random(count - 3)])
    low, high = np.full(count, 2.0), np.full(count, 8.0)
    a, b = rng.choice(np.append(rng.uniform(2, 8, 20), [2, 8]), (2, count))
    b[:20] = a[:20]
    b[20:40] = np.clip(a[20:40] + 1e-12, 2, 8)
    low[40:50] = high[40:50] = a[40:50] = b[40:50] = 5
    return u, a, b, low, high


@pytest.mark.parametrize("eta", [0.0, 2.0, 15.0, 30.0])
def test_sbx_equals_the_retelling(eta):
    with jax.enable_x64(True):
        arguments = draws(int(eta))
        ours = jax.jit(sbx_children)(*arguments, eta)
    retold = [retold_sbx(*gene, eta) for gene in zip(*arguments, strict=True)]
    np.testing.assert_allclose(np.stack(ours, 1), retold, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 5.0, 20.0])
def test_mutation_equals_the_retelling(eta):
    with jax.enable_x64(True):
        u, x, _, low, high = draws(int(eta))
        ours = jax.jit(mutated)(u, x, low, high, eta)
    retold = [retold_mutation(*gene, eta) for gene in zip(u, x, low, high, strict=True)]
    np.testing.assert_allclose(ours, retold, rtol=1e-12)


def test_sbx_keeps_the_mean_far_from_the_bounds():
    """Far from the bounds the children are symmetric about the parents' mean; u = 1/2 gives the parents."""
    far = jnp.full(3, -1e6), jnp.full(3, 1e6)
    a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 2.5, 3.0])
    lower, upper = sbx_children(jnp.array([0.1, 0.5, 0.9]), a, b, *far, 5.0)
    np.testing.assert_allclose(lower + upper, a + b, rtol=1e-6)
    np.testing.assert_allclose(lower[1:], [2.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize("parents", [([3.0, 8.0, 4.0, 2.0], [6.0, 7.5, 4.0, 5.0])])
@pytest.mark.parametrize("eta", [3.0, 20.0])
def test_sbx_is_distributed_as_pymoos(parents, eta):
    count = 4000
    a, b = (np.tile(p, (count, 1)) for p in parents)
    theirs = cross_sbx(
        np.stack([a, b]),
        LOW,
        HIGH,
        np.full((count, 1), eta),
        0.5,
        np.full((count, 1), 0.5),
        random_state=np.random.default_rng(0),
    )
    float32 = [jnp.asarray(x, jnp.float32) for x in (a, b, LOW, HIGH)]
    ours = jitted_sbx(jax.random.key(1), *float32, eta, 1.0, 0.5)
    for child, other in zip(ours, theirs, strict=True):
        for gene in (0, 1, 3):
            assert ks_2samp(child[:, gene], other[:, gene]).pvalue > 1e-3
        np.testing.assert_array_equal(child[:, 2], 4.0)


@pytest.mark.parametrize("eta", [3.0, 20.0])
def test_mutation_is_distributed_as_pymoos(eta):
    count = 4000
    x = np.tile([3.0, 8.0, 4.0, 2.125], (count, 1))
    theirs = mut_pm(
        x, LOW, HIGH, np.full(count, eta), np.full(count, 0.5), False, random_state=np.random.default_rng(0)
    )
    float32 = [jnp.asarray(v, jnp.float32) for v in (x, LOW, HIGH)]
    ours = jitted_mutation(jax.random.key(2), *float32, eta, 0.5)
    for gene in (0, 1, 3):
        assert ks_2samp(ours[:, gene], theirs[:, gene]).pvalue > 1e-3
    np.testing.assert_array_equal(ours[:, 2], 4.0)


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_rates_are_kept(rate):
    n = 20_000
    low, high = jnp.full(n, 2.0), jnp.full(n, 8.0)
    a, b = jnp.full((1, n), 3.0), jnp.full((1, n), 6.0)
    error = 4 * np.sqrt(rate * (1 - rate) / n)
    first, _ = jitted_sbx(jax.random.key(0), a, b, low, high, 15.0, 1.0, rate)
    assert abs(np.mean(np.asarray(first) != 3.0) - rate) <= error
    moved = jitted_mutation(jax.random.key(0), a, low, high, 5.0, rate)
    assert abs(np.mean(np.asarray(moved) != 3.0) - rate) <= error


def test_an_uncrossed_pair_is_returned_as_it_was():
    a, b, low, high = jnp.full((2000, 4), 3.0), jnp.full((2000, 4), 6.0), jnp.full(4, 2.0), jnp.full(4, 8.0)
    first, second = jitted_sbx(jax.random.key(0), a, b, low, high, 15.0, 0.3, 1.0)
    untouched = np.all(np.asarray(first) == 3.0, axis=1)
    np.testing.assert_array_equal(np.all(np.asarray(second) == 6.0, axis=1), untouched)
    assert abs(untouched.mean() - 0.7) <= 4 * np.sqrt(0.21 / 2000)


def test_children_are_finite_and_within_bounds_in_float32():
    """Parents one float apart, on the bounds, and pinned; draws at both ends."""
    low, high = jnp.asarray(LOW, jnp.float32), jnp.asarray(HIGH, jnp.float32)
    near = jnp.nextafter(low, high)
    for u in (0.0, 0.5, float(np.nextafter(np.float32(1), np.float32(0)))):
        for a, b in ((low, near), (low, high), (high, high), (near, high)):
            draw = jnp.full(4, u, jnp.float32)
            for child in (
                *jax.jit(sbx_children)(draw, a, b, low, high, 30.0),
                jax.jit(mutated)(draw, b, low, high, 20.0),
            ):
                assert bool(jnp.all((child >= low) & (child <= high))), (u, a, b)


def test_mutation_is_exact_near_a_bound_in_float32():
    """A gene at 1e-10 from its bound moves by shares of that distance; plain powers would round it to 0.

    The oracle is the limit of the formula for small d: δ = d (1 − 2u) of the way down.
    """
    u = np.linspace(0.05, 0.45, 9, dtype=np.float32)
    x, low, high = (np.full(9, value, np.float32) for value in (1e-10, 0, 1))
    moved = jax.jit(mutated)(u, x, low, high, 20.0)
    np.testing.assert_allclose(moved, 1e-10 * (2 * u), rtol=1e-4)


# Mutated genes found by the gaps between them


@pytest.mark.parametrize(("count", "rate"), [(244, 1 / 244), (30, 0.01), (1000, 0.02), (100, 0.0)])
def test_the_most_mutated_genes_are_the_binomials_tail(count, rate):
    most = most_mutated(count, rate)
    assert most is not None
    assert binom.sf(most, count, rate) < 1e-9
    assert most == 1 or binom.sf(most - 1, count, rate) >= 0.9e-9


def test_where_about_all_genes_may_be_mutated_none_are_skipped():
    assert most_mutated(12, 1 / 12) is None
    assert most_mutated(100, 0.5) is None
    assert most_mutated(5000, 0.4) is None
    assert most_mutated(3, 1.0) is None


def test_gaps_mutate_as_often_and_as_far_as_a_draw_for_every_gene():
    count, n, rate = 20_000, 60, 0.03
    x = jnp.full((count, n), 3.0)
    low, high = jnp.full(n, 2.0), jnp.full(n, 8.0).at[7].set(2.0)
    most = most_mutated(n, rate)
    gaps, dense = (
        np.asarray(jitted_mutation(jax.random.key(k), x.at[:, 7].set(2.0), low, high, 5.0, rate, most=m))
        for k, m in ((1, most), (2, None))
    )
    np.testing.assert_array_equal(gaps[:, 7], 2.0)
    moved = np.delete(gaps, 7, axis=1) != 3.0
    slack = 4.5 * np.sqrt(rate * (1 - rate) / count)
    assert np.abs(moved.mean(axis=0) - rate).max() < slack, "every gene as often, the last ones too"
    number = np.bincount(moved.sum(axis=1), minlength=8)[:8] / count
    np.testing.assert_allclose(number, binom.pmf(np.arange(8), n - 1, rate), atol=0.015)
    together = np.mean(moved[:, :-1] & moved[:, 1:])
    assert abs(together - rate**2) < 4 * rate / np.sqrt(count * n), "neighbours independently"
    assert ks_2samp(gaps[gaps != 3.0], dense[dense != 3.0]).pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_gaps_at_the_ends_of_the_rate(rate):
    x, low, high = jnp.full((50, 9), 3.0), jnp.full(9, 2.0), jnp.full(9, 8.0)
    moved = np.asarray(jitted_mutation(jax.random.key(0), x, low, high, 5.0, rate, most=9)) != 3.0
    assert moved.mean() == rate
