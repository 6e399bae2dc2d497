"""The benchmarks' test problems against pymoo's, their hypervolumes against true fronts, and the rival."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pymoo.indicators.hv import HV
from pymoo.problems import get_problem

NAMES = ["zdt1", "zdt2", "zdt3", "zdt4", "zdt6", "dtlz1", "dtlz2", "dtlz7"]


def benchmark(name):
    """A module of the repository's benchmarks, which are in no package that is installed."""
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    if not path.is_file():
        pytest.skip("the benchmarks are not here: this is not the repository")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def moo():
    return benchmark("moo_problems")


@pytest.mark.parametrize("name", NAMES)
def test_values_and_bounds_are_pymoos(name, moo):
    ours, theirs = moo.PROBLEMS[name], get_problem(name)
    assert (ours.num_variables, ours.num_objectives) == (theirs.n_var, theirs.n_obj)
    np.testing.assert_array_equal(ours.lower, theirs.xl)
    np.testing.assert_array_equal(ours.upper, theirs.xu)
    unit = np.random.default_rng(0).random((500, theirs.n_var)).astype(np.float32)
    unit[:50] = np.round(unit[:50])  # corners of the box too
    x = (ours.lower + (ours.upper - ours.lower) * unit).astype(np.float32)
    expected = theirs.evaluate(x.astype(float))
    found = jax.jit(ours.costs)(x)
    assert found.dtype == jnp.float32
    # DTLZ1 takes the cosine of angles up to 30, multiplied by 100.
    scale = np.maximum(1, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(moo.scaled(ours, jnp.asarray(unit)), found, rtol=1e-5, atol=1e-5 * scale)


def front_2d(name):
    t = np.linspace(0, 1, 20001)
    if name == "zdt6":
        least = np.min(1 - np.exp(-4 * t) * np.sin(6 * np.pi * t) ** 6)
        t = least + (1 - least) * t
    curve = {"zdt2": 1 - t**2, "zdt6": 1 - t**2, "zdt3": 1 - np.sqrt(t) - t * np.sin(10 * np.pi * t)}
    return np.stack([t, curve.get(name, 1 - np.sqrt(t))], axis=1)


@pytest.mark.parametrize("name", NAMES[:5])
def test_hypervolume_of_the_fronts_of_two_objectives(name, moo):
    problem = moo.PROBLEMS[name]
    np.testing.assert_allclose(HV(problem.reference)(front_2d(name)), problem.best_hypervolume, rtol=2e-4)


def test_hypervolume_of_the_fronts_of_three_objectives(moo):
    """Box less what lies below the plane, the sphere; for DTLZ7 6.6 − 6 + Φ(a) + Φ(b) over the square."""
    best = {name: moo.PROBLEMS[name].best_hypervolume for name in NAMES[5:]}
    np.testing.assert_allclose(best["dtlz1"], 0.145542, atol=1e-6)
    np.testing.assert_allclose(best["dtlz2"], 0.807401, atol=1e-6)
    t = np.linspace(0, 1.1, 110001)
    wave = np.where(t <= 1, t * (1 + np.sin(3 * np.pi * t)), 0)
    reached = np.trapezoid(np.maximum.accumulate(wave), t)
    np.testing.assert_allclose(best["dtlz7"], 0.6 * 1.21 + 2 * 1.1 * reached, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_rival_runs_the_given_budget_and_improves(moo):
    rival, problem = benchmark("pymoo_rival"), moo.PROBLEMS["dtlz2"]
    costs = jax.jit(problem.costs)
    settings = {"population": 40, "generations": 30, "seed": 3}

    def run():
        return rival.run_nsga3(
            lambda x: np.asarray(costs(x.astype(np.float32))), problem.lower, problem.upper, 3, **settings
        )

    one, two = run(), run()
    assert one.evaluated.shape == (1200, 3)
    assert len(one.final) <= 40
    np.testing.assert_array_equal(one.evaluated, two.evaluated)
    rows = {tuple(row) for row in one.evaluated}
    assert all(tuple(row) in rows for row in one.final)
    volume = HV(problem.reference)
    assert volume(one.evaluated[:40]) < 0.3 < 0.6 < volume(one.final) < problem.best_hypervolume


def test_the_rivals_generation_takes_time():
    rival = benchmark("pymoo_rival")
    settings = {"num_variables": 20, "generations": 3, "warm_up": 1}
    assert 0 < rival.generation_seconds(16, **settings) < rival.generation_seconds(512, **settings)
