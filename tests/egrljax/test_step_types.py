"""A generation leaves the state's types as they were: else the second one would compile all anew.

The first compilation of EGRL takes most of a minute; weakly typed numbers at the start doubled that.
"""

from dataclasses import replace

import jax
import pytest

import egrljax as egrl
from egrljax.loop import step

from .small import algorithm, small_chip, small_work, tiny


def before_and_after(both, *arguments):
    """Types of the leaves of two states that `both` gives."""
    types = [(x.shape, x.dtype, x.weak_type) for x in jax.make_jaxpr(both)(*arguments).out_avals]
    return types[: len(types) // 2], types[len(types) // 2 :]


@pytest.mark.parametrize("critic", ["roofline", "graph"])
def test_of_egrl(critic):
    env = egrl.environment(small_work(), small_chip())
    config = tiny()
    config = replace(config, learner=replace(config.learner, critic=critic))
    algo = algorithm(config, env)

    def both(key, env):
        state = algo.init(key, env)
        return state, step(algo, env, state)[0]

    before, after = before_and_after(both, jax.random.key(0), env)
    assert before == after


def test_of_a_shared_policy():
    envs = egrl.environments([(small_work(seed), small_chip()) for seed in (20, 21)])
    config = tiny(chromosomes=0, chromosome_elites=0, seed_every=0, rollouts=2)
    algo = egrl.shared(config, envs.graph.nodes.shape[-1])

    def both(key, envs):
        state = algo.init(key, envs)
        return state, algo.step(state, envs)[0]

    before, after = before_and_after(both, jax.random.key(0), envs)
    assert before == after
