"""One policy for several workloads and chips: stacking, training, files, and what it is good for."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw

from .small import algorithm, small_chip, small_work, tiny

pytestmark = pytest.mark.long  # `make test-long`; CI runs them

CASES = [(small_work(seed, 5), small_chip(room)) for seed, room in ((20, (900, 300)), (3, (700, 200)))]


def config(**changes):
    own = {
        "policies": 6,
        "policy_elites": 3,
        "chromosomes": 0,
        "chromosome_elites": 0,
        "seed_every": 0,
        "rollouts": 2,
        "budget": 200,
    }
    return tiny(**{**own, **changes})


def with_energy():
    chip = small_chip()
    return replace(
        chip,
        levels=tuple(replace(level, energy_j_per_byte=1e-12) for level in chip.levels),
        compute=tuple(replace(rate, energy_j_per_mac=1e-12) for rate in chip.compute),
    )


def many_inputs():
    """Six convolutions of one picture, added up at once."""

    def op(name, kind, weights, own, parents):
        size = (1, 1, 20)
        return hw.Operation(name, kind, 100, weights, weights, own, 0, 20, parents, size, size, ext_in=20)

    ops = [op(f"conv{i}", "conv", 100, i, ()) for i in range(6)]
    add = op("sum", "add", 0, -1, tuple(hw.Edge(i, 20) for i in range(6)))
    return hw.Workload((*ops, replace(add, ext_in=0, is_output=True)), name="wide")


@pytest.fixture(scope="module")
def envs():
    return egrl.environments(CASES)


@pytest.fixture(scope="module")
def trained():
    return egrl.train_policy(jax.random.key(0), CASES, config=config())


def test_stacked_environments_cost_what_they_cost_alone(envs):
    for number, (work, chip) in enumerate(CASES):
        alone, stacked = egrl.environment(work, chip), egrl.one_of(envs, number)
        maps = jax.random.randint(jax.random.key(number), (20, *alone.allowed.shape[:2]), 0, 3)
        n = len(work.operations)
        wide = jnp.zeros((20, *stacked.allowed.shape[:2]), jnp.int32).at[:, :n].set(maps)
        np.testing.assert_allclose(
            egrl.exact_latency(stacked, wide), egrl.exact_latency(alone, maps), rtol=1e-6
        )


def test_a_policy_does_not_see_how_much_padding_there_is(trained):
    work, chip = CASES[0]
    alone, wide = egrl.environment(work, chip), egrl.environment(work, chip, nodes=40)
    n = len(work.operations)
    for rule in hw.BASELINES.values():
        np.testing.assert_array_equal(rule(wide.problem)[:n], rule(alone.problem))
    np.testing.assert_allclose(trained.logits(wide)[:n], trained.logits(alone), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(trained.propose(wide)[:n], trained.propose(alone))


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ([], "at least one"),
        ([CASES[0], (CASES[0][0], small_chip((900, 300, 100)))], "one number of levels"),
        ([CASES[0], (CASES[0][0], with_energy())], "leaves out"),
        ([CASES[0], (many_inputs(), small_chip())], "many inputs"),
    ],
)
def test_cases_that_do_not_go_together_are_refused(cases, message):
    with pytest.raises(ValueError, match=message):
        egrl.environments(cases)


def test_fewer_nodes_than_operations_are_refused():
    with pytest.raises(ValueError, match="nodes must be at least"):
        egrl.environments(CASES, nodes=3)


@pytest.mark.long
def test_fitness_is_the_mean_log_speedup_of_the_greedy_maps(envs):
    algo = egrl.shared(config(), envs.graph.nodes.shape[-1])
    state = jax.jit(algo.init)(jax.random.key(1), envs)
    step = jax.jit(algo.step)
    for _ in range(3):
        state, metrics = step(state, envs)
    best = int(np.argmin(state.fitness))
    logs = []
    for number in range(len(CASES)):
        env = egrl.one_of(envs, number)
        logits = algo.inner.learner.logits(env, state.policies[best][None])
        seconds = egrl.exact_latency(env, egrl.act_greedily(env, logits)[0])
        logs.append(np.log(float(env.reference_s / seconds)))
    assert float(state.fitness[best]) == pytest.approx(-np.mean(logs), rel=1e-3)
    assert float(metrics.fitness) == float(state.fitness.min())
    assert int(state.measured) == 3 * len(CASES) * (3 + 2)
    added = np.asarray(state.replay.added)
    np.testing.assert_array_equal(added, [15, 15])


def test_the_best_policy_never_gets_worse_and_elites_stay(envs):
    algo = egrl.shared(config(), envs.graph.nodes.shape[-1])
    state, step = jax.jit(algo.init)(jax.random.key(2), envs), jax.jit(algo.step)
    before = np.inf
    for _ in range(6):
        state, metrics = step(state, envs)
        assert float(metrics.fitness) <= before
        before = float(metrics.fitness)
    assert np.isfinite(before)


@pytest.mark.long
def test_failed_measurements_never_win(envs):
    algo = egrl.shared(config(), envs.graph.nodes.shape[-1])
    state = jax.jit(algo.init)(jax.random.key(3), envs)
    maps, children = jax.jit(algo.ask)(state, envs)
    keys = jax.random.split(jax.random.key(0), len(CASES))
    found = jax.vmap(egrl.measure)(keys, envs, maps)
    broken = found._replace(latency_s=found.latency_s.at[0, 0].set(jnp.nan))
    after, _ = jax.jit(algo.tell)(state, envs, maps, children, broken)
    where = np.where((np.asarray(after.policies) == np.asarray(children[0])).all(axis=1))[0]
    assert len(where)
    assert all(np.isinf(after.fitness[i]) for i in where)
    assert np.isfinite(np.asarray(after.fitness)).any()


@pytest.mark.long
def test_copies_of_a_policy_are_the_first_to_go(envs):
    algo = egrl.shared(config(), envs.graph.nodes.shape[-1])
    state = jax.jit(algo.init)(jax.random.key(4), envs)
    places = jax.random.randint(jax.random.key(5), state.placement.shape, 0, 3, jnp.int8)
    state = state.replace(
        placement=places.at[1].set(places[0]), fitness=jnp.array([-9.0, -9.0, -8.0, -7.0, -6.0, -5.0])
    )
    after, _ = jax.jit(algo.step)(state, envs)
    np.testing.assert_array_equal(after.policies[:3], state.policies[jnp.array([0, 2, 3])])


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"acting": "levels", "start": "backing"},
        {"critic": "model"},
        pytest.param({"critic": "graph"}, marks=pytest.mark.slow),
    ],
)
def test_other_ways_of_acting_and_critics(envs, changes):
    own = config(screen=2, **{name: value for name, value in changes.items() if name != "critic"})
    if "critic" in changes:
        own = replace(own, learner=replace(own.learner, critic=changes["critic"]))
    algo = egrl.shared(own, envs.graph.nodes.shape[-1])
    state, step = jax.jit(algo.init)(jax.random.key(5), envs), jax.jit(algo.step)
    for _ in range(3):
        state, metrics = step(state, envs)
    assert np.isfinite(float(metrics.fitness))
    assert np.isfinite(np.asarray(state.learner.actor)).all()


@pytest.mark.long
def test_training_helps_where_it_was_trained():
    def ratio(budget):
        own = config(budget=budget, start="uniform")
        policy = egrl.train_policy(jax.random.key(0), CASES, config=own)
        each = [egrl.environment(*case) for case in CASES]
        return np.mean([float(egrl.exact_latency(e, policy.propose(e)) / e.reference_s) for e in each])

    assert ratio(400) < 0.95 * ratio(10)


def test_resumed_trainings_are_the_uninterrupted_one(tmp_path, trained):
    path = tmp_path / "t.ckpt"
    calls = []

    def stop(measured, budget, speedup):
        calls.append(measured)
        return measured >= 60

    stop.close = lambda: calls.append(math.inf)  # as a progress line is
    egrl.train_policy(jax.random.key(0), CASES, config=config(), every=2, on_chunk=stop, checkpoint=path)
    assert calls.pop() == math.inf
    assert calls[0] == 0
    assert calls[-1] < 200
    resumed = egrl.train_policy(jax.random.key(0), CASES, config=config(), every=3, checkpoint=path)
    np.testing.assert_array_equal(resumed.vector, trained.vector)
    with pytest.raises(ValueError, match="other settings"):
        egrl.train_policy(jax.random.key(1), CASES, config=config(), checkpoint=path)


def test_files_hold_all_that_acting_needs(tmp_path, trained):
    path = tmp_path / "policy"
    egrl.save_policy(path, trained)
    read = egrl.load_policy(path)
    env = egrl.environment(small_work(9, 6), small_chip())
    np.testing.assert_array_equal(read.propose(env), trained.propose(env))
    assert read.trained_on == trained.trained_on == tuple(f"{w.name} on {c.name}" for w, c in CASES)
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="cut short"):
        egrl.load_policy(other)
    other.write_text('{"settings": 3}\n')
    with pytest.raises(ValueError, match="no trained policy"):
        egrl.load_policy(other)
    egrl.save_state(other, {"vector": trained.vector}, {"kind": "else", "policy": {}})
    with pytest.raises(ValueError, match="no trained policy"):
        egrl.load_policy(other)


def test_a_policy_that_does_not_fit_is_refused(trained):
    four = egrl.environment(small_work(), small_chip((900, 300, 100)))
    with pytest.raises(ValueError, match="places tensors on 3 levels"):
        trained.propose(four)
    bare = egrl.environment(small_work(), small_chip(), features="paper19")
    with pytest.raises(ValueError, match="features a node"):
        trained.propose(bare)
    with pytest.raises(ValueError, match="vector must be"):
        replace(trained, vector=trained.vector[:-1])
    with pytest.raises(ValueError, match="finite"):
        replace(trained, vector=np.full_like(trained.vector, np.nan))


def test_draws_are_of_the_policys_distribution(trained):
    env = egrl.environment(*CASES[1])
    maps = np.asarray(trained.draw(jax.random.key(0), env, 400))
    expected = egrl.act(jax.random.key(1), env, jnp.repeat(trained.logits(env)[None], 4000, axis=0))
    share = np.mean(maps[..., None] == np.arange(3), axis=0)
    wanted = np.mean(np.asarray(expected)[..., None] == np.arange(3), axis=0)
    np.testing.assert_allclose(share, wanted, atol=0.12)  # 5 standard deviations of 400 draws
    assert len(np.unique(maps.reshape(400, -1), axis=0)) > 10
    with pytest.raises(ValueError, match="count"):
        trained.draw(jax.random.key(0), env, 0)


def test_a_run_starts_from_a_trained_policy(trained):
    env = egrl.environment(*CASES[0])
    algo = algorithm(tiny(acting="margins"), env)
    state = jax.jit(algo.init)(jax.random.key(0), env, jnp.asarray(trained.vector))
    np.testing.assert_array_equal(state.learner.actor, trained.vector)
    np.testing.assert_array_equal(state.population.policies[0], trained.vector)
    mean = np.mean(np.asarray(state.population.chromosomes.prior), axis=0)
    assert np.abs(mean - np.asarray(trained.logits(env))).max() < 1.5


@pytest.mark.long
def test_place_answers_by_a_policy_and_starts_from_one(trained):
    work, chip = CASES[0]
    env = egrl.environment(work, chip)
    placed = egrl.place(jax.random.key(0), work, chip, engine="policy", policy=trained)
    assert placed.engine == "policy"
    assert placed.evaluations == 0
    np.testing.assert_array_equal(placed.placement, trained.propose(env))
    searched = egrl.place(
        jax.random.key(0),
        work,
        chip,
        engine="egrl",
        policy=trained,
        config=tiny(budget=60),
        solver_s=0.0,
    )
    assert searched.latency_s <= placed.latency_s * (1 + 1e-6)
    with pytest.raises(ValueError, match="needs a trained policy"):
        egrl.place(jax.random.key(0), work, chip, engine="policy")
    with pytest.raises(ValueError, match=r"config\.policy must be the trained policy's"):
        egrl.place(jax.random.key(0), work, chip, engine="egrl", policy=trained, config=egrl.tuned())
    other = tiny(start="backing")
    with pytest.raises(ValueError, match=r"config\.start must be the trained policy's"):
        egrl.place(jax.random.key(0), work, chip, engine="egrl", policy=trained, config=other)
    with pytest.raises(ValueError, match="measures nothing on a board"):
        egrl.place(jax.random.key(0), work, chip, engine="policy", policy=trained, board=len)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chromosomes": 4, "chromosome_elites": 1}, "chromosomes must be 0"),
        ({"guests": 4}, "guests must be 0"),
        ({"rank": "predicted"}, "rank must be 'measured'"),
        ({"remeasure": True}, "remeasure must be False"),
        ({"policies": 0, "policy_elites": 0}, "policies must be at least 1"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        egrl.shared(config(**changes), 10)


def test_a_budget_below_one_generation_is_refused(envs):
    algo = egrl.shared(config(budget=5), envs.graph.nodes.shape[-1])
    with pytest.raises(ValueError, match="at least 10, one generation in 2"):
        algo.generations(envs)


def test_the_best_policy_of_a_run_can_be_kept():
    env = egrl.environment(*CASES[0])
    algo = algorithm(tiny(budget=60), env)
    state, _ = egrl.run(algo, env, jax.jit(algo.init)(jax.random.key(0), env))
    policy = egrl.best_policy(algo, state, ("small",))
    best = int(np.argmin(state.ranks[:4]))
    np.testing.assert_array_equal(policy.vector, state.population.policies[best])
    with pytest.raises(ValueError, match="no policy yet"):
        egrl.best_policy(algo, jax.jit(algo.init)(jax.random.key(0), env))
    none = algorithm(tiny(policies=0, policy_elites=0), env)
    with pytest.raises(ValueError, match="no policies"):
        egrl.best_policy(none, state)
