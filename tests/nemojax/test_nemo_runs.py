"""Whole searches: an enumerated problem, and several runs at once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from moocore import hypervolume, is_nondominated

from nemojax.config import NemoConfig, Resize
from nemojax.loop import run, run_chunk
from nemojax.nemo import nemo
from nemojax.space import BitSpace

pytestmark = pytest.mark.long  # `make test-long`

SIX = BitSpace.create([f"q{i}" for i in range(6)])
DIRECT = ("continuous", "floor")
SMALL = NemoConfig(population=21, species=DIRECT, survival="nsga2", archive_capacity=64)

# An additive proxy of three layers, each with a weight and an activation quantizer (w0 a0 w1 a1 w2 a2).
SENSITIVITY = np.array([3, 1, 0.6, 0.9, 0.25, 0.4], np.float32)
PARAMETERS = np.array([1, 0, 9, 0, 16, 0], np.float32)
MACS = np.array([4, 9, 2], np.float32)


def proxy(bits):
    """Noise ~ 4^-bits, size ratio, bit-operation ratio; (k, 6) -> (k, 3)."""
    b = jnp.asarray(bits).astype(jnp.float32)
    noise = jnp.sum(SENSITIVITY[None] * 4.0 ** (2 - b), axis=1) / SENSITIVITY.sum()
    size = jnp.sum(PARAMETERS[None] * b, axis=1) / (32 * PARAMETERS.sum())
    work = jnp.sum(MACS[None] * jnp.maximum(b[:, ::2], b[:, 1::2]), axis=1) / (32 * MACS.sum())
    return jnp.stack([noise, size, work], axis=1)


# The enumerated problem

CORNER = [1, 0.25, 0.25]  # the worst value of each objective


@pytest.fixture(scope="module")
def enumerated():
    """The configurations on the front, and its hypervolume."""
    everything = np.array(list(itertools.product(range(2, 9), repeat=6)), np.int32)
    costs = np.asarray(jax.jit(proxy)(everything), np.float64)
    on_front = is_nondominated(costs, keep_weakly=True)
    return {tuple(row) for row in everything[on_front]}, hypervolume(costs[on_front], ref=CORNER)


@pytest.mark.parametrize(
    ("survival", "resize"),
    [
        ("nsga3", Resize()),
        pytest.param("nsga3", Resize(rule="equal"), marks=pytest.mark.slow),
        pytest.param("nsga2", Resize(), marks=pytest.mark.slow),
    ],
    ids=["nsga3", "nsga3, equal sizes", "nsga2"],
)
def test_recovers_the_enumerated_front(survival, resize, enumerated):
    """All 7^6 = 117,649 configurations; 953 are on the front. 50 generations of 120, three runs.

    By 6,000 evaluations a run must find 30 % of the front and 97.5 % of its hypervolume. As many
    uniform draws find 4 to 6 % and 95 to 97 %: they must stay below a quarter of the run's share.
    """
    front, volume = enumerated
    assert len(front) == 953
    algo = nemo(NemoConfig(survival=survival, species=DIRECT, resize=resize), SIX, 3)
    for seed in range(3):
        state, metrics = run(algo, proxy, algo.init(jax.random.key(seed)), generations=50, every=50)
        assert metrics.evaluations[-1] == 6000
        valid = np.asarray(state.archive.valid)
        found = {tuple(row) for row in np.asarray(state.archive.bits)[valid]}
        share = len(found & front) / len(front)
        assert share >= 0.3
        found_costs = np.asarray(state.archive.costs, np.float64)[valid]
        assert hypervolume(found_costs, ref=CORNER) >= 0.975 * volume
        drawn = np.random.default_rng(seed).integers(2, 9, (6000, 6))
        assert len({tuple(row) for row in drawn} & front) / len(front) <= share / 4
        assert hypervolume(np.asarray(proxy(drawn), np.float64), ref=CORNER) <= 0.97 * volume


# Several runs


@pytest.fixture(scope="module")
def four_runs():
    """A search, four keys, and the states and metrics of the four runs under vmap."""
    algo = nemo(SMALL, SIX, 3)
    keys = jax.random.split(jax.random.key(7), 4)
    together = jax.jit(jax.vmap(lambda key: run_chunk(algo, proxy, algo.init(key), 5)))
    return algo, keys, together, together(keys)


@pytest.mark.long
def test_vmapped_runs_equal_separate_ones(four_runs):
    algo, keys, _, batch = four_runs
    for row in range(4):
        one = run(algo, proxy, algo.init(keys[row]), generations=5, every=5)
        for x, y in zip(*map(jax.tree.leaves, (one, batch)), strict=True):
            np.testing.assert_array_equal(x, y[row].reshape(x.shape))


@pytest.mark.slow
def test_runs_sharded_over_devices_equal_those_on_one(four_runs):
    _, keys, together, batch = four_runs
    mesh = jax.make_mesh((4,), ("run",), axis_types=(AxisType.Auto,))
    sharded = together(jax.device_put(keys, NamedSharding(mesh, PartitionSpec("run"))))
    assert len(jax.tree.leaves(sharded)[0].sharding.device_set) == 4
    for x, y in zip(*map(jax.tree.leaves, (sharded, batch)), strict=True):
        np.testing.assert_array_equal(x, y)
