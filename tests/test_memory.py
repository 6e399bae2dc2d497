"""The budget of memory, chunks that keep to it, and that no chunk changes a result."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import fewshotjax.memory
import hwmodel as hw
import hwmodel.memory
from nemojax import traced

from .egrljax.small import algorithm, small_chip, small_work, tiny

MODULES = (hwmodel.memory, fewshotjax.memory)


def test_both_packages_have_the_same_file():
    ours, theirs = (Path(module.__file__ or "").read_text() for module in MODULES)
    assert ours == theirs


@pytest.mark.parametrize(("text", "budget"), [("1000", 1000), ("4e9", 4_000_000_000), (" 7 ", 7)])
def test_the_variable_is_the_budget(monkeypatch, text, budget):
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", text)
    assert hw.memory_budget() == budget


@pytest.mark.parametrize("text", ["4 GB", "0", "-1", "inf", "nan"])
def test_what_is_no_number_of_bytes_is_refused(monkeypatch, text):
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", text)
    with pytest.raises(ValueError, match=f"FRUGALJAX_MEMORY_BYTES must be a number of bytes .* got '{text}'"):
        hw.memory_budget()


def test_a_device_that_tells_is_believed(monkeypatch):
    monkeypatch.delenv("FRUGALJAX_MEMORY_BYTES", raising=False)
    told = {"bytes_limit": 1_000, "bytes_in_use": 200}
    device = SimpleNamespace(memory_stats=lambda: told)
    monkeypatch.setattr(hwmodel.memory.jax, "local_devices", lambda: [device])
    assert hw.memory_budget() == 400


def test_a_host_gives_half_of_what_is_free(monkeypatch):
    monkeypatch.delenv("FRUGALJAX_MEMORY_BYTES", raising=False)
    for available, of_group, budget in ((800, None, 400), (800, 300, 150), (None, None, 2**30)):
        monkeypatch.setattr(hwmodel.memory, "_available", lambda found=available: found)
        monkeypatch.setattr(hwmodel.memory, "_of_group", lambda found=of_group: found)
        assert hw.memory_budget() == budget
    monkeypatch.undo()
    assert 2**20 < hw.memory_budget() < 2**50


def test_chunks_are_powers_of_two_within_the_budget(monkeypatch):
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", "5e8")
    for count in (1, 3, 100, 1000):
        for each in (1, 10**5, 10**6, 3 * 10**8, 10**10):
            chunk = hw.chunk_within(count, lambda size, each=each: each * size)
            allowed = max(5e8, hwmodel.memory.SMALL_BYTES)
            if each * count <= allowed:
                assert chunk == count
            else:
                fitting = [2**i for i in range(12) if 2**i <= count and each * 2**i <= allowed]
                assert chunk == max(fitting, default=1)


@pytest.fixture(scope="module")
def problem():
    return hw.problem(hw.zoo.mobilenet_v2(), hw.load_chip("nnp_i_tight", warn=False))


@pytest.mark.parametrize("schedule", ["sequential", "critical_path"])
def test_placements_cost_the_same_in_any_chunk(problem, schedule):
    wishes = jax.random.randint(jax.random.key(0), (10, problem.shape[0], 2), 0, 3)
    whole = hw.evaluate(problem, wishes, schedule)
    assert not np.asarray(whole.valid).all()
    for chunk in (1, 4, 10, 99):
        jax.tree.map(
            np.testing.assert_array_equal, hw.evaluate(problem, wishes, schedule, chunk=chunk), whole
        )
        np.testing.assert_array_equal(
            hw.latency(problem, whole.placement, schedule, chunk=chunk), whole.latency_s
        )
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        hw.evaluate(problem, wishes, chunk=0)


def test_a_small_budget_splits_placements(monkeypatch, problem):
    """Seen in the traced program: a loop over blocks around the two walks."""
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", "2e7")
    shape = jax.ShapeDtypeStruct((200_000, problem.shape[0], 2), jnp.int32)
    text = str(jax.make_jaxpr(lambda x: hw.evaluate(problem, x).latency_s)(shape))
    each = 3 * problem.shape[0] + problem.slots.shape[0] + 4 * 2 + 12
    chunk = 65_536
    assert each * chunk <= 2e7 < each * 2 * chunk
    assert f"i8[{problem.shape[0]},{chunk}]" in text
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", "2e9")
    text = str(jax.make_jaxpr(lambda x: hw.evaluate(problem, x).latency_s)(shape))
    assert f"i8[{problem.shape[0]},{chunk}]" not in text


@pytest.mark.parametrize(("count", "chunk"), [(20_000, None), (20_000, 1_000)])
def test_the_estimate_for_placements_is_near_what_xla_counts(problem, count, chunk):
    run = jax.jit(lambda problem, wishes: hw.evaluate(problem, wishes, chunk=chunk))
    wishes = jax.ShapeDtypeStruct((count, problem.shape[0], 2), jnp.int32)
    assert hw.evaluation_bytes(problem, count, chunk) == pytest.approx(
        hw.program_bytes(run, problem, wishes), rel=0.25
    )


def test_policies_map_alike_where_they_do_not_fit_at_once(monkeypatch):
    """The budget splits them; the logits agree to rounding."""
    env = egrl.environment(small_work(), small_chip())
    algo = algorithm(tiny(), env)
    size = algo.genome.size
    actors = 0.1 * jax.random.normal(jax.random.key(0), (5, size))
    whole = jax.jit(algo.learner.logits)(env, actors)
    monkeypatch.setattr(hwmodel.memory, "SMALL_BYTES", 1)
    monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", "1")

    def anew(env, actors):  # another function, for JAX knows the trace of the first
        return algo.learner.logits(env, actors)

    assert str(jax.make_jaxpr(anew)(env, actors)).count("scan[") > 0
    split = jax.jit(anew)(env, actors)
    np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-6)


def test_samples_at_once_on_a_device_keep_to_the_budget(monkeypatch):
    """64 pixels of a side, three convolutions: the fullest moment has in, out, and out quantized."""

    def apply(params, x):
        for kernel in params:
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return x.mean(axis=(1, 2))

    params = [jnp.ones((3, 3, 3, 8)), jnp.ones((3, 3, 8, 16)), jnp.ones((3, 3, 16, 4))]
    sample = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda p: p, params)
    found = traced.Traced(apply, shapes, sample, True, "xla")
    each = 4 * 64 * 64 * (8 + 16 + 16)
    assert traced.activation_bytes(found.workload(), 3) == 3 * each
    for budget, images in ((10**9, 256), (100 * each, 64), (1, 1)):
        monkeypatch.setenv("FRUGALJAX_MEMORY_BYTES", str(budget))
        assert found.micro_batch == images
