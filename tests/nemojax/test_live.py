"""Work on the living alone: equal to a loop, nothing beyond, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.live import rows_of_living


def squares(chunk):
    """Row j of chunk i is (member number + 1) squared, in three columns."""

    def make(i):
        member = i * chunk + jnp.arange(chunk, dtype=jnp.int32) + 1
        return jnp.broadcast_to((member**2)[:, None], (chunk, 3))

    return make


@pytest.mark.parametrize(("capacity", "chunk"), [(10, 3), (12, 4), (5, 8), (1, 1)])
def test_rows_equal_a_plain_loop_up_to_the_living(capacity, chunk):
    made = min(chunk, capacity)
    rows = jax.jit(lambda live: rows_of_living(squares(made), live, capacity, chunk))
    for live in range(capacity + 1):
        found = np.asarray(rows(jnp.int32(live)))
        assert found.shape == (capacity, 3)
        for member in range(live):
            np.testing.assert_array_equal(found[member], (member + 1) ** 2)
        whole = -(-live // made) * made  # rows of the last chunk may be made
        np.testing.assert_array_equal(found[whole:], 0)
    assert rows._cache_size() == 1, "the living count is traced"


def test_more_living_than_places_are_as_many_as_places():
    found = rows_of_living(squares(4), jnp.int32(100), 6, 4)
    np.testing.assert_array_equal(found[:, 0], np.arange(1, 7) ** 2)


def test_chunks_beyond_the_living_are_not_made():
    made = []

    def watched(i):
        jax.debug.callback(lambda i: made.append(int(i)), i)
        return squares(2)(i)

    jax.block_until_ready(jax.jit(lambda live: rows_of_living(watched, live, 20, 2))(jnp.int32(5)))
    jax.effects_barrier()
    assert sorted(made) == [0, 1, 2]


def test_under_vmap_each_population_has_its_own_living():
    lives = jnp.array([0, 1, 4, 7])
    together = jax.vmap(lambda live: rows_of_living(squares(2), live, 8, 2))(lives)
    for row, live in zip(together, lives, strict=True):
        np.testing.assert_array_equal(row, rows_of_living(squares(2), live, 8, 2))


def test_rows_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"make must give 4 rows, got shape \(3, 3\)"):
        rows_of_living(squares(3), 5, 10, 4)
