"""Crossover and mutation by tensors, layers and rows: what may change, and how often."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egrljax.genomes import genome
from egrljax.ssne import SSNERates, crossover, mutate, mutated

KINDS = ("tensor", "patent", "erl")
# Two layers, tensors of 3, 45, 7 and 210 entries: shorter than a block of 20, not a multiple of it, more.
SHAPES = {"a": {"bias": (3,), "kernel": (15, 3)}, "b": {"bias": (7,), "kernel": (30, 7)}}
GENOME = genome(jax.tree.map(jnp.zeros, SHAPES, is_leaf=lambda x: isinstance(x, tuple)))
P, K = GENOME.size, 20_000
ZEROS, ONES = jnp.zeros((K, P)), jnp.ones((K, P))

cross = jax.jit(crossover, static_argnames=("genome", "kind"))
move = jax.jit(mutate, static_argnames=("genome", "kind"))


def near(share, expected, n):
    """Within five standard errors of a share of n independent trials; on arrays."""
    error = np.sqrt(np.maximum(expected * (1 - expected), 1e-9) / n)
    assert (np.abs(share - expected) <= 5 * error).all(), (share, expected)


def tensors(x):
    """x split into its tensors, along the last axis."""
    return np.split(np.asarray(x), np.cumsum(GENOME.sizes)[:-1], axis=-1)


def test_tensor_crossover_is_uniform_within_tensors_drawn_with_cr_dist():
    child = np.asarray(cross(jax.random.key(0), ZEROS, ONES, GENOME, SSNERates(cr_dist=0.3)))
    assert set(np.unique(child)) == {0, 1}
    near(child.mean(0), np.full(P, 0.15), K)
    for part in tensors(child)[1::2]:  # untouched by chance with 2^-45
        near((part.sum(1) > 0).mean(), 0.3, K)
        touched = part[part.sum(1) > 0]
        near(touched.mean(0), np.full(part.shape[1], 0.5), len(touched))
        assert np.abs(np.corrcoef(touched.T) - np.eye(part.shape[1])).max() < 6 / np.sqrt(len(touched))
    big = [part.sum(1) > 0 for part in tensors(child)[1::2]]
    near((big[0] & big[1]).mean(), 0.09, K)  # each tensor for itself


def test_patent_crossover_averages_one_layer():
    a = jax.random.normal(jax.random.key(1), (K, P))
    b = a + 1 + jax.random.uniform(jax.random.key(2), (K, P))  # equal nowhere
    child = np.asarray(cross(jax.random.key(0), a, b, GENOME, SSNERates(), kind="patent"))
    in_layer = child != np.asarray(a)
    first = in_layer[:, 0]
    np.testing.assert_array_equal(in_layer, np.where(first[:, None], GENOME.layers == 0, GENOME.layers == 1))
    near(first.mean(), 0.5, K)
    np.testing.assert_allclose(child[in_layer], ((np.asarray(a) + np.asarray(b)) / 2)[in_layer], rtol=1e-6)


def test_erl_crossover_takes_whole_rows():
    child = np.asarray(cross(jax.random.key(0), ZEROS, ONES, GENOME, SSNERates(row_share=0.3), kind="erl"))
    near(child.mean(0), np.full(P, 0.15), K)
    bias, small, _, kernel = tensors(child)
    for matrix, columns in ((small, 3), (kernel, 7)):
        rows = matrix.reshape(K, -1, columns)  # (inputs, output units): a row is a unit's
        assert (rows == rows[:, :1]).all()
    # A tensor's rows share one level v ~ U(0, 0.3): E v² = 0.03, not 0.15² = 0.0225.
    near((kernel[:, 0] * kernel[:, 1]).mean(), 0.03, K)
    near((bias[:, 0] * bias[:, 1]).mean(), 0.03, K)
    near((bias[:, 0] * kernel[:, 0]).mean(), 0.0225, K)  # tensors independent


@pytest.mark.parametrize("kind", KINDS)
def test_like_parents_have_a_like_child_and_zero_rates_copy(kind):
    a = jax.random.normal(jax.random.key(1), (50, P))
    np.testing.assert_array_equal(cross(jax.random.key(0), a, a, GENOME, SSNERates(), kind=kind), a)
    never = SSNERates(cr_dist=0.0, mut_dist=0.0, noise=0.0, fraction=0.0, row_share=0.0)
    np.testing.assert_array_equal(move(jax.random.key(0), a, GENOME, never, kind=kind), a)
    if kind != "patent":
        np.testing.assert_array_equal(cross(jax.random.key(0), a, -a, GENOME, never, kind=kind), a)


@pytest.mark.parametrize(("fraction", "mut_dist"), [(0.05, 1.0), (0.02, 0.4)])
def test_tensor_mutation_changes_each_entry_equally_often(fraction, mut_dist):
    """Of short tensors and short last blocks too."""
    rates = SSNERates(fraction=fraction, mut_dist=mut_dist)
    changed = np.asarray(move(jax.random.key(3), ONES, GENOME, rates)) != 1
    near(changed.mean(0), np.full(P, fraction * mut_dist), K)
    kernel = tensors(changed)[3]
    assert kernel.sum(1).max() <= 11  # one of each block of 20
    touched = 1 - (1 - 20 * fraction) ** 10 * (1 - 10 * fraction)  # ten blocks of 20 and one of 10
    near((kernel.sum(1) > 0).mean(), mut_dist * touched, K)


def test_kinds_of_mutation_come_in_their_shares_and_strengths():
    rates = SSNERates(mut_dist=1.0, strength=1e-3, super_strength=10.0, reset_std=0.1)
    out = np.asarray(move(jax.random.key(4), 100 * ONES, GENOME, rates))
    changed = out[out != 100]
    small, reset = np.abs(changed - 100) < 1, np.abs(changed) < 0.6
    near(small.mean(), 0.93, changed.size)
    near(reset.mean(), 0.02, changed.size)  # a strong change ends there once in 2000
    np.testing.assert_allclose((changed[small] - 100).std(), 0.1, rtol=0.02)
    np.testing.assert_allclose(changed[reset].std(), 0.1, rtol=0.15)
    strong = changed[~small & ~reset]
    np.testing.assert_allclose((strong - 100).std(), 1000, rtol=0.05)


def test_mutation_is_relative_and_clipped():
    rates = SSNERates(mut_dist=1.0, reset_rate=0.0)
    np.testing.assert_array_equal(move(jax.random.key(5), ZEROS[:100], GENOME, rates), 0)
    clipped = move(jax.random.key(5), 5 * ONES[:100], GENOME, rates.replace(clamp=2.0))
    assert set(np.unique(np.sign(clipped) * (np.abs(clipped) == 2))) >= {1.0}
    assert ((np.asarray(clipped) == 5) | (np.abs(clipped) <= 2)).all()  # the others are left alone


def test_mutated_is_the_rule_entry_by_entry():
    rng = np.random.default_rng(0)
    w, kind, z = (x.astype(np.float32) for x in (rng.normal(size=999), rng.random(999), rng.normal(size=999)))
    expected = []
    for i in range(999):
        if kind[i] < 0.3:
            value = w[i] + z[i] * 10 * w[i]
        elif kind[i] < 0.5:
            value = z[i] * 0.1
        else:
            value = w[i] + z[i] * 0.1 * w[i]
        expected.append(min(max(value, -8), 8))
    rates = SSNERates(super_rate=0.3, reset_rate=0.2, clamp=8.0)
    np.testing.assert_allclose(
        mutated(jnp.asarray(w), jnp.asarray(kind), jnp.asarray(z), rates), expected, rtol=1e-4, atol=1e-5
    )


def test_erl_mutation_spares_biases_and_draws_a_rate_for_each_tensor():
    """min(1, U(0, 2)) is 3/4 on average, 0.04 U(0, 2) 0.04; the fraction is 0.05 U(0, 1)."""
    changed = np.asarray(move(jax.random.key(6), ONES, GENOME, SSNERates(), kind="erl")) != 1
    expected = np.where(GENOME.is_bias, 0.04, 0.75) * 0.025
    near(changed.mean(0), expected, K)
    # Entry of block 0 and of block 1 of one matrix: both with E[fraction²] = 0.05²/3 given that it mutates.
    kernel = tensors(changed)[3]
    near((kernel[:, :20].any(1) & kernel[:, 20:40].any(1)).mean(), 0.75 / 3, K)


def test_patent_mutation_adds_noise_to_one_layer():
    x = jax.random.normal(jax.random.key(1), (K, P))
    added = np.asarray(move(jax.random.key(7), x, GENOME, SSNERates(noise=0.5), kind="patent") - x)
    first = np.abs(added[:, :3]).max(1) > 0
    near(first.mean(), 0.5, K)
    for layer, members in ((0, first), (1, ~first)):
        inside = added[members][:, GENOME.layers == layer]
        np.testing.assert_array_equal(added[members][:, GENOME.layers != layer], 0)
        np.testing.assert_allclose(inside.std(0), 0.5, rtol=0.05)
        correlation = np.corrcoef(inside.T) - np.eye(inside.shape[1])
        assert np.abs(correlation).max() < 6 / np.sqrt(len(inside))


@pytest.mark.parametrize("kind", KINDS)
def test_rates_are_traced_and_no_key_is_used_twice(kind):
    traces = 0

    @jax.jit
    def both(key, x, rates):
        nonlocal traces
        traces += 1
        k_cross, k_mutate = jax.random.split(key)
        child = crossover(k_cross, x, x[::-1], GENOME, rates, kind)
        return mutate(k_mutate, child, GENOME, rates, kind)

    x = jax.random.normal(jax.random.key(1), (8, P))
    with jax.debug_key_reuse(True):
        outs = [
            both(jax.random.key(0), x, SSNERates(cr_dist=r, noise=r, row_share=r)) for r in (0.1, 0.5, 0.9)
        ]
    assert traces == 1
    assert all(bool(jnp.isfinite(out).all()) for out in outs)
    assert not np.array_equal(outs[0], outs[2])
    np.testing.assert_array_equal(
        outs[1], both(jax.random.key(0), x, SSNERates(cr_dist=0.5, noise=0.5, row_share=0.5))
    )


def test_errors_name_the_value():
    x = jnp.zeros((2, P + 1))
    for operator in (partial(crossover, b=x), mutate):
        with pytest.raises(ValueError, match=f"genome's {P} entries, got {P + 1}"):
            operator(jax.random.key(0), x, genome=GENOME, rates=SSNERates())
    with pytest.raises((ValueError, TypeError), match="kind"):
        mutate(jax.random.key(0), jnp.zeros((2, P)), GENOME, SSNERates(), kind="rows")
