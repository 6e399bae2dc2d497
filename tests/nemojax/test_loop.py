"""Chunks, the host path, the seam, and how often anything is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.config import NemoConfig
from nemojax.loop import run
from nemojax.nemo import nemo
from nemojax.space import BitSpace

SPACE = BitSpace.create([f"q{i}" for i in range(5)], pins={"q3": 4})
WEIGHTS = np.array([3, 1, 4, 1, 5], np.float32)


def evaluate(bits):
    b = jnp.asarray(bits).astype(jnp.float32)
    error = jnp.sum(WEIGHTS[None] * 2.0 ** (2 - b), axis=1)
    return jnp.stack([error, jnp.sum(b * WEIGHTS[None, ::-1], axis=1)], axis=1)


@pytest.fixture(scope="module")
def algo():
    config = NemoConfig(population=12, species=("continuous", "floor"), archive_capacity=32)
    return nemo(config, SPACE, 2, scale=(24.0, 112.0))  # the worst that there can be


@pytest.fixture(scope="module")
def whole(algo):
    """Six generations in one chunk."""
    return run(algo, evaluate, algo.init(jax.random.key(0)), generations=6, every=6)


def assert_trees_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_chunks_change_nothing_and_compile_once(algo, whole):
    """Three chunks of two generations, then a second run: one trace of the evaluation and of ask."""
    traces, calls = [], []

    def counted(bits):
        traces.append(bits.shape)
        return evaluate(bits)

    def ask(state):
        calls.append("ask")
        return algo.ask(state)

    watched = algo._replace(ask=ask)
    for _ in range(2):
        result = run(watched, counted, algo.init(jax.random.key(0)), generations=6, every=2)
        assert_trees_equal(result, whole)
    assert traces == [(12, 5)]
    assert calls == ["ask"]


def test_the_host_path_gives_the_same_and_compiles_once(algo, whole):
    seen, calls = [], []

    def on_host(bits):
        assert isinstance(bits, np.ndarray)
        seen.append(bits.shape)
        return np.asarray(evaluate(bits)).tolist()

    def tell(state, ticket, costs, violation=None):
        calls.append("tell")
        return algo.tell(state, ticket, costs, violation)

    watched = algo._replace(tell=tell)
    for every in (2, 6):
        state = algo.init(jax.random.key(0))
        result = run(watched, on_host, state, generations=6, every=every, jit_evaluate=False)
        assert_trees_equal(result, whole)
    assert seen == [(12, 5)] * 12
    assert calls == ["tell"]


def test_metrics_cover_every_generation(whole):
    _, metrics = whole
    np.testing.assert_array_equal(metrics.generation, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(metrics.evaluations, 12 * np.arange(1, 7))
    assert metrics.best.shape == (6, 2)
    assert (np.diff(metrics.best, axis=0) <= 0).all()
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(metrics))


def test_on_chunk_sees_each_chunk_and_can_stop(algo, whole):
    seen = []

    def on_chunk(state, metrics):
        seen.append((int(state.generation), metrics.generation.tolist()))
        return len(seen) == 2

    state, metrics = run(
        algo, evaluate, algo.init(jax.random.key(0)), generations=6, every=2, on_chunk=on_chunk
    )
    assert seen == [(2, [1, 2]), (4, [3, 4])]
    assert int(state.generation) == 4
    np.testing.assert_array_equal(metrics.best, whole[1].best[:4])
    for answer, last in (("stop", 2), (np.float32(1) < 2, 2), (1, 6), ("on", 6)):
        told = lambda state, metrics, answer=answer: answer  # noqa: E731
        state, _ = run(algo, evaluate, algo.init(jax.random.key(0)), generations=6, every=2, on_chunk=told)
        assert int(state.generation) == last


def test_continuing_equals_not_stopping(algo, whole):
    half, _ = run(algo, evaluate, algo.init(jax.random.key(0)), generations=4, every=2)
    state, _ = run(algo, evaluate, half, generations=2, every=2)
    assert_trees_equal(state, whole[0])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"generations": 10, "every": 4}, "every must divide generations, got every=4 and generations=10"),
        ({"generations": 0, "every": 1}, "generations must be at least 1, got 0"),
        ({"generations": 4, "every": 0}, "every must be at least 1, got 0"),
    ],
)
def test_errors_name_the_numbers(algo, numbers, message):
    with pytest.raises(ValueError, match=message):
        run(algo, evaluate, algo.init(jax.random.key(0)), **numbers)


@pytest.mark.long
def test_violations_from_the_host_and_traced_are_the_same(algo):
    """A limit on the second cost: what exceeds it is told by how much, and nothing of it is archived."""

    def limited(bits):
        costs = evaluate(bits)
        return costs, jnp.maximum(costs[:, 1] - 60, 0)

    start = algo.init(jax.random.key(2))
    one = run(algo, limited, start, generations=4, every=2)
    two = run(algo, limited, start, generations=4, every=2, jit_evaluate=False)
    assert_trees_equal(one, two)
    state, metrics = one
    assert (metrics.over_budget > 0).any()
    valid = np.asarray(state.archive.valid)
    assert valid.any()
    assert (np.asarray(state.archive.costs)[valid, 1] <= 60).all()


def test_wrong_costs_from_the_host_are_refused(algo):
    with pytest.raises(ValueError, match=r"costs must have the shape \(12, 2\), got \(12, 1\)"):
        run(
            algo,
            lambda bits: np.zeros((12, 1)),
            algo.init(jax.random.key(0)),
            generations=1,
            every=1,
            jit_evaluate=False,
        )
