"""One genome for bits and memories: its space, what it costs, policies of both, and a search of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hwmodel as hw
import nemojax as nemo
from nemojax.chip_bits import tensor_bits
from nemojax.chip_costs import latency
from nemojax.cosearch import searched_jointly
from nemojax.custom_error import HostCost
from nemojax.joint import genomes, joint, separated
from nemojax.joint_graph import joint_graph
from nemojax.joint_space import JointSpace
from nemojax.nemo import nemo as algorithm
from nemojax.species import SPECIES, Setting
from nemojax.task import bits_task, costs_by_name, search_space

from .chip_cases import CHIP, quantized

POLICY = nemo.Graph(hidden=8, heads=2, depth=1, chunk=6)


def error(bits):
    """Instead of running the network: each quantizer alone adds 4^-b."""
    return jnp.mean(4.0 ** (2 - bits.astype(jnp.float32)))


@pytest.fixture(scope="module")
def network():
    return quantized()


@pytest.fixture(scope="module")
def work(network):
    return network.workload


@pytest.fixture(scope="module")
def task(network):
    costs = {name: costs_by_name(network)[name] for name in ("model_ratio", "bitops_max")}
    costs |= {"mean_bits": lambda bits: jnp.mean(bits.astype(jnp.float32))}
    costs |= {"latency": latency(network, CHIP, "density")}
    space = search_space(network, ties=[("a.weight", "b.weight")])
    return bits_task(network, error, costs=costs, space=space)


@pytest.fixture(scope="module")
def whole(task):
    return joint(task)


def test_the_space_has_a_decision_for_each_tensor_with_bytes(work, whole):
    space = whole.space
    assert space.names[: len(work.points)] == work.point_names
    memories = [name.rpartition(".") for name in space.names[len(work.points) :]]
    weights = {operation for operation, _, kind in memories if kind == "weight_memory"}
    assert weights == {"a", "b", "c", "d"}
    assert [operation for operation, _, kind in memories if kind == "output_memory"] == [
        op.name for op in work.operations
    ]
    assert JointSpace.of(space.bits, work, CHIP) == space
    assert hash(JointSpace.of(space.bits, work, CHIP)) == hash(space)


def test_split_and_join_are_inverse_and_samples_are_legal(work, whole):
    space = whole.space
    rows = space.sample(jax.random.key(0), 20)
    assert space.contains(np.asarray(rows)).all()
    bits, placement = space.split(rows)
    assert (bits[:, 1] == bits[:, space.names.index("b.weight")]).all()  # the tie still holds
    assert placement.shape == (20, len(work.operations), 2)
    assert set(np.unique(placement)) == {0, 1, 2}
    np.testing.assert_array_equal(space.join(bits, placement), rows)
    some = np.asarray(placement)[3]
    for (operation, column), number in zip(space.memories, rows[3, space.points :], strict=True):
        assert some[operation, column] == number - 2
    assert space.contains(space.uniform(5)[None]).all()
    assert (np.asarray(space.split(space.uniform(5))[1])[:, 1] == 2).all()


@pytest.mark.long
def test_the_costs_of_a_genome_are_those_of_its_parts(work, task, whole):
    space = whole.space
    joined = jax.jit(jax.vmap(whole.costs_by_bits))
    rows = space.sample(jax.random.key(1), 3)
    found = np.asarray(joined(rows))
    bits, placement = space.split(rows)
    placed = genomes(whole, np.asarray(bits), "density")
    assert space.contains(placed).all()
    by_rule = np.asarray(joined(jnp.asarray(placed)))
    np.testing.assert_array_equal(found[:, :3], by_rule[:, :3])
    for i, (row, wish) in enumerate(zip(bits, placement, strict=True)):
        of_bits = [cost(row) for name, cost in task.costs_of_bits if name != "latency"]
        np.testing.assert_allclose(found[i, :3], of_bits, rtol=1e-6)
        problem = hw.problem(work, CHIP, jax.tree.map(np.asarray, tensor_bits(work, CHIP, row)))
        np.testing.assert_allclose(found[i, 3], hw.evaluate(problem, np.asarray(wish)).latency_s, rtol=1e-5)
        np.testing.assert_allclose(by_rule[i, 3], hw.latency(problem, hw.density(problem)), rtol=1e-5)


def test_the_graph_joins_operations_with_their_points(work):
    graph = joint_graph(work, CHIP)
    n, count = len(work.points), len(work.operations)
    edges = set(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))
    assert len(edges) == len(graph.senders)
    assert {(j, i) for i, j in edges} == edges
    assert all((i, i) in edges for i in range(n + count))
    names = [*work.point_names, *(op.name for op in work.operations)]
    of_b = {names[j] for i, j in edges if i == names.index("b", n)}
    assert of_b == {"a", "b", "pool", "b.weight", "a.activation", "b.activation"}
    features = graph.nodes
    assert not (features[:n] != 0).any(axis=0)[(features[n:] != 0).any(axis=0)].any()


def make(space, name="joint_gcn", slots=6):
    return SPECIES[name](Setting(space, slots, nemo.NemoConfig(graph=POLICY), None))


@pytest.mark.long
def test_policies_choose_legal_bits_and_placements_that_fit(work, whole):
    species = make(whole.space)
    first = species.init(jax.random.key(2))
    further = first + jax.random.normal(jax.random.key(3), first.shape)
    decode = jax.jit(species.decode)
    rows = np.asarray(decode(jax.random.key(0), jnp.concatenate([first[:3], further[:3]]), 6))
    assert whole.space.contains(rows).all()
    bits, placement = whole.space.split(rows)
    assert len(np.unique(bits, axis=0)) > 3
    assert len(np.unique(placement, axis=0)) > 3
    for row, wish in zip(bits, placement, strict=True):
        problem = hw.problem(work, CHIP, jax.tree.map(np.asarray, tensor_bits(work, CHIP, row)))
        assert bool(hw.rectify(problem, np.asarray(wish)).valid)
    # Two groups of heads: the columns of memories change no bits.
    layout, columns = species.algorithm.layout, len(whole.space.bits.widths)
    bias = np.flatnonzero(layout.segments == layout.names.index("params/logits/bias"))
    assert len(bias) == columns + 2 * len(CHIP.levels)
    moved = first.at[:, bias[columns:]].set(jnp.array([5.0, 0, 0, 5, 0, 0]))  # all stays in level 0
    stay, there = whole.space.split(np.asarray(decode(jax.random.key(0), moved, 6)))
    np.testing.assert_array_equal(stay[:3], bits[:3])
    assert there.sum() < np.asarray(placement).sum()


@pytest.mark.long
def test_nemo_runs_on_joint_genomes(whole):
    config = nemo.NemoConfig(
        population=8, species=("continuous", "joint_gcn"), archive_capacity=32, graph=POLICY
    )
    algo = algorithm(config, whole.space, len(whole.objectives))
    state, metrics = nemo.run(
        algo, nemo.Evaluator(whole), algo.init(jax.random.key(4)), generations=3, every=1, jit_evaluate=False
    )
    assert int(state.evaluations) == 24
    assert (metrics.failed == 0).all()
    bits = whole.space.split(np.asarray(whole.space.uniform(4))[None])[0]
    np.testing.assert_allclose(
        nemo.Evaluator(whole)(whole.space.uniform(4)[None])[0, 0], error(bits[0]), rtol=1e-5
    )
    archived = np.asarray(state.archive.bits)[np.asarray(state.archive.valid)]
    assert whole.space.contains(archived).all()


@pytest.mark.long
def test_search_takes_a_joint_task_as_it_is(task, whole, tmp_path):
    config = nemo.NemoConfig(
        population=12, species=("continuous", "floor", "joint_gcn", "joint_unet"), graph=POLICY
    )
    options = {"config": config, "warm_start": None}
    found = nemo.search(jax.random.key(5), whole, budget=60, checkpoint=tmp_path / "run", **options)
    assert found.finished
    assert whole.space.contains(found.bits).all()
    again = nemo.search(jax.random.key(5), whole, budget=60, checkpoint=tmp_path / "run", **options)
    np.testing.assert_array_equal(found.costs, again.costs)
    front, placement = separated(found.front, whole.space)
    assert front.names == task.space.names
    assert placement.shape == (len(front), len(task.network.workload.operations), 2)
    np.testing.assert_array_equal(front.costs, found.front.costs)
    both = searched_jointly(jax.random.key(6), task, 60, config=config)
    assert both.evaluations <= 60
    for row, placed, costs in zip(both.bits, both.placement, both.costs, strict=True):
        seconds = dict(task.costs_of_bits)["latency"].at(row, placed)
        np.testing.assert_allclose(seconds, costs[-1], rtol=1e-5)


def test_refusals(network, work, task, whole):
    with pytest.raises(ValueError, match="none of them on a chip: give"):
        joint(bits_task(network, error))
    other = latency(network, replace(CHIP, name="other"), "density")
    with pytest.raises(ValueError, match=r"objectives on chips \['other', 'small'\]"):
        joint(task.replace(costs_of_bits=(*task.costs_of_bits, ("more", other))))
    board = ("board", HostCost(lambda bits: 1.0))
    with pytest.raises(ValueError, match="objective 'board' runs on the host, which a joint task cannot ask"):
        joint(task.replace(costs_of_bits=(*task.costs_of_bits, board)))
    with pytest.raises(ValueError, match="the space holds memories already"):
        JointSpace.of(whole.space, work, CHIP)
    with pytest.raises(ValueError, match="bits is of another network"):
        JointSpace.of(nemo.BitSpace.create(["x"]), work, CHIP)
    with pytest.raises(ValueError, match="species 'joint_gcn' chooses bit-widths and memories: give a task"):
        make(task.space)
    with pytest.raises(ValueError, match="the task is not joint"):
        genomes(task, np.stack([task.space.uniform(3)]))
    deep = replace(CHIP, levels=tuple(hw.Level(f"l{i}", 1e9, 1e9, 64) for i in range(16)))
    with pytest.raises(ValueError, match="has 16 levels, a genome has room for 15"):
        JointSpace.of(task.space, work, deep)
