"""The soft model against the exact one at its vertices, its stated bounds, its gradients, and the descent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import hwmodel as hw
from hwmodel.soft import choices, excess_s, overflow, relaxed_latency

OPTIONS = [{}, {"overlap": 0.3}, {"move_cost": True, "external_io": "level1"}]


def shared_ports(chip):
    return dataclasses.replace(
        chip, levels=tuple(dataclasses.replace(level, ports="shared") for level in chip.levels)
    )


def one_hot_logits(placement, levels, size=40.0):
    return size * jax.nn.one_hot(placement, levels)


@pytest.mark.parametrize("options", OPTIONS)
def test_at_the_vertices_it_is_the_exact_model_from_above_within_its_bound(reference, options):
    rng = np.random.default_rng(0)
    work, chip = reference.random_work(rng, 15), reference.random_chip(rng, **options)
    with jax.enable_x64(True):
        problem = hw.problem(work, chip, nodes=20)
        wishes = np.zeros((10, 20, 2), np.int32)
        wishes[:, :15] = reference.random_placements(rng, 10, 15, 3)
        exact = np.asarray(hw.latency(problem, wishes))
        vertices = jax.vmap(lambda p: choices(problem, one_hot_logits(p, 3).astype(float), 1e-3))(wishes)
        for share in (1.0, 0.1, 1e-2):
            soft = np.asarray(jax.vmap(relaxed_latency, (None, 0, None))(problem, vertices, share))
            bound = float(excess_s(problem, share))
            assert (soft >= exact * (1 - 1e-12)).all()
            assert (soft <= exact + bound * (1 + 1e-9)).all()
        assert np.abs(soft - exact).max() > 0
        frozen = np.asarray(jax.vmap(relaxed_latency, (None, 0, None))(problem, vertices, 1e-8))
    np.testing.assert_allclose(frozen, exact, rtol=1e-6)


def test_without_dual_ports_the_bound_is_the_stated_one(reference):
    rng = np.random.default_rng(1)
    chip = shared_ports(reference.random_chip(rng))
    problem = hw.problem(reference.random_work(rng, 12), chip)
    mean = float(hw.latency(problem, np.zeros((12, 2), np.int32))) / 12
    np.testing.assert_allclose(excess_s(problem, 0.1), 12 * 0.1 * mean * np.log(4), rtol=1e-5)


def test_between_the_vertices_it_under_estimates(reference):
    """Jensen: at the mean of two placements the relaxed maximum is at most the mean of the maxima."""
    rng = np.random.default_rng(2)
    chip = shared_ports(reference.random_chip(rng))
    problem = hw.problem(reference.random_work(rng, 12), chip)
    pair = jax.nn.one_hot(reference.random_placements(rng, 2, 12, 3), 3)
    pair = pair.at[:, :, 0].set(pair[:, problem.weight_of, 0])
    ends = [float(relaxed_latency(problem, x, 1e-6)) for x in pair]
    assert float(relaxed_latency(problem, pair.mean(axis=0), 1e-6)) < np.mean(ends)


@pytest.mark.parametrize("seed", range(3))
def test_overflow_is_zero_exactly_where_a_placement_fits(reference, seed):
    rng = np.random.default_rng(seed)
    work, chip = reference.random_work(rng, 12), reference.random_chip(rng)
    problem = hw.problem(work, chip)
    wishes = reference.random_placements(rng, 40, 12, 3)
    wishes[:10] = np.asarray(hw.rectify(problem, wishes[:10]).placement)
    valid = np.asarray(hw.rectify(problem, wishes).valid)
    assert valid.any()
    assert not valid.all()
    spilled = np.array(
        [float(overflow(problem, choices(problem, one_hot_logits(p, 3), 1e-2))) for p in wishes]
    )
    np.testing.assert_array_equal(spilled == 0, valid)


def test_overflow_by_hand():
    """Two outputs of 60 and 90 bytes alive together on a level of 100: 0.5 at that step."""
    ops = (
        hw.Operation("a", "add", 0, 0, 0, -1, 0, 60, (), (1, 1, 1), (1, 1, 1)),
        hw.Operation("b", "add", 0, 0, 0, -1, 0, 90, (hw.Edge(0, 60),), (1, 1, 1), (1, 1, 1), is_output=True),
    )
    levels = (hw.Level("dram", 1e9, 1e9, align_bytes=1), hw.Level("sram", 1e9, 1e9, 100, align_bytes=1))
    problem = hw.problem(hw.Workload(ops), hw.Chip("two", levels, (hw.Rate(8, 8, 1e12),)))
    x = jax.nn.one_hot(jnp.ones((2, 2), jnp.int32), 2)
    np.testing.assert_allclose(overflow(problem, x), 0.5, rtol=1e-6)
    np.testing.assert_allclose(overflow(problem, 0.5 * x), 0.0)


@pytest.mark.long
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_equal_central_differences(reference, options):
    rng = np.random.default_rng(4)
    work, chip = reference.random_work(rng, 8), reference.random_chip(rng, capacity=(200, 900), **options)
    with jax.enable_x64(True):
        problem = hw.problem(work, chip)
        logits = jnp.asarray(rng.normal(size=(8, 2, 3)))

        def value(z):
            soft = hw.soft_latency(problem, z, hw.Temperature(0.3, 0.7))
            return soft.latency_s * 1e9 + soft.overflow

        gradient = np.asarray(jax.grad(value)(logits))
        for _ in range(12):
            i = tuple(rng.integers(0, s) for s in logits.shape)
            step = jnp.zeros_like(logits).at[i].set(1e-5)
            central = float(value(logits + step) - value(logits - step)) / 2e-5
            assert gradient[i] == pytest.approx(central, rel=1e-5, abs=1e-6)
        assert np.abs(gradient).max() > 0


def test_straight_through_is_hard_forward_and_soft_backward(reference):
    rng = np.random.default_rng(5)
    work, chip = reference.random_work(rng, 8, shared=False), reference.random_chip(rng)
    with jax.enable_x64(True):
        problem = hw.problem(work, chip)
        logits = jnp.asarray(rng.normal(size=(8, 2, 3)))
        cold = hw.Temperature(1e-8, 1.0)
        hard = hw.soft_latency(problem, logits, cold, straight_through=True).latency_s
        exact = hw.latency(problem, np.asarray(jnp.argmax(logits, -1), np.int32))
        assert float(hard) == pytest.approx(float(exact), rel=1e-6)
        gradient = jax.grad(lambda z: hw.soft_latency(problem, z, hw.Temperature(), True).latency_s)(logits)
        assert jnp.abs(gradient).max() > 0
        np.testing.assert_allclose(gradient.sum(axis=-1), 0, atol=1e-20)  # as of any softmax


@pytest.mark.long
def test_gradients_rank_single_changes_as_the_exact_model_does():
    """Spearman between gradient and true difference, over all moves of one tensor off the backing store.

    Warm, because at a cold vertex the gradient only sees the term that binds there.
    """
    work, chip = hw.zoo.mobilenet_v2(), hw.load_chip("nnp_i_aggregate", warn=False)
    n = len(work.operations)
    problem = hw.problem(work, chip)
    base = np.zeros((n, 2), np.int32)
    gradient = np.asarray(jax.grad(relaxed_latency, argnums=1)(problem, jax.nn.one_hot(base, 3), 0.3))
    moves, predicted = [], []
    for tensor in hw.tensors(work):
        i, column = tensor.operation, tensor.column
        for level in (1, 2):
            moves.append(base.copy())
            moves[-1][i, column] = level
            predicted.append(gradient[i, column, level] - gradient[i, column, 0])
    true = np.asarray(hw.latency(problem, np.stack(moves))) - float(hw.latency(problem, base))
    assert stats.spearmanr(predicted, true).statistic > 0.95


@pytest.mark.long
def test_padding_changes_nothing(reference):
    rng = np.random.default_rng(7)
    work, chip = reference.random_work(rng, 10), reference.random_chip(rng)
    logits = jnp.asarray(rng.normal(size=(10, 2, 3)), jnp.float32)
    plain = hw.soft_latency(hw.problem(work, chip), logits)
    padded = hw.soft_latency(hw.problem(work, chip, nodes=16), jnp.pad(logits, ((0, 6), (0, 0), (0, 0))))
    np.testing.assert_allclose(plain.latency_s, padded.latency_s, rtol=1e-5)
    np.testing.assert_allclose(plain.overflow, padded.overflow, rtol=1e-5)


@pytest.mark.long
def test_descent_finds_feasible_placements_near_the_optimum(reference):
    rng = np.random.default_rng(8)
    work, chip = reference.random_work(rng, 20), reference.random_chip(rng, capacity=(500, 2000))
    problem = hw.problem(work, chip)
    best = hw.optimal_placement(problem)
    start = min(float(hw.latency(problem, rule(problem))) for rule in hw.BASELINES.values())
    found = hw.optimize_placement(jax.random.key(0), problem)
    exact = hw.evaluate(problem, found.placement)
    assert exact.valid
    assert found.latency_s == pytest.approx(float(exact.latency_s), rel=1e-6)
    assert best.lower_bound_s * (1 - 1e-6) <= found.latency_s <= start
    assert found.latency_s / best.lower_bound_s < 1.05
    assert (np.diff(found.history_s) <= 0).all()
    assert found.evaluations == 40 * 16


@pytest.mark.long
def test_descent_from_anywhere_beats_as_many_random_placements(reference):
    rng = np.random.default_rng(9)
    work, chip = reference.random_work(rng, 20), reference.random_chip(rng, capacity=(500, 2000))
    problem = hw.problem(work, chip)
    config = hw.GradientConfig(steps=200, warm_restarts=0)
    found = hw.optimize_placement(jax.random.key(1), problem, config)
    random = hw.evaluate(problem, reference.random_placements(rng, found.evaluations, 20, 3))
    assert found.latency_s < float(random.latency_s.min())
    again = hw.optimize_placement(jax.random.key(1), problem, config)
    np.testing.assert_array_equal(found.placement, again.placement)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("round_every", 7),
        ("learning_rate", -1.0),
        ("time_temperature", (1.0, 0.0)),
        ("warm_restarts", 99),
    ],
)
def test_bad_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        hw.GradientConfig(**{field: value})
