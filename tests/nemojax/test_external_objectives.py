"""Objectives that are not JAX, beside a network's error or in its place: columns, counts, limits, kills."""

import sys
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nemojax as nemo
from nemojax.budgeted import Budgeted
from nemojax.fingerprint import fingerprint
from nemojax.networks import Network

QUICK = nemo.ExternalConfig(workers=3, retries=1, backoff_s=0.01)


def apply(p, x):
    return jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"]["kernel"]) @ p["b"]["kernel"]


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(0)
    params = {
        name: {"kernel": np.float32(rng.normal(size=s) / 4)} for name, s in (("a", (12, 8)), ("b", (8, 4)))
    }
    return nemo.quantize(Network("tiny", apply, params), np.float32(rng.normal(size=(4, 2, 2, 3))))


@pytest.fixture(scope="module")
def images():
    return np.float32(np.random.default_rng(1).normal(size=(5, 2, 2, 3)))


@pytest.fixture(scope="module")
def bits(net):
    """Uniform 2 to 8 bits, one of each."""
    return np.stack([nemo.search_space(net).uniform(b) for b in range(2, 9)])


def seconds(row):
    """What the board takes."""
    return 1e-3 * float(np.sum(row) + row[0])


class Board:
    """Counts; fails always at a total of so many bits."""

    def __init__(self, fails_at=()):
        self.fails_at, self.asked = fails_at, []

    def __call__(self, row):
        assert isinstance(row, np.ndarray)
        self.asked.append(row.tolist())
        if row.sum() in self.fails_at:
            raise OSError("does not compile")
        return seconds(row)


def external(board, identity="board"):
    return nemo.external(board, QUICK, identity=identity)


def with_board(net, images, board, **others):
    ratio = nemo.costs_by_name(net)["model_ratio"]
    return nemo.fidelity(net, images, costs={"board_s": board, "model_ratio": ratio, **others})


def test_a_further_objective_is_measured_after_the_compiled_ones(net, images, bits):
    board = Board(fails_at=[int(bits[2].sum())])
    task = with_board(net, images, external(board))
    assert task.objectives == ("kl", "board_s", "model_ratio")
    counted = []
    evaluator = nemo.Evaluator(task, block=4, on_evaluated=counted.append)
    found = evaluator(bits)
    plain = nemo.Evaluator(nemo.fidelity(net, images, costs=["model_ratio"]), block=4)(bits)
    good = np.arange(7) != 2
    np.testing.assert_array_equal(found[good][:, [0, 2]], plain[good])
    np.testing.assert_allclose(found[good, 1], [seconds(row) for row in bits[good]], rtol=1e-6)
    assert np.isinf(found[2]).all(), "one failure fails the whole row"
    assert sorted(board.asked) == sorted([*bits.tolist(), bits[2].tolist()]), "no padding is measured"
    assert (evaluator.evaluations, evaluator.distinct) == (7, 7)
    assert counted == [*range(1, 8), 7]
    np.testing.assert_array_equal(evaluator(bits[::-1]), found[::-1])
    assert len(board.asked) == 8, "remembered, failures too"

    # What is not finite by what is compiled is not measured.
    board = Board()
    task = with_board(net, images, external(board), odd=lambda b: jnp.where(b[0] == 5, jnp.inf, 1.0))
    found = nemo.Evaluator(task)(bits)
    np.testing.assert_array_equal(np.isinf(found).all(axis=1), bits[:, 0] == 5)
    assert len(board.asked) == 6


def test_one_call_of_the_pool_measures_all_configurations_of_a_call(net, bits):
    calls = []

    class Watched(nemo.External):
        def __call__(self, rows, *others, **options):
            calls.append(len(rows))
            return super().__call__(rows, *others, **options)

    error, cost = Watched(Board(), QUICK, "a"), Watched(Board([14]), QUICK, "b")
    task = nemo.bits_task(net, error, costs={"board_s": cost})
    assert task.score.host
    found = nemo.Evaluator(task)(bits)
    assert calls == [7, 7]
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_allclose(found[:, 0], [seconds(row) for row in bits], rtol=1e-6)


def test_an_error_of_outputs_may_be_external(net, images, bits):
    calls = []

    def error(outputs, target):
        calls.append(outputs.shape)
        return float(np.abs(outputs - target).mean())

    target = np.zeros((5, 4), np.float32)
    plain = nemo.features_task(net, images, error, target, host=True)
    pooled = nemo.features_task(net, images, nemo.external(error, QUICK), target)
    found = nemo.Evaluator(plain, block=3)(bits[:4])
    np.testing.assert_array_equal(nemo.Evaluator(pooled, block=3)(bits[:4]), found)
    assert calls == [(5, 4)] * 8, "no padding of a block"


def test_plain_functions_of_the_host_are_called_one_after_the_other(net, images, bits):
    board = Board()
    task = with_board(net, images, nemo.HostCost(board))
    np.testing.assert_allclose(nemo.Evaluator(task)(bits)[:, 1], [seconds(row) for row in bits], rtol=1e-6)
    assert board.asked == bits.tolist()


def test_no_compiled_program_holds_it(net, images, bits):
    task = with_board(net, images, external(Board()))
    for costs in (task.costs, jax.jit(nemo.Task.costs)):
        with pytest.raises(ValueError, match=r"board_s runs on the host: evaluate with Evaluator\(task\)"):
            costs(*([bits] if costs == task.costs else [task, bits]))
    with pytest.raises(
        ValueError, match=r"must be a JAX function of bits \(4,\).*can be HostCost\(function\)"
    ):
        with_board(net, images, lambda row: float(row.sum()))
    with pytest.raises(ValueError, match="at_highest of cost must be finite, got inf"):
        nemo.HostCost(seconds, at_highest=np.inf)


def test_what_counts_as_one_is_measured_unless_it_is_said(net, images):
    highest = nemo.search_space(net).uniform(8)
    board = Board()
    np.testing.assert_allclose(
        nemo.reference(with_board(net, images, external(board)))[1], seconds(highest), rtol=1e-6
    )
    assert board.asked == [highest.tolist()]
    said = with_board(net, images, nemo.HostCost(external(board), at_highest=0.25))
    assert nemo.reference(said)[1] == 0.25
    assert len(board.asked) == 1
    failing = with_board(net, images, external(Board([int(highest.sum())])))
    with pytest.raises(ValueError, match=r"board_s could not be measured at bits \[8, .*at_highest="):
        nemo.reference(failing)
    # An evaluation measures all the same.
    assert nemo.Evaluator(said)(highest[None])[0, 1] == np.float32(seconds(highest))


def test_limits_do_not_know_it_beforehand(net, images, bits):
    board = Board()
    task = with_board(net, images, external(board))
    cheap = jax.vmap(task.costs_by_bits)(jnp.asarray(bits))
    assert np.isneginf(cheap[:, 0]).all()
    all_costs = nemo.Evaluator(task)(bits)
    between = all_costs[3:5].mean(axis=0)
    board.asked.clear()

    evaluator, scale = nemo.Evaluator(task), np.ones(3)
    upper = np.array([np.inf, between[1], np.inf], np.float32)
    found, over = Budgeted(evaluator, upper, scale)(bits)
    assert len(board.asked) == evaluator.evaluations == 7
    np.testing.assert_array_equal(found, all_costs)
    np.testing.assert_allclose(over, np.maximum(all_costs[:, 1] - upper[1], 0), atol=1e-7)

    # A limit of what is known spares the measurement; what was not measured is +inf.
    board.asked.clear()
    evaluator = nemo.Evaluator(task)
    found, over = Budgeted(evaluator, np.array([np.inf, np.inf, between[2]], np.float32), scale)(bits)
    assert board.asked == [] or sorted(board.asked) == bits[:4].tolist()
    assert evaluator.evaluations == 4
    np.testing.assert_array_equal(found[:4], all_costs[:4])
    assert np.isposinf(found[4:, :2]).all()
    assert (over > 0).tolist() == [False] * 4 + [True] * 3


def test_an_identity_tells_tasks_apart_and_nothing_is_measured_for_it(net, images):
    def of_bits(board, identity, **options):
        return nemo.bits_task(net, external(board, identity), **options)

    board = Board()
    tasks = [
        with_board(net, images, external(board, "A")),
        with_board(net, images, external(board, "B")),
        of_bits(board, "A"),
        of_bits(board, "B"),
        of_bits(board, "A", worst=2.0),
    ]
    marks = [fingerprint(task) for task in tasks]
    assert len(set(marks)) == 5
    assert board.asked == []
    assert fingerprint(with_board(net, images, external(Board(), "A"))) == marks[0]
    with pytest.raises(
        ValueError, match=r"external function Board has no name.*give external\(..., identity="
    ):
        fingerprint(with_board(net, images, nemo.external(board)))
    # A plain function is called: by its values it is known.
    plain = [
        fingerprint(with_board(net, images, nemo.HostCost(f)))
        for f in (seconds, lambda row: 2 * seconds(row))
    ]
    assert len({*plain, *marks}) == 7


def test_what_was_measured_is_not_lost_in_an_interrupt(net, images, bits):
    board = Board([int(bits[1].sum())])
    task = with_board(
        net, images, nemo.external(board, nemo.ExternalConfig(workers=1, retries=0), identity="b")
    )
    whole = nemo.Evaluator(task)
    expected = whole(bits)
    board.asked.clear()

    def interrupt(count):
        if count == 3:
            raise KeyboardInterrupt

    evaluator = nemo.Evaluator(task, on_evaluated=interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluator(bits)
    assert evaluator.evaluations == 0
    kept = evaluator.everything()
    np.testing.assert_array_equal(kept["bits"], bits[:3])
    np.testing.assert_array_equal(kept["costs"], expected[:3])
    evaluator.on_evaluated = None
    np.testing.assert_array_equal(evaluator(bits), expected)
    assert sorted(board.asked) == bits.tolist(), "each once, in both calls"
    assert evaluator.evaluations == 7, "and all of them count"
    for name, column in whole.table().items():
        np.testing.assert_array_equal(evaluator.table()[name], column)


def test_a_cache_has_the_order_in_which_it_was_asked(net, images, bits):
    """Whichever measurement ends first, so that a run leaves the same files each time."""
    ended = {b: threading.Event() for b in range(2, 10)}
    ended[9].set()

    def last_first(row):
        assert ended[int(row[0]) + 1].wait(20)
        ended[int(row[0])].set()
        return seconds(row)

    pool = nemo.external(last_first, nemo.ExternalConfig(workers=7), identity="b")
    evaluator = nemo.Evaluator(with_board(net, images, pool))
    found = evaluator(bits)
    np.testing.assert_array_equal(evaluator.everything()["bits"], bits)
    np.testing.assert_array_equal(evaluator.everything()["costs"], found)


# bits -> seconds; the first attempt at every second configuration fails, every fifth cannot be measured.
PROGRAM = """
import json, pathlib, sys
row = json.load(sys.stdin)
own = pathlib.Path(sys.argv[1]) / "_".join(map(str, row))
own.open("a").write("x")
total = sum(row)
if total % 5 == 0 or (total % 2 == 0 and own.stat().st_size == 1):
    sys.exit("the board is busy")
print(json.dumps({"seconds": 1e-3 * (total + row[0])}))
"""


@pytest.mark.long
def test_a_search_on_a_flaky_board_finds_what_one_on_a_steady_board_does(net, images, tmp_path):
    config = nemo.NemoConfig(population=8, species=("continuous", "floor"), archive_capacity=32)
    given = {"budget": 40, "config": config, "warm_start": None}

    def flaky(folder):
        folder.mkdir(exist_ok=True)
        program = nemo.command([sys.executable, "-S", "-E", "-c", PROGRAM, str(folder)], parse="seconds")
        pool = nemo.external(program, QUICK, identity="board")
        return SimpleNamespace(
            task=with_board(net, images, nemo.HostCost(pool, at_highest=0.05)),
            attempts=lambda: {file.name: file.stat().st_size for file in folder.iterdir()},
        )

    def in_process(row):
        return np.inf if row.sum() % 5 == 0 else seconds(row)

    steady = with_board(net, images, nemo.HostCost(in_process, at_highest=0.05))
    truth = nemo.search(jax.random.key(0), steady, **given)
    board = flaky(tmp_path / "whole")
    found = nemo.search(jax.random.key(0), board.task, **given)
    np.testing.assert_array_equal(found.bits, truth.bits)
    np.testing.assert_array_equal(found.costs, truth.costs)
    failed = found.bits.sum(axis=1) % 5 == 0
    assert failed.any()
    np.testing.assert_array_equal(np.isinf(found.costs).all(axis=1), failed)
    tries = {
        "_".join(map(str, row)): 1 + (sum(row) % 2 == 0 or sum(row) % 5 == 0) for row in found.bits.tolist()
    }
    assert board.attempts() == tries, "each configuration once, but for its retries"

    # Stopped after the first generation, and begun again.
    parts, file = flaky(tmp_path / "parts"), tmp_path / "run.ckpt"
    nemo.search(jax.random.key(0), parts.task, checkpoint=file, on_chunk=lambda report: True, **given)
    assert 8 <= len(parts.attempts()) < len(tries)
    again = nemo.search(jax.random.key(0), flaky(tmp_path / "parts").task, checkpoint=file, **given)
    np.testing.assert_array_equal(again.bits, found.bits)
    np.testing.assert_array_equal(again.costs, found.costs)
    assert parts.attempts() == tries, "what the checkpoint knew was not measured again"
