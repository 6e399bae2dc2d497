"""The integer program against enumeration, and against dynamic programming where sizes are whole numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hwmodel import bit_operations_ratio, model_ratio, trace
from nemojax.baselines.knapsack import Knapsack, knapsack_front
from nemojax.sensitivity import Sensitivity
from nemojax.shares import Shares
from nemojax.space import PAPER_BITS, BitSpace


def perceptron(*sizes):
    """A workload of matrix products, each with a quantizer at its weight and at its input."""
    params = [jax.ShapeDtypeStruct((a, b), jnp.float32) for a, b in itertools.pairwise(sizes)]

    def apply(params, x):
        for w in params[:-1]:
            x = jax.nn.relu(x @ w)
        return x @ params[-1]

    return trace(apply, params, jax.ShapeDtypeStruct((1, sizes[0]), jnp.float32))


def drawn(workload, seed, widths=PAPER_BITS):
    """Convex-looking sensitivities over three orders of magnitude."""
    rng = np.random.default_rng(seed)
    n = len(workload.points)
    table = (
        np.exp(rng.normal(0, 1.5, (n, 1)))
        * 4.0 ** -np.array(widths)
        * rng.uniform(0.7, 1.4, (n, len(widths)))
    )
    return Sensitivity(workload.point_names, widths, table, "sqnr")


def feeds(workload):
    return [(op.weight_point, op.input_point) for op in workload.operations if op.weight_point >= 0]


WORK = perceptron(12, 20, 7)


def configurations(space):
    rows = np.array(list(itertools.product(*space.allowed)), np.int32)
    return rows[space.contains(rows)]


def test_shares_are_the_costs():
    space = BitSpace.create(WORK.point_names)
    bits = np.asarray(space.sample(jax.random.key(0), 8))
    shares = Shares.of(WORK)
    for cost, found in ((model_ratio, shares.model_ratio), (bit_operations_ratio, shares.bitops_max)):
        np.testing.assert_allclose(found(bits), [cost(WORK, jnp.asarray(b)) for b in bits], rtol=1e-6)


def spaces():
    names = WORK.point_names
    yield "free", BitSpace.create(names)
    yield "sets", BitSpace.create(names, (3, 4, 8), pins={names[0]: 8})
    yield "tied", BitSpace.create(names, (2, 4, 5, 8), ties=[[names[0], names[2]]])
    pairs = ((2, 8), (4, 4), (8, 8))
    yield "pairs", BitSpace.create(names, (2, 4, 8), pairs=pairs, feeds=feeds(WORK))


@pytest.mark.parametrize(("name", "space"), list(spaces()))
@pytest.mark.parametrize("seed", range(3))
def test_equals_enumeration(name, space, seed):
    sensitivity, shares = drawn(WORK, seed), Shares.of(WORK)
    rows = configurations(space)
    error = sensitivity.additive(rows)
    size, bitops = shares.model_ratio(rows), shares.bitops_max(rows)
    program = Knapsack.of(space, WORK, sensitivity)
    rng = np.random.default_rng(seed)
    for most in zip(rng.uniform(0, 0.3, 8), rng.uniform(0, 0.3, 8), strict=True):
        within = (size <= most[0]) & (bitops <= most[1])
        found = program.solve(model_ratio=most[0], bitops_max=most[1], gap=0.0)
        if not within.any():
            assert found is None
            continue
        assert space.contains(found[None])[0]
        assert shares.model_ratio(found[None])[0] <= most[0] * (1 + 1e-6)
        assert shares.bitops_max(found[None])[0] <= most[1] * (1 + 1e-6)
        np.testing.assert_allclose(sensitivity.additive(found[None])[0], error[within].min(), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_equals_dynamic_programming_on_the_size(seed):
    work = perceptron(*np.random.default_rng(seed).integers(2, 9, 9).tolist())
    sensitivity, space = drawn(work, seed), BitSpace.create(work.point_names)
    elems = {op.weight_point: op.w_elems for op in work.operations if op.weight_point >= 0}
    total = sum(elems.values())
    program = Knapsack.of(space, work, sensitivity)
    for mean_bits in (2.5, 4.0, 6.3):
        budget = int(mean_bits * total)
        best = np.zeros(budget + 1)  # least error within each size, over the quantizers so far
        for i, row in enumerate(sensitivity.table):
            after = np.full(budget + 1, np.inf)
            for b, s in zip(sensitivity.widths, row, strict=True):
                cost = elems.get(i, 0) * b
                if cost <= budget:
                    after[cost:] = np.minimum(after[cost:], best[: budget + 1 - cost] + s)
            best = after
        found = program.solve(model_ratio=budget / (32 * total), gap=0.0)
        np.testing.assert_allclose(sensitivity.additive(found[None])[0], best[budget], rtol=1e-5)


def test_an_input_without_a_quantizer_is_32_bits_wide():
    def apply(params, x):  # the second product's input is a sigmoid's output, squared: no quantizer feeds it
        return (x @ params[0]) @ params[1]

    work = trace(apply, [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((6, 5), (5, 4))], jnp.zeros((1, 6)))
    shares = Shares.of(work)
    bits = np.full((1, len(work.points)), 4, np.int32)
    np.testing.assert_allclose(
        shares.bitops_max(bits)[0], bit_operations_ratio(work, jnp.asarray(bits[0])), rtol=1e-6
    )


def test_a_front_is_distinct_legal_and_spans_the_costs():
    space, sensitivity = BitSpace.create(WORK.point_names), drawn(WORK, 0)
    rows = knapsack_front(space, WORK, sensitivity, 30)
    bitops = Shares.of(WORK).bitops_max(rows)
    assert 15 <= len(rows) <= 30
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert space.contains(rows).all()
    assert (bitops.min(), bitops.max()) == (2 / 32, 8 / 32)
    assert len(knapsack_front(space, WORK, sensitivity, 3)) == 3


def test_no_configuration_of_a_front_dominates_another():
    space, sensitivity, shares = BitSpace.create(WORK.point_names), drawn(WORK, 1), Shares.of(WORK)
    rows = knapsack_front(space, WORK, sensitivity, 20, gap=0.0)
    costs = np.stack([sensitivity.additive(rows), shares.model_ratio(rows), shares.bitops_max(rows)], 1)
    better = (costs[:, None] < costs[None] * (1 - 1e-9)).all(-1)
    assert not better.any()


def test_bad_input():
    space, sensitivity = BitSpace.create(WORK.point_names), drawn(WORK, 0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        knapsack_front(space, WORK, sensitivity, 0)
    with pytest.raises(ValueError, match=r"no entry for .* at 9 bits"):
        Knapsack.of(BitSpace.create(WORK.point_names, (8, 9)), WORK, sensitivity)
    other = perceptron(3, 4)
    with pytest.raises(ValueError, match="space is of another network"):
        Knapsack.of(space, other, sensitivity)
    with pytest.raises(ValueError, match="sensitivity is of another network"):
        Knapsack.of(space, WORK, drawn(other, 0))
