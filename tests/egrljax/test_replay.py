"""The replay buffer against a list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egrljax import replay as buffer
from egrljax.environment import Measured


def batch(start, count):
    number = jnp.arange(start, start + count)
    maps = jnp.broadcast_to((number % 3)[:, None, None], (count, 4, 2)).astype(jnp.int32)
    moved = number.astype(jnp.float32) / 100
    return maps, Measured(jnp.ones(count), moved, moved == 0, maps), number.astype(jnp.float32)


def test_rows_are_what_was_added_and_the_oldest_go():
    kept, held = buffer.empty(10, 4), []
    for start, live in ((0, 3), (3, 4), (7, 4), (11, 2), (13, 4)):
        maps, measured, speedup = batch(start, 4)
        kept = jax.jit(buffer.add)(kept, maps, measured, speedup, jnp.asarray(live))
        held = (held + list(range(start, start + live)))[-10:]
        there = np.asarray(kept.speedup)[np.asarray(buffer.filled(kept))]
        assert sorted(there.astype(int).tolist()) == sorted(held)
        some = buffer.sample(jax.random.key(start), kept, 64)
        assert set(np.asarray(some.speedup).astype(int).tolist()) <= set(held)
        np.testing.assert_array_equal(some.placement[:, 0, 0], some.speedup.astype(int) % 3)
        np.testing.assert_allclose(some.moved, some.speedup / 100, rtol=1e-6)
    assert int(kept.added) == 17


def test_every_row_is_sampled_alike():
    maps, measured, speedup = batch(0, 8)
    kept = buffer.add(buffer.empty(20, 4), maps, measured, speedup, jnp.asarray(8))
    drawn = np.asarray(buffer.sample(jax.random.key(1), kept, 8000).speedup).astype(int)
    counts = np.bincount(drawn, minlength=8)
    assert len(counts) == 8
    assert abs(counts - 1000).max() < 150


def test_a_buffer_without_room_is_refused():
    with pytest.raises(ValueError, match="capacity of the replay buffer must be at least 1, got 0"):
        buffer.empty(0, 4)
