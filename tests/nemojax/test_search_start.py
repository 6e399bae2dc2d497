"""How a search starts and goes on: warm starts, tables, checkpoints, registries."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax.algorithms import DifferentialEvolution

import nemojax as nemo
from nemojax.config import NemoConfig
from nemojax.fingerprint import fingerprint
from nemojax.networks import Network
from nemojax.species import SPECIES

pytestmark = pytest.mark.long  # `make test-long`

CONFIG = NemoConfig(population=6, species=("continuous", "priced"), archive_capacity=32)


def two_layers(p, x):
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return hidden @ p["b"]


def draw(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=shape) / 7)


def make_task(seed=0, **options):
    params = {"a": draw(48, 16, seed=seed), "bias": draw(16), "b": draw(16, 5)}
    network = nemo.quantize(Network("tiny", two_layers, params), draw(4, 4, 4, 3))
    return nemo.fidelity(network, draw(4, 4, 4, 3, seed=1), **options)


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def table(task):
    return nemo.measure_sensitivity(jax.random.key(0), task)


def search(task, budget, **options):
    return nemo.search(jax.random.key(0), task, budget=budget, **{"config": CONFIG, **options})


def assert_same(one, two):
    np.testing.assert_array_equal(one.bits, two.bits)
    np.testing.assert_array_equal(one.costs, two.costs)
    for name, column in one.history.items():
        np.testing.assert_array_equal(column, two.history[name], err_msg=name)
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(two.state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "warm_start", [pytest.param("fisher", marks=pytest.mark.long), pytest.param("kl", marks=pytest.mark.slow)]
)
def test_a_search_goes_on_with_a_higher_budget(task, tmp_path, warm_start):
    file = tmp_path / "run.ckpt"
    first = search(task, 60, warm_start=warm_start, checkpoint=file)
    more = search(task, 90, warm_start=warm_start, checkpoint=file)
    np.testing.assert_array_equal(more.bits[: len(first.bits)], first.bits)
    assert len(first.bits) <= 60 < len(more.bits) <= 90
    assert len(more.history["alloc"]) > len(first.history["alloc"])


@pytest.mark.long
def test_a_search_stopped_in_its_warm_start_goes_on_bit_for_bit(task, table, tmp_path):
    file = tmp_path / "run.ckpt"
    whole = search(task, 40, warm_start=table)
    stopped = search(task, 40, warm_start=table, checkpoint=file, time_limit_s=0.0)
    assert not stopped.finished
    assert 0 < len(stopped.bits) <= 6  # the first part
    assert not len(stopped.history["alloc"])
    assert_same(search(task, 40, warm_start=table, checkpoint=file), whole)


def test_a_lower_budget_than_the_warm_start_takes_is_refused(task, table, tmp_path):
    file = tmp_path / "run.ckpt"
    search(task, 60, warm_start=table, checkpoint=file, time_limit_s=0.0)
    with pytest.raises(ValueError, match="the checkpoint goes on with takes 45: give at least 51"):
        search(task, 40, warm_start=table, checkpoint=file)


def test_a_search_stopped_before_anything_was_within_its_limits_says_so(task, table):
    with pytest.raises(ValueError, match="it was stopped: go on from its checkpoint"):
        search(task, 60, warm_start=table, time_limit_s=0.0, limits={task.objectives[0]: 1e-6})


@pytest.mark.long
@pytest.mark.parametrize("evaluations", [28, *(pytest.param(n, marks=pytest.mark.slow) for n in (20, 41))])
def test_a_search_interrupted_in_a_round_goes_on_bit_for_bit(task, table, tmp_path, evaluations):
    """The rounds before are looked up and the table is corrected by them again."""
    file, options = tmp_path / "run.ckpt", {"warm_start": table, "warm_share": 0.75}

    class Interrupt:
        def __call__(self, report): ...

        def on_evaluated(self, count):
            if count == evaluations:
                raise KeyboardInterrupt

    whole = search(task, 60, **options)
    with pytest.raises(KeyboardInterrupt):
        search(task, 60, **options, checkpoint=file, on_chunk=Interrupt())
    assert_same(search(task, 60, **options, checkpoint=file), whole)


@pytest.mark.parametrize(
    "pairs", [None, pytest.param(((8, 8), (4, 8), (4, 4), (8, 4)), marks=pytest.mark.slow)]
)
def test_a_table_of_errors_takes_part_of_the_budget(pairs):
    task = make_task()
    if pairs:
        task = task.replace(space=nemo.search_space(task.network, bits=(4, 8), pairs=pairs))
    elsewhere = nemo.measure_sensitivity(jax.random.key(0), task, "kl")
    entries = elsewhere.evaluations
    assert entries == sum(len(bits) - 1 for bits in task.space.allowed) + 1
    counted = []
    found = search(task, entries + 20, warm_start="kl", on_chunk=lambda r: counted.append(r.evaluations))
    spent = entries if pairs else 0  # evaluated in the space without pairs
    assert max(counted, default=0) + spent <= entries + 20
    assert len(found.bits) == len(np.unique(found.bits, axis=0))
    if not pairs:
        assert entries < len(found.bits) <= entries + 20
    with pytest.raises(
        ValueError, match=rf"warm_start='kl' takes {entries} evaluations, the budget leaves {entries - 1}"
    ):
        search(task, entries + 5, warm_start="kl")
    with pytest.raises(ValueError, match=rf"budget must be at least .* {entries} for the sensitivity table"):
        search(task, entries, warm_start=elsewhere)


@pytest.mark.long
def test_a_cache_may_save_the_work_and_count_all_the_same(task, tmp_path):
    direct = NemoConfig(population=6, species=("continuous",), archive_capacity=32)
    options = {"config": direct, "warm_start": None}
    alone = search(task, 40, **options)
    search(task, 60, **options, cache=tmp_path / "cache")
    counted = search(task, 40, **options, cache=tmp_path / "cache", cache_is_free=False)
    assert_same(alone, counted)
    free = search(task, 40, **options, cache=tmp_path / "cache")
    assert len(free.bits) > len(counted.bits)


@pytest.mark.slow
def test_a_species_registered_anew_is_the_new_one(task, monkeypatch):
    config = NemoConfig(population=8, species=("mine", "floor"), archive_capacity=32)
    bits = []
    for number in (1, 3, 1):
        maker = nemo.strategy(DifferentialEvolution, num_diff=number)
        monkeypatch.setitem(SPECIES, "mine", maker)
        bits.append(search(task, 60, config=config, warm_start=None).bits)
    assert not np.array_equal(bits[0], bits[1])
    np.testing.assert_array_equal(bits[0], bits[2])


def test_what_is_of_another_network_is_refused(task, table, tmp_path):
    other = nemo.Sensitivity(("x", "y"), table.widths, table.table[:2], "fisher")
    with pytest.raises(ValueError, match="sensitivity is of another network"):
        search(task, 40, warm_start=other)
    with pytest.raises(ValueError, match=r"seeds has shape \(2, 3\), this search's are \(k, 4\)"):
        search(task, 40, warm_start=None, seeds=np.full((2, 3), 4, np.int32))
    direct = NemoConfig(population=6, species=("continuous",), archive_capacity=32)
    for what in ("checkpoint", "cache"):
        file = tmp_path / what
        search(task, 12, warm_start=None, config=direct, **{what: file})
        with pytest.raises(ValueError, match=r"written with other settings: .*task was"):
            search(make_task(seed=3), 12, warm_start=None, config=direct, **{what: file})


def test_tables_that_differ_at_one_width_are_different_tasks(tmp_path):
    """A cache of the old latency table would give its costs."""

    def at_four(value):
        lookup = jnp.asarray([0, 0, 1, 2, value, 4, 5, 6, 7], jnp.float32)
        return make_task(costs={"latency": lambda bits: lookup[bits].sum()})

    one, two, same = (fingerprint(at_four(value)) for value in (3.0, 3.5, 3.0))
    assert one == same
    assert one != two


@pytest.mark.long
def test_a_cost_of_another_scale_moves_the_hypervolume():
    task = make_task(costs={"latency_us": lambda bits: 300.0 * bits.sum().astype(jnp.float32)})
    np.testing.assert_allclose(nemo.reference(task), [np.log(5), 300 * 4 * 8], rtol=1e-6)
    found = search(task, 30, warm_start=None, config=NemoConfig(population=6, species=("continuous",)))
    assert (found.history["hypervolume"] > 0).all()
    assert (found.history["hypervolume"] < 1).all()


@pytest.mark.long
def test_limits_that_nothing_evaluated_keeps_are_named():
    task = make_task(costs={"steps": lambda bits: bits.sum().astype(jnp.float32)})
    with pytest.raises(ValueError, match=r"none of 0 configurations .* within the limits {'steps': 7.0"):
        search(
            task,
            30,
            warm_start=None,
            limits={"steps": 7},
            config=NemoConfig(population=6, species=("floor",)),
        )


# A process that is killed

CHILD = """
import sys
sys.path.insert(0, {folder!r})
import jax
import nemojax as nemo
from test_search_start import CONFIG, make_task
from dataclasses import replace
graph = nemo.Graph(hidden=8, heads=2, depth=1)
config = replace(CONFIG, species=("continuous", "gcn", "priced"), graph=graph)
class Tell:
    def __call__(self, report):
        print("generation", report.evaluations, flush=True)
    def on_evaluated(self, count):
        print(count, flush=True)
found = nemo.search(
    jax.random.key(0), make_task(), budget=700, config=config, checkpoint={file!r}, warm_share=0.1,
    on_chunk=Tell(),
)
found.front.to_json({result!r})
"""


@pytest.mark.slow
def test_a_process_killed_ten_times_ends_with_the_identical_front(tmp_path):
    """SIGKILL at random moments, in the warm start too; each child goes on from the checkpoint."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}

    def start(file, result):
        folder = os.path.dirname(__file__)
        names = {"folder": folder, "file": str(tmp_path / file), "result": str(tmp_path / result)}
        code = CHILD.format(**names)
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
        )

    undisturbed = start("one.ckpt", "one.json")
    generations = undisturbed.communicate()[0].split().count("generation")
    assert undisturbed.returncode == 0
    assert generations >= 100
    rng, killed, seen = np.random.default_rng(0), 0, []
    while killed < 10:
        child = start("two.ckpt", "two.json")
        seen.append(int(child.stdout.readline().split()[-1]))  # evaluations, soon after the checkpoint's
        time.sleep(rng.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        killed += child.returncode == -signal.SIGKILL
        assert not (tmp_path / "two.json").exists(), "it ended before it was killed ten times"
    assert seen[0] == 1, "the first one is killed in its warm start"
    assert sorted(seen) == seen
    assert seen[-1] > seen[0], "they went on"
    last = start("two.ckpt", "two.json")
    last.communicate()
    assert last.returncode == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
