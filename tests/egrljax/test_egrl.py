"""EGRL whole: against all maps of small networks, its budget, its determinism, its failures."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax.state import keys_of

from .small import algorithm, brute_force, small_chip, small_work, tiny


@cache
def small_env(contention=None, noise=0.0):
    return egrl.environment(small_work(), small_chip(), contention=contention, noise=noise)


def whole(config, env, keys):
    """Answers of several seeds as one program."""
    algo = algorithm(config, env)

    def one(key):
        state, _ = egrl.run_chunk(algo, env, algo.init(key, env), config.generations)
        return state.best_s, state.best, algo.answer(state, env), state.measured

    return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)


BUDGET = 800


MORE = {"chromosomes": 40, "chromosome_elites": 30}


def test_neither_the_start_nor_draws_reach_the_optimum():
    """So that the tests below tell something."""
    env, least = small_env(), brute_force(small_env())
    start = egrl.start_logits(env)
    assert float(egrl.exact_latency(env, egrl.act_greedily(env, start[None])[0])) > 1.2 * least
    about = start[None] + 0.3 * jax.random.normal(jax.random.key(0), (10 * BUDGET, *start.shape))
    assert float(egrl.exact_latency(env, egrl.act_greedily(env, about)).min()) > 1.01 * least
    anywhere = egrl.act(jax.random.key(1), env, jnp.zeros_like(about))
    runs = np.asarray(egrl.exact_latency(env, anywhere)).reshape(10, BUDGET).min(axis=1)
    assert np.sum(runs < 1.01 * least) <= 6


def test_it_reaches_the_optimum_of_all_maps_and_never_passes_it():
    env, config = small_env(), tiny(budget=BUDGET, start_std=1.0, **MORE)
    best_s, best, answer, measured = whole(config, env, jax.random.split(jax.random.key(0), 10))
    least = brute_force(env)
    assert np.sum(np.asarray(best_s) <= least * (1 + 1e-6)) >= 9
    assert (np.asarray(best_s) >= least * (1 - 1e-6)).all()
    np.testing.assert_allclose(egrl.exact_latency(env, best), best_s, rtol=1e-6)
    np.testing.assert_array_equal(answer, best)
    assert (np.asarray(measured) == BUDGET).all()


@pytest.mark.long
def test_without_a_learner_it_does_so_too():
    env = small_env()
    config = tiny(budget=1200, rollouts=0, screen=1, start_std=1.0, **MORE)
    config = replace(config, learner=replace(config.learner, critic_steps=0, actor_steps=0))
    best_s, *_ = whole(config, env, jax.random.split(jax.random.key(1), 10))
    assert np.sum(np.asarray(best_s) <= brute_force(env) * (1 + 1e-6)) >= 9


@pytest.mark.long
def test_the_learner_alone_solves_one_node():
    work = hw.random_workload(2, 1, weight_elems=(100, 200), output_elems=(50, 100))
    env = egrl.environment(work, small_chip())
    none = {"policies": 0, "policy_elites": 0, "chromosomes": 0, "chromosome_elites": 0}
    config = tiny(budget=120, rollouts=4, **none)
    config = replace(config, learner=replace(config.learner, actor_steps=4))
    least = brute_force(env)
    nowhere = egrl.exact_latency(env, jnp.zeros(env.allowed.shape[:2], jnp.int32))
    assert float(nowhere) > 1.5 * least
    best_s, *_ = whole(config, env, jax.random.split(jax.random.key(1), 5))
    np.testing.assert_allclose(best_s, least, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes", [pytest.param({"contention": 0.3}, marks=pytest.mark.slow), {"noise": 0.05}]
)
def test_costs_without_a_solver(changes):
    env = small_env(**changes)
    config = tiny(budget=600, rank="predicted" if "noise" in changes else "measured", **MORE)
    config = replace(config, learner=replace(config.learner, critic_steps=10, batch=64))
    _, _, answer, _ = whole(config, env, jax.random.split(jax.random.key(0), 5))
    least = brute_force(env._replace(noise=jnp.zeros(())))
    found = np.asarray(egrl.exact_latency(env, answer))
    assert np.median(found) <= least * 1.02


@pytest.mark.long
@pytest.mark.parametrize(
    "strategy",
    ["DifferentialEvolution", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SNES", "CMA_ES"))],
)
def test_a_strategy_of_evosax_drives_a_sub_population(strategy):
    env = small_env()
    config = tiny(strategy=strategy, guests=6, budget=600)
    assert config.batch == 2 + 4 + 1 + 6
    best_s, _, _, measured = whole(config, env, jax.random.split(jax.random.key(0), 5))
    assert (np.asarray(measured) == 600).all()
    assert np.sum(np.asarray(best_s) <= brute_force(env) * (1 + 1e-6)) >= 4
    alone = {"policies": 0, "policy_elites": 0, "chromosomes": 0, "chromosome_elites": 0, "rollouts": 0}
    algo = algorithm(tiny(strategy=strategy, guests=6, **alone), env)
    state, metrics = egrl.run(algo, env, jax.jit(algo.init)(jax.random.key(0), env), every=34)
    assert np.isneginf(metrics.rewards[:, :3]).all()
    assert np.isfinite(metrics.rewards[:-1, 3]).all()
    assert brute_force(env) * (1 - 1e-6) <= float(state.best_s) <= metrics.best_s[0]


@pytest.mark.slow
def test_the_method_as_remembered_runs():
    config = egrl.paper_like()
    config = replace(
        config,
        budget=100,
        policies=6,
        policy=replace(config.policy, hidden=8, heads=2, depth=1),
        learner=replace(config.learner, critic_steps=2, actor_steps=2, batch=8),
    )
    env = small_env()
    algo = algorithm(config, env)
    assert config.batch == 11
    state, metrics = egrl.run(algo, env, algo.init(jax.random.key(0), env), every=5)
    assert int(state.measured) == 100
    assert 0 < metrics.valid.mean() <= 1
    assert float(state.best_s) >= brute_force(env) * (1 - 1e-6)
    assert float(state.best_s) == pytest.approx(float(egrl.exact_latency(env, state.best)), rel=1e-6)


def board_of(env, seen):
    def board(maps):
        seen.append(len(maps))
        assert isinstance(maps, np.ndarray)
        assert bool(hw.rectify(env.problem, maps).valid.all()), "asked for what fits"
        seconds = np.array(egrl.exact_latency(env, jnp.asarray(maps)), np.float64)
        seconds[::5] = np.nan  # some measurements fail
        return seconds

    return board


def test_chunks_boards_and_resumed_runs():
    env, config = small_env(), tiny(budget=60)
    algo = algorithm(config, env)
    start = jax.jit(algo.init)(jax.random.key(4), env)
    at_once, metrics = egrl.run(algo, env, start, every=5)
    assert int(at_once.measured) == 60
    assert metrics.measured[-1] == 60
    assert (np.diff(metrics.best_s) <= 0).all()
    np.testing.assert_array_equal(metrics.best_s[-1], at_once.best_s)

    # Stopped after five generations, and gone on.
    first, _ = egrl.run(algo, env, start, every=5, on_chunk=lambda state, metrics: "stop")
    assert int(first.generation) == 5
    rest, _ = egrl.run(algo, env, first, every=5)
    same(rest, at_once)
    done, nothing = egrl.run(algo, env, rest)
    assert nothing is None
    same(done, at_once)

    # On a board that measures in the model's place: maps asked for are those that count.
    seen: list[int] = []
    ended, metrics = egrl.run(algo, env, start, board=board_of(env, seen))
    assert sum(seen) == 60 == int(ended.measured)
    assert np.isfinite(float(ended.best_s))
    assert int(egrl.live(config, ended)) == 0
    with pytest.raises(ValueError, match="board must answer 7 latencies"):
        egrl.run(algo, env, start, board=lambda maps: np.zeros(3))
    with pytest.raises(ValueError, match="every must be at least 1"):
        egrl.run(algo, env, start, every=0)


@pytest.mark.long
def test_other_chunks_a_scan_and_single_steps_give_the_same():
    env, config = small_env(), tiny(budget=60)
    algo = algorithm(config, env)
    start = jax.jit(algo.init)(jax.random.key(4), env)
    expected, metrics = egrl.run(algo, env, start, every=5)
    for every in (1, 4, config.generations):
        found, others = egrl.run(algo, env, start, every=every)
        same(found, expected)
        same(others, metrics)
    # A scan is another program: its sums may be in another order, which turns a draw sooner or later.
    scanned, rows = jax.jit(lambda state: egrl.run_chunk(algo, env, state, 3))(start)
    np.testing.assert_array_equal(scanned.replay.asked[:21], expected.replay.asked[:21])
    np.testing.assert_allclose(rows.best_s, metrics.best_s[:3], rtol=1e-6)


def test_no_key_serves_twice():
    state = algorithm(tiny(), small_env()).init(jax.random.key(0), small_env())
    each = (state.replace(generation=jnp.asarray(number, jnp.int32)) for number in (3, 4))
    keys = [tuple(jax.random.key_data(key).tolist()) for one in each for key in keys_of(one)]
    assert len(set(keys)) == 16


@pytest.mark.long
def test_under_strict_a_board_runs_only_maps_that_fit_and_the_rest_counts():
    env = small_env()
    config = tiny(budget=60, acting="levels", start="uniform", reward=egrl.RewardConfig(fitness="strict"))
    algo = algorithm(config, env)
    start = jax.jit(algo.init)(jax.random.key(0), env)
    seen: list[int] = []

    def board(maps):
        seen.append(len(maps))
        return np.array(egrl.exact_latency(env, jnp.asarray(maps)), np.float64)

    ended, metrics = egrl.run(algo, env, start, board=board)
    assert 0 < sum(seen) < 60 == int(ended.measured)
    assert np.isfinite(metrics.rewards[:, 0]).all(), "maps that do not fit have their reward"
    modelled, _ = egrl.run(algo, env, start)
    np.testing.assert_array_equal(ended.best, modelled.best)


@pytest.mark.long
def test_elites_beyond_the_budget_keep_what_is_known_of_them():
    env = small_env()
    config = replace(tiny(), remeasure=True, screen=1, budget=20)  # 17 maps a generation
    algo = algorithm(config, env)
    state, _ = egrl.run(algo, env, jax.jit(algo.init)(jax.random.key(0), env))
    assert int(state.measured) == 20
    fitness = np.asarray(state.population.fitness)
    assert np.isfinite(fitness[4:12]).all(), "chromosomes that stayed, none of them measured again"
    assert np.isinf(fitness[12:]).all(), "their children were beyond the budget"


def same(a, b):
    def equal(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)

    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        equal(x, y)


@pytest.mark.long
def test_seeds_by_vmap_are_the_loops():
    """Sums in another order may turn a draw late in a run: compared are three generations, map by map."""
    env, config = small_env(), tiny(budget=40)
    algo = algorithm(config, env)
    keys = jax.random.split(jax.random.key(0), 3)

    def one(key):
        state, _ = egrl.run_chunk(algo, env, algo.init(key, env), 3)
        return state.replay.asked, state.best_s

    together = jax.jit(jax.vmap(one))(keys)
    for row, key in enumerate(keys):
        alone = jax.jit(one)(key)
        np.testing.assert_array_equal(together[0][row], alone[0])
        np.testing.assert_allclose(together[1][row], alone[1], rtol=1e-6)


@pytest.mark.long
def test_populations_of_one():
    env = small_env()
    config = tiny(budget=30, policies=1, policy_elites=0, chromosomes=1, chromosome_elites=0)
    best_s, *_ = whole(config, env, jax.random.split(jax.random.key(0), 2))
    assert np.isfinite(np.asarray(best_s)).all()


def test_a_seeded_chromosome_has_the_policys_distribution():
    logits = jax.random.normal(jax.random.key(0), (2, 5, 2, 3))
    seeded = egrl.boltzmann.seeded(logits)
    np.testing.assert_allclose(
        jax.nn.softmax(egrl.boltzmann.logits_of(seeded), axis=-1), jax.nn.softmax(logits, axis=-1), atol=1e-6
    )


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "budget must be at least 1"),
        ({"policy_elites": 4}, "policy_elites must leave one of the 4 policies to vary, got 4"),
        ({"acting": "softly"}, "acting must be one of"),
        ({"start": "anywhere"}, "start must be one of"),
        ({"learner": egrl.LearnerConfig(critic_steps=0)}, "a critic that never learns"),
        ({"screen": 0}, "screen must be at least 1"),
        ({"crossover": 1.5}, "crossover must lie in"),
        ({"temperature": 0.0}, "temperature must lie in"),
        ({"cuts": 3}, "cuts must be 1 or 2"),
        ({"strategy": "Luck"}, "strategy must be one of"),
        ({"temperatures": "all"}, "temperatures must be one of"),
        ({"rank": "guessed"}, "rank must be one of"),
        ({"rates": (("speed", 1.0),)}, "there is no rate 'speed'"),
        ({"policy": egrl.PolicyConfig(decisions=1)}, "policy.decisions must be 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_another_number_of_levels_is_refused():
    env = egrl.environment(small_work(), small_chip((900, 300, 100)))
    algo = algorithm(tiny(), env)
    with pytest.raises(ValueError, match=r"policy\.choices must be the chip's number of levels, 4, got 3"):
        algo.init(jax.random.key(0), env)
