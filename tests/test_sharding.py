"""Sharded over a mesh: the numbers of one device, in all that takes `mesh=`. There are four devices here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import fewshotjax as fs
import hwmodel as hw
import nemojax as nemo
from fewshotjax import delta as de, devices, evaluation, products
from fewshotjax.delta.scaling import Scaling
from fewshotjax.episode_task import episode_task
from nemojax.networks import Network

from .egrljax.small import algorithm, small_chip, small_work, tiny

KEY = jax.random.key(0)
AUTO = jax.sharding.AxisType.Auto


def mesh_of(*sizes, names=("pop", "images"), kind=AUTO):
    return jax.make_mesh(sizes, names[: len(sizes)], axis_types=(kind,) * len(sizes))


def same(one, two):
    raw = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves(one)]
    other = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves(two)
    ]
    for x, y in zip(raw, other, strict=True):
        np.testing.assert_array_equal(x, y)


def leaves(tree):
    return [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


# ---- the helper


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_rows_that_do_not_divide_are_filled_up_and_dropped_again(rows):
    seen = []

    def double(scale, x):
        seen.append(x.shape)
        return {"y": scale * x, "mean": x.mean(axis=1)}

    x = jnp.arange(3.0 * rows).reshape(rows, 3)
    found = jax.jit(hw.sharded(double, mesh_of(4), (None, "pop")))(jnp.float32(2), x)
    np.testing.assert_array_equal(found["y"], 2 * x)
    np.testing.assert_array_equal(found["mean"], x.mean(axis=1))
    assert set(seen) == {(-(-rows // 4), 3)}  # each device has its own rows alone


def test_every_device_has_its_rows():
    found = jax.jit(hw.sharded(jnp.sin, mesh_of(4), ("pop",)))(jnp.arange(8.0))
    assert [s.data.shape for s in found.addressable_shards] == [(2,)] * 4
    assert len(found.sharding.device_set) == 4


BAD = {
    "no mesh": (4, "must be a jax.sharding.Mesh, got 4"),
    "another axis": (mesh_of(4, names=("data",)), r"has the axes \('data',\)"),
    "explicit axes": (mesh_of(4, kind=jax.sharding.AxisType.Explicit), "all must be Auto"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("check", [hw.check_mesh, devices.check_mesh])
def test_a_bad_mesh_is_refused_with_the_remedy(check, bad):
    mesh, message = BAD[bad]
    with pytest.raises(ValueError, match=message) as raised:
        check(mesh)
    assert "jax.make_mesh((4,), ('pop',), axis_types=(jax.sharding.AxisType.Auto,))" in str(raised.value)


@pytest.mark.parametrize("check", [hw.check_mesh, devices.check_mesh])
def test_devices_of_another_process_are_refused(check, monkeypatch):
    mesh = mesh_of(4)
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    with pytest.raises(ValueError, match=r"devices of other processes: give devices=jax\.local_devices"):
        check(mesh)


# ---- NEMO


def apply(p, x):
    hidden = jax.lax.conv_general_dilated(
        x, p["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(hidden).mean(axis=(1, 2)) @ p["b"]


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 3, 8), "b": (8, 5)}
    weights = {name: np.float32(rng.normal(size=shape) / 3) for name, shape in shapes.items()}
    return nemo.quantize(Network("tiny", apply, weights), images(3))


def images(count):
    return np.float32(np.random.default_rng(count).normal(size=(count, 6, 6, 3)))


def tasks(network):
    rng = np.random.default_rng(1)
    labelled = nemo.classification(network, images(12), rng.integers(0, 5, 12), top_k=1)
    outputs = nemo.features_task(
        network, images(12), lambda logits, _: float(np.abs(logits).sum()), host=True
    )
    bits = nemo.bits_task(network, lambda bits: jnp.cos(bits.astype(jnp.float32)).sum() + 9)
    return {"kl": nemo.fidelity(network, images(12)), "labels": labelled, "outputs": outputs, "bits": bits}


@pytest.mark.parametrize("kind", ["kl", "labels", "outputs", "bits"])
@pytest.mark.parametrize("block", [1, 2])
def test_an_evaluator_on_a_mesh_gives_the_costs_of_one_device(network, kind, block):
    task = tasks(network)[kind]
    bits = np.asarray(task.space.sample(KEY, 11))  # 11 of 4 devices: the last call is filled up
    alone = nemo.Evaluator(task, block=block)
    spread = nemo.Evaluator(task, block=block, mesh=mesh_of(4))
    np.testing.assert_array_equal(spread(bits), alone(bits))
    assert spread.evaluations == alone.evaluations == len(np.unique(bits, axis=0))
    again = spread.like(task)
    assert (again.mesh, again.block, again.evaluations) == (spread.mesh, block, 0)


@pytest.mark.parametrize(("count", "exact"), [(12, True), (11, True), (7, False)])
def test_images_are_shared_bit_for_bit_where_micro_batches_stay_whole(network, count, exact, monkeypatch):
    monkeypatch.setattr(type(network.traced), "micro_batch", property(lambda self: 3))
    task = nemo.fidelity(network, images(count))
    bits = np.asarray(task.space.sample(KEY, 5))
    found = nemo.Evaluator(task, mesh=mesh_of(2, 2))(bits)
    expected = nemo.Evaluator(task)(bits)
    if exact:  # 6 samples on each device, two micro-batches; 11 are filled up to 12
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_an_evaluator_refuses_a_bad_mesh(network):
    with pytest.raises(ValueError, match="may be 'pop' and 'images'"):
        nemo.Evaluator(tasks(network)["kl"], mesh=mesh_of(4, names=("x",)))


def test_images_lie_where_they_are_used(network):
    evaluate = nemo.Evaluator(nemo.fidelity(network, images(12)), mesh=mesh_of(1, 4))
    shards = evaluate._compiled.inputs.addressable_shards
    assert [shard.data.shape[0] for shard in shards] == [3] * 4


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("sizes", [(4,), (2, 2)])
def test_costs_of_a_task_over_a_mesh(network, sizes, members):
    task = nemo.fidelity(network, images(10))
    bits = np.asarray(task.space.sample(KEY, 6))
    run = jax.jit(nemo.Task.costs, static_argnames=("mesh", "members", "chunk"))
    found = run(task, bits, mesh=mesh_of(*sizes), members=members, chunk=5)
    alone = run(task, bits, members=members, chunk=5)
    np.testing.assert_allclose(found, alone, rtol=0 if members is None else 1e-4, atol=1e-7 if members else 0)
    with pytest.raises(ValueError, match="has the axes"):
        task.costs(bits, mesh=mesh_of(4, names=("x",)))


@pytest.mark.long
def test_a_search_on_a_mesh_is_that_on_one_device(network):
    task = nemo.fidelity(network, images(6))
    config = nemo.NemoConfig(population=6, species=("continuous", "floor"), archive_capacity=16)
    options = {"budget": 20, "config": config, "warm_start": None}
    one, four = (nemo.search(KEY, task, **options, mesh=mesh) for mesh in (None, mesh_of(4)))
    same(
        (one.bits, one.costs, one.state, dict(one.history)),
        (four.bits, four.costs, four.state, dict(four.history)),
    )


# ---- EGRL


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("contention", [None, 0.3])
def test_maps_measured_on_a_mesh(noise, contention):
    env = egrl.environment(small_work(), small_chip(), noise=noise, contention=contention)
    maps = jax.random.randint(KEY, (13, 5, 2), 0, 3)
    measure = jax.jit(egrl.measure, static_argnames="mesh")
    same(measure(KEY, env, maps, mesh=mesh_of(4)), measure(KEY, env, maps))


@pytest.mark.long
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_run_of_egrl_on_a_mesh_is_that_on_one_device(noise):
    env = egrl.environment(small_work(), small_chip(), noise=noise)
    algo = algorithm(tiny(budget=30), env)
    start = jax.jit(algo.init)(KEY, env)
    one, four = (egrl.run(algo, env, start, every=2, mesh=mesh) for mesh in (None, mesh_of(4)))
    same(four, one)
    assert algo.config.batch % 4  # so that the last maps are filled up


def test_what_egrl_refuses_of_a_mesh():
    env = egrl.environment(small_work(), small_chip())
    algo = algorithm(tiny(budget=30), env)
    start = jax.jit(algo.init)(KEY, env)
    with pytest.raises(ValueError, match="may be 'pop'"):
        egrl.run(algo, env, start, mesh=mesh_of(2, 2))
    with pytest.raises(ValueError, match="a board is not: leave one out"):
        egrl.run(algo, env, start, mesh=mesh_of(4), board=lambda maps: np.ones(len(maps)))
    with pytest.raises(ValueError, match="mesh is for a search, engine 'first_fit' is none"):
        egrl.place(KEY, small_work(), small_chip(), engine="first_fit", mesh=mesh_of(4))
    with pytest.raises(ValueError, match="has the axes"):
        egrl.place(KEY, small_work(), small_chip(), mesh=mesh_of(4, names=("x",)))


# ---- episodes and the Delta-encoder


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(5), 9).astype(np.int32)
    features = 2 * rng.normal(size=(5, 6))[labels] + rng.normal(size=(45, 6))
    return features.astype(np.float32), labels


@pytest.mark.parametrize("chunk", [None, 3])
def test_episodes_on_a_mesh_are_those_of_one_device(examples, chunk, monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK", 12)  # so that there are several calls
    methods = {"logistic": fs.logistic(), "means": "prototypes"}
    options = {"ways": 3, "queries": 4, "episodes": 37, "chunk": chunk}
    told: list[int] = []
    one = fs.compare(KEY, methods, *examples, **options)
    four = fs.compare(
        KEY, methods, *examples, **options, mesh=mesh_of(4), on_chunk=lambda c: told.append(c.done)
    )
    for name in methods:
        np.testing.assert_array_equal(four.results[name].predictions, one.results[name].predictions)
    assert told[-1] == 37
    with pytest.raises(ValueError, match="here it has one, 'pop'"):
        fs.evaluate(KEY, "prototypes", *examples, ways=3, queries=4, mesh=mesh_of(2, 2))


def test_episodes_from_a_table_of_products_on_a_mesh_are_those_of_one_device(examples):
    _, labels = examples
    rng = np.random.default_rng(4)
    features = (0.2 * rng.normal(size=(5, 200))[labels] + rng.normal(size=(45, 200))).astype(np.float32)
    options = {"ways": 3, "queries": 4, "episodes": 37}
    assert products.table_pays(episode_task(KEY, features, labels, **options), fs.prototypes())
    one, four = (
        fs.evaluate(KEY, "prototypes", features, labels, **options, mesh=mesh) for mesh in (None, mesh_of(4))
    )
    np.testing.assert_array_equal(four.predictions, one.predictions)
    assert 0.4 < one.accuracy.mean < 1


@pytest.fixture(scope="module")
def delta():
    config = de.DeltaConfig(hidden=12, code=3)
    bank = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    params = de.init_delta(KEY, config, 6)
    return de.DeltaEncoder(config, params, bank, 6, Scaling(jnp.zeros(6), jnp.ones(6)))


def test_accuracies_of_a_delta_encoder_on_a_mesh(examples, delta):
    task = episode_task(KEY, *examples, ways=3, queries=4, episodes=10)
    fit = de.EpisodeFit(8, classifier=de.ClassifierConfig(epochs=2, batch=16, keep_epochs=True))
    sampler = de.delta_sampler(delta)
    one, four = (de.accuracies_by_epoch(task, sampler, fit, chunk=2, mesh=m) for m in (None, mesh_of(4)))
    assert one.shape == (10, 2)
    np.testing.assert_array_equal(four, one)


@pytest.mark.parametrize(("seeds", "chunk"), [(9, 64), (9, 2)])
def test_samples_on_a_mesh(examples, delta, seeds, chunk):
    one, four = (
        de.synthesize(KEY, delta, examples[0][:seeds], 12, chunk=chunk, mesh=m) for m in (None, mesh_of(4))
    )
    np.testing.assert_allclose(four, one, atol=1e-5)
    np.testing.assert_array_equal(four[:, 0], one[:, 0])  # the seeds themselves
    with pytest.raises(ValueError, match="here it has one, 'pop'"):
        de.synthesize(KEY, delta, examples[0][:2], 3, mesh=mesh_of(2, 2))
