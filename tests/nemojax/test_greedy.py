"""Greedy paths against a plain retelling, and what they promise: legal, downwards, to the lowest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import bit_operations_ratio, model_ratio, trace
from nemojax.baselines.greedy import COST_WEIGHTS, greedy_front, greedy_path
from nemojax.sensitivity import Sensitivity
from nemojax.space import PAPER_BITS, BitSpace


def apply(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]


SHAPES = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((12, 20), (20, 7))]
WORK = trace(apply, SHAPES, jax.ShapeDtypeStruct((1, 12), jnp.float32))
NAMES = WORK.point_names
FEEDS = [(op.weight_point, op.input_point) for op in WORK.operations if op.weight_point >= 0]


def drawn(seed, widths=PAPER_BITS):
    rng = np.random.default_rng(seed)
    noise = 4.0 ** -np.array(widths) * rng.uniform(0.7, 1.4, (len(NAMES), len(widths)))
    return Sensitivity(NAMES, widths, np.exp(rng.normal(0, 1.5, (len(NAMES), 1))) * noise, "sqnr")


def retold(sensitivity, weights):
    """The path over 2-8 bits, with dictionaries and hwmodel's own costs."""
    table = {
        (i, b): s for i, row in enumerate(sensitivity.table) for b, s in zip(PAPER_BITS, row, strict=True)
    }

    def cost(bits):
        size, bitops = model_ratio(WORK, jnp.asarray(bits)), bit_operations_ratio(WORK, jnp.asarray(bits))
        return weights[0] * float(size) + weights[1] * float(bitops)

    bits = [8] * len(NAMES)
    path = [bits]
    while max(bits) > 2:
        choices = []
        for move in [(i,) for i in range(len(NAMES))] + FEEDS:
            wide = max(bits[i] for i in move)
            step = [b - 1 if i in move and b == wide > 2 else b for i, b in enumerate(bits)]
            if step == bits:
                continue
            added = sum(table[i, b] - table[i, c] for i, (b, c) in enumerate(zip(step, bits, strict=True)))
            saved = cost(bits) - cost(step)
            choices.append((saved <= 1e-6, added / saved if saved > 1e-6 else added, step))
        bits = min(choices, key=lambda c: c[:2])[2]
        path.append(bits)
    return np.array(path)


@pytest.mark.parametrize("weights", COST_WEIGHTS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_plain_retelling(seed, weights):
    space, sensitivity = BitSpace.create(NAMES), drawn(seed)
    found = greedy_path(space, WORK, sensitivity, weights)
    np.testing.assert_array_equal(found, retold(sensitivity, weights))


def test_steps_go_down_one_at_a_time_to_the_lowest():
    space = BitSpace.create(NAMES, (2, 3, 8), pins={NAMES[1]: 3})
    path = greedy_path(space, WORK, drawn(0))
    assert (path[0] == [8, 3, 8, 8]).all()
    assert (path[-1] == [2, 3, 2, 2]).all()
    assert space.contains(path).all()
    assert (np.diff(path, axis=0) <= 0).all()
    assert (np.diff(path, axis=0) < 0).any(axis=1).all()


def test_ties_go_together():
    space = BitSpace.create(NAMES, ties=[[NAMES[0], NAMES[3]]])
    path = greedy_path(space, WORK, drawn(1))
    np.testing.assert_array_equal(path[:, 0], path[:, 3])
    assert space.contains(path).all()
    assert (path[-1] == 2).all()


@pytest.mark.parametrize("pairs", [((4, 4), (8, 8)), ((4, 8), (8, 8)), ((4, 4), (4, 8), (8, 8))])
def test_hardware_pairs_are_kept(pairs):
    space = BitSpace.create(NAMES, (4, 8), pairs=pairs, feeds=FEEDS)
    path = greedy_path(space, WORK, drawn(2))
    assert space.contains(path).all()
    assert (path[0] == 8).all()
    np.testing.assert_array_equal(path[-1], space.low)


def test_a_front_is_distinct_and_spans_the_paths():
    space, sensitivity = BitSpace.create(NAMES), drawn(0)
    rows = greedy_front(space, WORK, sensitivity, 20)
    assert 12 <= len(rows) <= 20
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert (rows == 8).all(1).any()
    assert (rows == 2).all(1).any()
    on_a_path = np.concatenate([greedy_path(space, WORK, sensitivity, w) for w in COST_WEIGHTS])
    assert {tuple(r) for r in rows.tolist()} <= {tuple(r) for r in on_a_path.tolist()}


def test_bad_input():
    space, sensitivity = BitSpace.create(NAMES), drawn(0)
    for weights in ((0.0, 0.0), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="cost_weights must not be negative"):
            greedy_path(space, WORK, sensitivity, weights)
    with pytest.raises(ValueError, match="count must be at least 1"):
        greedy_front(space, WORK, sensitivity, 0)
    with pytest.raises(ValueError, match="no entry for"):
        greedy_path(BitSpace.create(NAMES, (2, 9)), WORK, sensitivity)
