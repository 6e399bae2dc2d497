"""Tournaments against their closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egrljax import tournament, uniform_index

inf, nan = np.inf, np.nan
many = jax.jit(tournament, static_argnames=("num", "size"))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_frequencies_match_the_closed_form(size):
    """P(the k best of L contain the winner) = 1 − (1 − k/L)^size; four standard errors."""
    fitness = jnp.array([3.0, nan, 0.0, -9.0, 1.0, inf, 2.0, -5.0])
    live = jnp.array([True, True, True, False, True, True, True, False])
    num = 20_000
    winners = np.asarray(many(jax.random.key(size), fitness, live, num=num, size=size))
    best_first = [2, 4, 6, 0, 1, 5]  # nan counts as +inf, and then the lower index wins
    assert set(winners) == set(best_first)
    for k in range(1, 7):
        expected = 1 - (1 - k / 6) ** size
        error = np.sqrt(expected * (1 - expected) / num)
        assert abs(np.isin(winners, best_first[:k]).mean() - expected) <= 4 * error


def test_ties_go_to_the_lowest_index():
    """With more draws than members the tournament sees them all, up to (2/3)^200."""
    winners = many(jax.random.key(0), jnp.zeros(4), jnp.array([False, True, True, True]), num=50, size=200)
    np.testing.assert_array_equal(winners, 1)


def test_one_live_member_wins_everything_and_none_gives_zero():
    fitness = jnp.arange(5.0)
    one = many(jax.random.key(0), fitness, jnp.arange(5) == 3, num=7, size=2)
    np.testing.assert_array_equal(one, np.full(7, 3))
    np.testing.assert_array_equal(many(jax.random.key(0), fitness, jnp.zeros(5, bool), num=7, size=2), 0)


def test_the_live_set_is_traced_and_vmaps():
    traces = 0

    @jax.jit
    def pick(key, fitness, live):
        nonlocal traces
        traces += 1
        return tournament(key, fitness, live, 6, 2)

    keys = jax.random.split(jax.random.key(0), 3)
    fitness = jax.random.normal(jax.random.key(1), (3, 8))
    live = jnp.arange(8)[None] < jnp.array([2, 5, 8])[:, None]
    together = jax.vmap(lambda k, f, ok: tournament(k, f, ok, 6, 2))(keys, fitness, live)
    for row in range(3):
        np.testing.assert_array_equal(pick(keys[row], fitness[row], live[row]), together[row])
        assert (np.asarray(together[row]) < [2, 5, 8][row]).all()
    assert traces == 1


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="num must be at least 1, got 0"):
        tournament(jax.random.key(0), jnp.zeros(3), jnp.ones(3, bool), 0, 2)
    with pytest.raises(ValueError, match="size must be at least 1, got -1"):
        tournament(jax.random.key(0), jnp.zeros(3), jnp.ones(3, bool), 4, -1)


def test_uniform_indices_are_even_and_within_range():
    found = np.asarray(uniform_index((jnp.arange(7000.0) + 0.5) / 7000, 7))
    np.testing.assert_array_equal(np.bincount(found), np.full(7, 1000))
    ends = jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))])
    for count in (1, 3, 110, 4096):
        np.testing.assert_array_equal(uniform_index(ends, jnp.int32(count)), [0, count - 1])
    np.testing.assert_array_equal(uniform_index(ends, 0), [0, 0])
