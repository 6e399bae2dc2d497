"""Who lives on, against a sort in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.survivors import survivors

SLOTS, WORST = 7, 42  # of three species


def drawn(seed: int) -> np.ndarray:
    """(2, C) positions in an order of all species' members, -1 for those not evaluated."""
    rng = np.random.default_rng(seed)
    position = rng.choice(WORST, (2, SLOTS), replace=False)
    living = rng.integers(1, SLOTS + 1, 2)
    position[np.arange(SLOTS)[None] >= living[:, None]] = -1
    return position.astype(np.int32)


def retold(position: np.ndarray) -> list[int]:
    """Evaluated rows by position; behind them children, then parents, that were not, by index."""
    flat = position.reshape(-1).tolist()
    evaluated = sorted((p, row) for row, p in enumerate(flat) if p >= 0)
    children = [row for row in range(SLOTS, 2 * SLOTS) if flat[row] < 0]
    parents = [row for row in range(SLOTS) if flat[row] < 0]
    return [row for _, row in evaluated] + children + parents


@pytest.mark.parametrize("seed", range(20))
def test_the_best_live_on(seed):
    position = drawn(seed)
    live = int(np.random.default_rng(seed).integers(1, SLOTS + 1))
    found = jax.jit(survivors, static_argnums=(2, 3))(position, jnp.int32(live), float(WORST), "fresh")
    best = retold(position)[:SLOTS]
    np.testing.assert_array_equal(found.best, best)
    flat = position.reshape(-1)
    told = np.where(flat >= 0, flat, WORST)
    np.testing.assert_array_equal(np.concatenate([found.parents, found.children]), told)
    np.testing.assert_array_equal(found.kept, np.where(np.arange(SLOTS) < live, told[best], WORST))


def test_repeats_fill_places_with_the_best_again():
    position = np.full((2, SLOTS), -1, np.int32)
    position[0, :2], position[1, 0] = (5, 3), 9
    found = survivors(jnp.asarray(position), jnp.int32(6), float(WORST), "repeats")
    np.testing.assert_array_equal(found.best[:6], [1, 0, 7, 1, 0, 7])
    np.testing.assert_array_equal(found.kept, [3, 5, 9, 3, 5, 9, WORST])
