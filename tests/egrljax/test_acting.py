"""Acting: the distribution of draws, maps that fit, and where the search starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax.decisions import masked

from .small import small_chip, small_work


@pytest.fixture(scope="module")
def env():
    return egrl.environment(small_work(nodes=8), small_chip((1500, 700)))


def test_levels_are_drawn_from_the_softmax(env):
    logits = jax.random.normal(jax.random.key(0), env.allowed.shape)
    maps = egrl.act(jax.random.key(1), env, jnp.broadcast_to(logits, (20_000, *logits.shape)), "levels")
    share = np.stack([np.mean(np.asarray(maps) == k, axis=0) for k in range(3)], axis=-1)
    expected = jax.nn.softmax(masked(logits, env.allowed), axis=-1)
    np.testing.assert_allclose(share, expected, atol=0.015)


def test_margins_give_the_same_map_where_it_fits_and_one_that_fits_elsewhere(env):
    logits = 2 * jax.random.normal(jax.random.key(2), (300, *env.allowed.shape))
    levels = egrl.act(jax.random.key(3), env, logits, "levels")
    margins = egrl.act(jax.random.key(3), env, logits, "margins")
    found, fitted = hw.rectify(env.problem, levels), hw.rectify(env.problem, margins)
    assert bool(fitted.valid.all())
    held = np.stack([env.problem.weight_bytes, env.problem.output_bytes], axis=1) > 0
    valid = np.asarray(found.valid)
    assert 0 < valid.sum() < 300
    np.testing.assert_array_equal(np.asarray(margins)[valid][:, held], np.asarray(levels)[valid][:, held])
    greedy = egrl.act_greedily(env, logits, "levels")
    np.testing.assert_array_equal(greedy, jnp.argmax(masked(logits, env.allowed), axis=-1))


@pytest.mark.long
def test_the_density_start_acts_much_like_the_rule():
    work, chip = hw.zoo.resnet50(), hw.load_chip("nnp_i_tight", warn=False)
    env = egrl.environment(work, chip)
    start = egrl.start_logits(env)
    placement = egrl.act_greedily(env, start[None])[0]
    rule = hw.density(env.problem)
    held = np.stack([env.problem.weight_bytes, env.problem.output_bytes], axis=1) > 0
    assert np.mean((np.asarray(placement) == rule)[held]) > 0.8
    assert float(egrl.exact_latency(env, placement)) < 1.1 * float(egrl.exact_latency(env, jnp.asarray(rule)))
    stay = jax.nn.softmax(egrl.start_logits(env, "backing"), axis=-1)
    np.testing.assert_allclose(stay[..., 0], 0.9, rtol=1e-5)
    np.testing.assert_array_equal(egrl.start_logits(env, "uniform"), 0)


@pytest.mark.usefixtures("as_users_have_it")
def test_unknown_names_are_refused(env):
    with pytest.raises(ValueError, match="acting must be one of"):
        egrl.act(jax.random.key(0), env, jnp.zeros((1, *env.allowed.shape)), "softly")
    with pytest.raises(ValueError, match="start must be one of"):
        egrl.start_logits(env, "anywhere")
