"""The environment against hwmodel itself, and the rewards by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax.environment import exact_latency


def small_chip(capacity=(900, 300)):
    names, speeds = ("dram", "llc", "sram"), (1e9, 1e10, 1e11)
    rooms = (None, *capacity)
    levels = tuple(
        hw.Level(name, speed, speed, room) for name, speed, room in zip(names, speeds, rooms, strict=True)
    )
    return hw.Chip("small", levels, (hw.Rate(8, 8, 1e12),))


@pytest.fixture
def work():
    return hw.random_workload(3, 12, weight_elems=(20, 600), output_elems=(20, 200))


def random_maps(env, count, seed=0):
    shape = (count, *env.allowed.shape[:2])
    return jnp.asarray(np.random.default_rng(seed).integers(0, 3, shape).astype(np.int32))


def test_measurements_are_hwmodels(work):
    chip = small_chip((1500, 900))
    env = egrl.environment(work, chip)
    maps = random_maps(env, 60)
    found = egrl.measure(jax.random.key(0), env, maps)
    expected = hw.evaluate(hw.problem(work, chip), maps)
    np.testing.assert_array_equal(found.latency_s, expected.latency_s)
    np.testing.assert_array_equal(found.moved, expected.moved)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.placement, expected.placement)
    np.testing.assert_array_equal(exact_latency(env, maps), expected.latency_s)
    assert 0 < int(found.valid.sum()) < 60, "both kinds"
    first = hw.latency(env.problem, jnp.asarray(hw.first_fit(env.problem)))
    assert float(env.reference_s) == pytest.approx(float(first), rel=1e-6)


def test_choices_are_the_levels_that_a_tensor_alone_fits(work):
    chip = small_chip()
    names = [t.name for t in hw.tensors(work)]
    env = egrl.environment(work, chip, pins={names[0]: "llc"}, forbidden={names[1]: ["sram"]}, nodes=16)
    expected = np.zeros((16, 2, 3), bool)
    expected[..., 0] = True
    for t in hw.tensors(work):
        expected[t.operation, t.column] = [True, t.bytes <= 900, t.bytes <= 300]
    first, second = hw.tensors(work)[:2]
    expected[first.operation, first.column] = [False, True, False]
    expected[second.operation, second.column, 2] = False
    # What the pin holds is no longer there for the others.
    big = [t for t in hw.tensors(work)[1:] if 900 - first.bytes < t.bytes <= 900]
    for t in big:
        expected[t.operation, t.column, 1] = False
    np.testing.assert_array_equal(env.allowed, expected)
    assert int(env.decisions) == (expected.sum(-1) > 1).sum()


def test_noise_multiplies_and_repeats_with_its_key(work):
    quiet, loud = (egrl.environment(work, small_chip(), noise=sigma) for sigma in (0.0, 0.05))
    maps = jnp.broadcast_to(random_maps(quiet, 1), (4000, 12, 2))
    exact = egrl.measure(jax.random.key(1), quiet, maps).latency_s
    noisy = egrl.measure(jax.random.key(1), loud, maps).latency_s
    error = np.log(np.asarray(noisy) / np.asarray(exact))
    assert error.std() == pytest.approx(0.05, rel=0.1)
    assert abs(error.mean()) < 0.005
    np.testing.assert_array_equal(noisy, egrl.measure(jax.random.key(1), loud, maps).latency_s)
    np.testing.assert_array_equal(exact_latency(loud, maps), exact)


def test_contention_is_hwmodels_on_the_rectified_map(work):
    env = egrl.environment(work, small_chip(), contention=0.5)
    maps = random_maps(env, 20)
    found = egrl.measure(jax.random.key(0), env, maps)
    expected = hw.contended_latency(env.problem, found.placement, 0.5)
    np.testing.assert_array_equal(found.latency_s, expected)
    np.testing.assert_array_equal(exact_latency(env, maps), expected)
    assert (found.latency_s > hw.latency(env.problem, found.placement)).any()


def test_one_compilation_serves_workloads_of_a_size(work):
    measure = jax.jit(egrl.measure)
    for seed in (3, 4):
        work = hw.random_workload(seed, 12, skip_probability=0.0)
        env = egrl.environment(work, small_chip((9000, 3000)), nodes=16, noise=0.1)
        measure(jax.random.key(seed), env, random_maps(env, 8))
    assert measure._cache_size() == 1


def test_what_cannot_be_is_refused(work):
    chip = small_chip()
    with pytest.raises(ValueError, match=r"noise must be at least 0, got -0\.1"):
        egrl.environment(work, chip, noise=-0.1)
    with pytest.raises(ValueError, match="contention must be at least 0, got nan"):
        egrl.environment(work, chip, contention=float("nan"))
    with pytest.raises(ValueError, match=r"nothing to decide.*fits no level of chip 'small' but 'dram'"):
        egrl.environment(work, small_chip((5, 1)))
    with pytest.raises(ValueError, match="pins: there is no tensor"):
        egrl.environment(work, chip, pins={"nothing": "sram"})


# Rewards


def test_rewards_by_hand():
    speedup, moved = jnp.array([2.0, 2.0, 0.5, jnp.nan]), jnp.array([0.0, 0.25, 0.5, 0.0])
    for config, expected in (
        (egrl.RewardConfig(), [10.0, 10.0, 2.5, -np.inf]),
        (egrl.RewardConfig(penalty=4.0), [10.0, 9.0, 0.5, -np.inf]),
        (egrl.RewardConfig(fitness="strict", scale=1.0, power=2.0), [4.0, -0.25, -0.5, -np.inf]),
    ):
        np.testing.assert_allclose(egrl.reward(speedup, moved, config), expected)


@pytest.mark.parametrize(
    ("settings", "formula"),
    [
        ({}, "5 · speedup"),
        ({"power": 2.0, "penalty": 0.5}, "5 · speedup^2 - 0.5 · eps"),
        ({"fitness": "strict", "scale": 1.0}, "1 · speedup if nothing is re-assigned, else -eps"),
    ],
)
def test_reports_print_the_formula(settings, formula):
    assert str(egrl.RewardConfig(**settings)) == formula


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fitness": "lenient"}, "fitness must be one of .*got 'lenient'"),
        ({"scale": 0.0}, r"scale must be above 0, got 0\.0"),
        ({"power": float("nan")}, "power must be a number, got nan"),
        ({"penalty": -1.0}, r"penalty must be at least 0, got -1\.0"),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        egrl.RewardConfig(**settings)
