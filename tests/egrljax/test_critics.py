"""Critics: the roofline against a retelling, and that they learn what they are shown."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax import replay as buffer, roofline

from .small import algorithm, small_chip, small_work, tiny


@pytest.fixture(scope="module")
def env():
    return egrl.environment(small_work(nodes=8), small_chip((1500, 700)))


def random_maps(env, count, seed=0):
    scores = jax.random.normal(jax.random.key(seed), (count, *env.allowed.shape))
    return egrl.act_greedily(env, scores)


def retold(params, problem, placement):
    """The formulas of roofline.py, operation by operation in NumPy."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    n, parents, levels = problem.shape
    weights = np.asarray(problem.weight_traffic_bytes, float)
    written, read = np.asarray(problem.output_bytes, float), np.asarray(problem.parent_bytes, float)
    unit = (weights.sum() + written.sum() + read.sum()) / n
    rho = 1 / (1 + np.exp(-p["overlap"]))
    total = 0.0
    for i in range(n):
        load = np.zeros(levels)
        w, o = placement[int(problem.weight_of[i]), 0], placement[i, 1]
        load[w] += weights[i] / unit * np.exp(p["speed"][0, w] + p["weight"][i, w])
        load[o] += written[i] / unit * np.exp(p["speed"][1, o] + p["output"][i, o])
        seen = np.zeros((3, levels))
        seen[0, w] = weights[i] > 0
        seen[1, o] = 1
        for j in range(parents):
            if read[i, j] > 0:
                k = placement[int(problem.parent[i, j]), 1]
                load[k] += read[i, j] / unit * np.exp(p["speed"][0, k] + p["parent"][i, j, k])
                seen[2, k] += 1
        load[0] += np.exp(p["external"][i])
        terms = np.append(load, np.exp(p["compute"][i]))
        longest = 0.02 * np.log(np.sum(np.exp((terms - terms.max()) / 0.02))) + terms.max()
        seconds = rho * longest + (1 - rho) * terms.sum()
        inputs = np.concatenate([seen.ravel(), [load.max() / terms.sum(), terms[-1] / terms.sum()]])
        hidden = inputs @ p["hidden"] + p["hidden_bias"]
        hidden = hidden / (1 + np.exp(-hidden))
        total += seconds * np.exp(hidden @ p["out"][:, 0])
    return total / n * np.exp(p["scale"])


def test_the_roofline_is_the_retold_one(env):
    params = roofline.init(jax.random.key(0), env)
    keys = jax.random.split(jax.random.key(1), len(params))
    params = {
        name: value + 0.3 * jax.random.normal(key, value.shape)
        for key, (name, value) in zip(keys, params.items(), strict=True)
    }
    run = jax.jit(lambda placed: roofline.ratio(params, env, jax.nn.one_hot(placed, 3)))
    for placed in random_maps(env, 10):
        assert float(run(placed)) == pytest.approx(retold(params, env.problem, np.asarray(placed)), rel=1e-4)


def learn(env, config, maps, steps):
    """A learner that has seen the maps, and its losses."""
    algo = algorithm(config, env)
    learns = algo.learner
    state = algo.init(jax.random.key(0), env).learner
    measured = egrl.measure(jax.random.key(0), env, maps)
    seen = buffer.add(
        buffer.empty(len(maps), len(env.problem.mask)),
        maps,
        measured,
        env.reference_s / measured.latency_s,
        jnp.asarray(len(maps)),
    )

    @jax.jit
    def run(state):
        keys = jax.random.split(jax.random.key(1), steps)
        return jax.lax.scan(lambda s, key: learns.update(key, s, env, seen), state, keys)

    state, learned = run(state)
    return learns, state, np.asarray(learned.critic_loss)


@pytest.mark.long
@pytest.mark.parametrize("contention", [0.25, None])
def test_a_roofline_that_learned_predicts_maps_that_it_never_saw(contention):
    env = egrl.environment(small_work(nodes=8), small_chip((1500, 700)), contention=contention)
    config = tiny()
    config = replace(config, learner=replace(config.learner, critic_steps=20, actor_steps=0, batch=64))
    learns, state, _ = learn(env, config, random_maps(env, 300), 120)
    others = random_maps(env, 200, seed=9)
    true = env.reference_s / egrl.exact_latency(env, others) * config.reward.scale
    error = np.abs(np.asarray(learns.value(state, env, others)) / np.asarray(true) - 1)
    assert np.median(error) < 0.02
    assert np.corrcoef(learns.value(state, env, others), true)[0, 1] > 0.9


@pytest.mark.long
def test_a_graph_critic_learns_a_table_by_heart(env):
    config = tiny()
    settings = replace(config.learner, critic="graph", critic_steps=20, actor_steps=0, critic_rate=1e-2)
    config = replace(config, learner=replace(settings, batch=50, noise=0.0))
    _, _, losses = learn(env, config, random_maps(env, 100), 15)
    assert losses[-3:].mean() < losses[0] / 4


@pytest.mark.long
def test_a_graph_critic_learns_from_noisy_actions(env):
    """The noise is clipped, and there is none without a deviation."""

    def loss(**changes):
        config = tiny()
        learner = replace(config.learner, critic="graph", critic_steps=2, actor_steps=0, **changes)
        return learn(env, replace(config, learner=learner), random_maps(env, 60), 1)[2]

    clean = loss(noise=0.0)
    np.testing.assert_array_equal(loss(noise=0.5, noise_clip=0.0), clean)
    assert abs(loss(noise=0.5, noise_clip=0.3) - clean) > 1e-3 * clean


def test_the_known_model_is_hwmodels(env):
    config = tiny()
    config = replace(config, learner=replace(config.learner, critic="model"))
    algo = algorithm(config, env)
    state = algo.init(jax.random.key(0), env).learner
    maps = random_maps(env, 50)
    value = algo.learner.value(state, env, maps)
    true = env.reference_s / egrl.exact_latency(env, maps) * config.reward.scale
    np.testing.assert_allclose(value, true, rtol=0.05)


def test_the_actors_loss_reaches_every_parameter_and_what_does_not_fit_costs(env):
    config = tiny()
    learner = replace(config.learner, critic_steps=0, actor_steps=1, samples=4)
    config = replace(config, screen=1, learner=learner)
    algo = algorithm(config, env)
    state = algo.init(jax.random.key(0), env)
    learns = algo.learner
    after, learned = jax.jit(learns.update)(jax.random.key(1), state.learner, env, state.replay)
    changed = np.asarray(after.actor != state.learner.actor)
    shapes = algo.genome
    for tensor in range(len(shapes.shapes)):
        assert changed[shapes.segments == tensor].any(), list(shapes.shapes)[tensor]
    jax.tree.map(np.testing.assert_array_equal, after.critics, state.learner.critics)
    assert 0 < float(learned.entropy) <= np.log(3)


@pytest.mark.usefixtures("as_users_have_it")
def test_unknown_critics_are_refused():
    with pytest.raises(ValueError, match="critic must be one of"):
        egrl.critic("oracle", egrl.PolicyConfig(), egrl.RewardConfig())


def test_hwmodel_says_what_overflows(env):
    wish = jax.nn.one_hot(jnp.full(env.allowed.shape[:2], 2), 3)
    assert float(hw.overflow(env.problem, wish)) > 0
    fits = jax.nn.one_hot(random_maps(env, 1)[0], 3)
    assert float(hw.overflow(env.problem, fits)) == pytest.approx(0, abs=1e-6)
