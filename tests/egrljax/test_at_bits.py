"""Environments at traced bit-widths, against those of the host, leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax.at_bits import environment_at

from .small import small_chip, small_work


def drawn_bits(seed, count):
    rng = np.random.default_rng(seed)
    weights, outputs = rng.integers(2, 9, (2, count)).astype(np.int32)
    return hw.Bits(weights, outputs, np.int32(rng.integers(2, 9)))


@pytest.mark.long
def test_it_is_the_environment_of_the_host_at_every_bit_width():
    work, chip = small_work(nodes=6), small_chip()
    traces = []

    def counted(bits):
        traces.append(1)
        return environment_at(work, chip)(bits)

    run = jax.jit(counted)
    for seed in range(2):
        bits = drawn_bits(seed, 6)
        found = run(jax.tree.map(jnp.asarray, bits))
        wanted = egrl.environment(work, chip, bits=bits)
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-7)
    assert len(traces) == 1


def test_features_without_bytes_stay_as_they_are():
    work, chip = small_work(nodes=6), small_chip()
    graph = jax.eval_shape(environment_at(work, chip, features="onehot"), hw.INT8).graph
    assert graph.nodes.shape == hw.policy_graph(work, "onehot").nodes.shape


def test_a_negative_contention_is_refused():
    with pytest.raises(ValueError, match="contention must be at least 0, got -1"):
        environment_at(small_work(), small_chip(), contention=-1.0)
