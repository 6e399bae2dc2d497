"""Boltzmann chromosomes: distributions, crossover, mutation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egrljax import boltzmann
from egrljax.boltzmann import T_MAX, T_MIN, Boltzmann, BoltzmannRates

NODES, LEVELS = 6, 3


@pytest.fixture
def members():
    start = jnp.zeros((NODES, 2, LEVELS)).at[..., 0].set(2.0)
    return boltzmann.random_boltzmann(jax.random.key(0), 50, start, std=0.3)


def test_first_members_lie_around_the_start(members):
    assert members.prior.shape == (50, NODES, 2, LEVELS)
    np.testing.assert_array_equal(members.log_t, np.zeros((50, NODES)))
    np.testing.assert_allclose(members.prior.mean(axis=0)[..., 0], 2.0, atol=0.2)
    np.testing.assert_allclose(members.prior.std(axis=0), 0.3, atol=0.15)


def test_a_seeded_chromosome_has_the_policys_distribution():
    logits = 3 * jax.random.normal(jax.random.key(1), (4, NODES, 2, LEVELS))
    seeded = boltzmann.seeded(logits)
    np.testing.assert_allclose(
        jax.nn.softmax(boltzmann.logits_of(seeded)), jax.nn.softmax(logits), rtol=1e-5, atol=1e-7
    )


def test_temperature_divides_the_logits(members):
    hot = members.replace(log_t=jnp.full((50, NODES), jnp.log(4.0)))
    np.testing.assert_allclose(boltzmann.logits_of(hot), np.asarray(members.prior) / 4, rtol=1e-6)


def test_crossover_takes_every_gene_from_a_parent_with_one_cut_on_the_nodes(members):
    other = jax.tree.map(lambda x: x + 100.0, members)
    child = boltzmann.crossover(jax.random.key(2), members, other)
    from_b = np.asarray(child.log_t) > 50
    assert (np.diff(from_b.astype(int), axis=1) >= 0).all(), "a's nodes first, then b's"
    assert (from_b.sum(1) > 0).all()
    assert (from_b.sum(1) < NODES).all()
    assert len(set(from_b.sum(1))) == NODES - 1, "every cut is drawn"
    for name in ("prior", "log_t"):
        a, b, c = (np.asarray(getattr(x, name)) for x in (members, other, child))
        chosen = from_b.reshape(*from_b.shape, *(1,) * (a.ndim - 2))
        np.testing.assert_array_equal(c, np.where(chosen, b, a))


def test_crossover_of_one_node_is_the_first_parent():
    one, two = (Boltzmann(jnp.full((1, 1, 2, LEVELS), x), jnp.full((1, 1), x)) for x in (1.0, 2.0))
    child = boltzmann.crossover(jax.random.key(0), one, two)
    np.testing.assert_array_equal(child.log_t, one.log_t)


def test_mutation_changes_a_share_of_the_nodes_whole(members):
    rates = BoltzmannRates(share=0.25, prior_std=0.5, log_t_std=0.1)
    many = jax.tree.map(lambda x: jnp.repeat(x, 40, axis=0), members)
    found = boltzmann.mutate(jax.random.key(3), many, rates)
    moved = np.asarray(found.log_t != many.log_t)
    np.testing.assert_array_equal((found.prior != many.prior).all(axis=(-1, -2)), moved)
    np.testing.assert_array_equal((found.prior != many.prior).any(axis=(-1, -2)), moved)
    assert moved.mean() == pytest.approx(0.25, abs=0.02)
    difference = np.asarray(found.prior - many.prior)[moved]
    assert difference.std() == pytest.approx(0.5, rel=0.05)
    assert np.asarray(found.log_t - many.log_t)[moved].std() == pytest.approx(0.1, rel=0.1)


def test_each_decision_may_have_a_temperature_of_its_own(members):
    start = jnp.zeros((NODES, 2, LEVELS))
    own = boltzmann.random_boltzmann(jax.random.key(0), 50, start, temperature=0.5, of="decision")
    assert own.log_t.shape == (50, NODES, 2)
    rates = BoltzmannRates(share=0.5, log_t_std=0.3)
    found = boltzmann.mutate(jax.random.key(3), own, rates)
    moved = np.asarray(found.log_t != own.log_t)
    np.testing.assert_array_equal(moved[..., 0], moved[..., 1], "a node mutates whole")
    assert moved.mean() == pytest.approx(0.5, abs=0.1)
    apart = np.asarray(found.log_t[..., 0] != found.log_t[..., 1])
    np.testing.assert_array_equal(apart, moved[..., 0], "and its decisions part")
    np.testing.assert_allclose(
        boltzmann.logits_of(found), found.prior * np.exp(-np.asarray(found.log_t))[..., None], rtol=1e-6
    )
    child = boltzmann.crossover(jax.random.key(4), found, own)
    from_b = np.asarray(child.prior == own.prior).all((-1, -2))
    np.testing.assert_array_equal(
        child.log_t, np.where(from_b[..., None], np.asarray(own.log_t), np.asarray(found.log_t))
    )
    assert boltzmann.seeded(found.prior, 1.0, "decision").log_t.shape == (50, NODES, 2)


def test_temperatures_stay_within_bounds(members):
    wild = BoltzmannRates(share=1.0, log_t_std=100.0)
    log_t = np.asarray(boltzmann.mutate(jax.random.key(4), members, wild).log_t)
    assert log_t.min() == pytest.approx(np.log(T_MIN), rel=1e-6)
    assert log_t.max() == pytest.approx(np.log(T_MAX), rel=1e-6)


def test_rates_are_traced_and_no_key_is_used_twice(members):
    mutate = jax.jit(boltzmann.mutate)
    with jax.debug_key_reuse(True):
        for share in (0.0, 1.0):
            found = mutate(jax.random.key(5), members, BoltzmannRates(share=share))
            assert bool((found.log_t == members.log_t).all()) == (share == 0.0)
        boltzmann.crossover(jax.random.key(6), members, members)
    assert mutate._cache_size() == 1
