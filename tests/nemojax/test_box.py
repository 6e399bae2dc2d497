"""Boxes of real numbers against loops, and that both spaces keep the one protocol."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.box import Box, Space
from nemojax.space import BitSpace

BOX = Box([0, -5, 0.1], [1, 5, 0.3], steps=10)


def genes(seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-6, 6, (200, 3)), jnp.float32)


@pytest.mark.parametrize("space", [BOX, BitSpace.create("abc")], ids=str)
def test_both_spaces_keep_the_protocol(space):
    assert isinstance(space, Space)
    assert len(space.names) == space.size == 3
    assert space.low.dtype == space.high.dtype == np.float32
    drawn = space.sample(jax.random.key(0), 5)
    assert drawn.shape == (5, 3)
    for rows in (drawn, *(jax.vmap(f)(genes()) for f in (space.nearest, space.floor))):
        assert rows.dtype == space.dtype
        assert space.contains(np.asarray(rows)).all()
    np.testing.assert_array_equal(jax.vmap(space.snap)(drawn), drawn)
    assert hash(space) == hash(dataclasses.replace(space))


def test_nearest_clips():
    np.testing.assert_array_equal(jax.vmap(BOX.nearest)(genes()), np.clip(genes(), BOX.low, BOX.high))
    np.testing.assert_array_equal(
        BOX.nearest(jnp.asarray([np.nan, np.inf, -np.inf])), np.float32([0, 5, 0.1])
    )


def test_floor_rounds_down_to_the_grid_and_stays_there():
    floor = jax.jit(jax.vmap(BOX.floor))
    points = np.asarray(BOX.sample(jax.random.key(1), 300))
    found = np.asarray(floor(jnp.asarray(points)))
    for point, below in zip(points.astype(np.float64), found, strict=True):
        for x, y, low, high in zip(point, below, (0, -5, 0.1), (1, 5, 0.3), strict=True):
            steps = math.floor((x - low) / (high - low) * 10 + 1e-5)
            assert y <= np.float32(x)
            assert y == pytest.approx(low + (high - low) * steps / 10, abs=1e-6)
    np.testing.assert_array_equal(floor(jnp.asarray(found)), found)
    np.testing.assert_array_equal(BOX.floor(jnp.asarray(BOX.high)), BOX.high)
    np.testing.assert_array_equal(BOX.floor(jnp.asarray(BOX.low - 1)), BOX.low)


def test_floor_without_a_grid_only_clips():
    box = dataclasses.replace(BOX, steps=None)
    np.testing.assert_array_equal(jax.vmap(box.floor)(genes()), jax.vmap(BOX.nearest)(genes()))
    assert Box([0], [1]).floor(jnp.asarray([0.99]))[0] == 63 / 64


def test_contains_includes_the_borders():
    rows = np.float32([[0, -5, 0.1], [1, 5, 0.3], [1.01, 0, 0.2], [0.5, 0, np.nan]])
    np.testing.assert_array_equal(BOX.contains(rows), [True, True, False, False])


def test_samples_are_uniform():
    drawn = np.asarray(BOX.sample(jax.random.key(2), 4000))
    share = (drawn - BOX.low) / (BOX.high - BOX.low)
    np.testing.assert_allclose(share.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(share.var(0), 1 / 12, atol=0.005)


def test_equal_boxes_are_one_static_argument():
    traces = 0

    @jax.jit(static_argnums=0)
    def run(box, x):
        nonlocal traces
        traces += 1
        return box.floor(x)

    for box in (Box([0, 0], [1, 1]), Box(np.zeros(2), np.ones(2))):
        run(box, jnp.zeros(2))
    assert traces == 1
    run(Box([0, 0], [1, 2]), jnp.zeros(2))
    assert traces == 2
    assert Box([0], [1]) != Box([0], [1], steps=8)
    assert Box([0], [1]) != Box([0], [1], names=("length",))


def test_boxes_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BOX.low = 3
    with pytest.raises(ValueError, match="read-only"):
        BOX.low[0] = 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "low must be a row of finite numbers"),
        (([0], [np.inf]), "high must be a row of finite numbers"),
        (([0, 0], [1]), "low has 2 numbers, high has 1"),
        (([0, 1], [1, 1]), "low must be below high, got 1.0 and 1.0 on axis 1"),
        (([0], [1], 0), "steps must be at least 1, or None for no grid, got 0"),
        (([0, 0], [1, 1], 4, ("a", "a")), "names must be 2 different ones"),
        (([0, 0], [1, 1], 4, ("a",)), "names must be 2 different ones"),
    ],
)
def test_impossible_boxes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Box(*arguments)
