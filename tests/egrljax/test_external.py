"""The pool of external calls against functions and programs that fail in every way they can."""

import logging
import os
import signal
import sys
import threading
import time
import tracemalloc
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
from egrljax.external.command import named
from egrljax.loop import measured_by

from .flaky import PROGRAM, lives

QUICK = {"backoff_s": 0.01, "retries": 1}


def quick(**changes):
    return egrl.ExternalConfig(**{**QUICK, **changes})


def pids(folder, kind):
    return [int(file.name.split("_")[1]) for file in folder.glob(f"{kind}_*")]


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_a_flaky_command_gives_the_truth_where_it_succeeds_within_its_retries(tmp_path, caplog):
    plans = [
        [],
        ["exit"],
        ["nan", "garbage"],
        ["hang"],
        ["exit", "nan", "other"],
        ["hang", "garbage", "exit"],
        *[[]] * 4,
        ["other", "exit"],
        ["garbage"],
    ]
    values = [10.0 - i for i in range(len(plans))]
    items = [{"id": i, "value": values[i], "plan": plan} for i, plan in enumerate(plans)]
    config = egrl.ExternalConfig(workers=3, timeout_s=2.5, retries=2, backoff_s=0.02)
    program = egrl.command([*PROGRAM, str(tmp_path)], parse="seconds")
    done = []
    with caplog.at_level(logging.WARNING, "frugaljax.external"):
        found = egrl.external(program, config)(items, on_item=lambda i, number: done.append((i, number)))
    truth = [np.inf if len(plan) > 2 else value for plan, value in zip(plans, values, strict=True)]
    np.testing.assert_array_equal(found, truth)
    assert found.dtype == np.float64
    assert sorted(done) == list(enumerate(truth))

    attempts = [(tmp_path / f"count_{i}").stat().st_size for i in range(len(plans))]
    assert attempts == [min(len(plan) + 1, 3) for plan in plans]
    seen = [int(file.read_text()) for file in tmp_path.glob("seen_*")]
    assert len(seen) == sum(attempts)
    assert 2 <= max(seen) <= 3, "as many at once as there are workers, and never more"
    left = pids(tmp_path, "child") + pids(tmp_path, "seen")
    assert len(pids(tmp_path, "child")) == 2
    assert not any(map(lives, left)), "the sleeping children went with their parents"

    lines = [record.getMessage() for record in caplog.records if record.name == "frugaljax.external"]
    assert len(lines) == sum(map(len, plans)), "one for each failure"
    assert all("\n" not in line and "\t" not in line for line in lines)
    said = {
        (1, 1): "exit status 3; standard error ends 'connecting",
        (2, 1): "ValueError: gave nan; again in 0.02 s",
        (2, 2): "the last line of its output is no JSON: 'a b c'; again in 0.04 s",
        (3, 1): "timed out after 2.5 s, killed; again in 0.02 s",
        (4, 3): "has no field 'seconds': '{\"joules\": 1.0}'; counts +inf",
        (5, 1): "timed out after 2.5 s, killed; again in 0.02 s",
    }
    for (item, attempt), text in said.items():
        own = [line for line in lines if f"item {item} ({{'id': {item}," in line and text in line]
        assert len(own) == 1, (item, attempt)
        assert f"attempt {attempt} of 3 failed" in own[0]


def test_answers_keep_the_order_of_the_items_whichever_is_first():
    order, ended = [], [threading.Event() for _ in range(5)]
    ended[4].set()

    def last_first(x, offset):
        assert ended[x + 1].wait(20)
        order.append(int(x))
        ended[x].set()
        return x + offset

    found = egrl.external(last_first, quick(workers=4))(np.arange(4), 10.0)
    np.testing.assert_array_equal(found, [10, 11, 12, 13])
    assert order == [3, 2, 1, 0]
    assert egrl.evaluate_all(float, []).shape == (0,)
    np.testing.assert_array_equal(egrl.evaluate_all(np.sum, np.ones((3, 2, 2))), [4, 4, 4])


@pytest.mark.parametrize("workers", [1, 3])
def test_never_more_than_its_workers_at_once(workers):
    alive, most, lock = [0], [0], threading.Lock()

    def one(x):
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        time.sleep(0.05)
        with lock:
            alive[0] -= 1
        if x % 3 == 0:
            raise OSError("gone")
        return x

    found = egrl.evaluate_all(one, range(9), quick(workers=workers))
    np.testing.assert_array_equal(found, [np.inf if x % 3 == 0 else x for x in range(9)])
    assert most[0] == workers


@pytest.mark.parametrize(
    ("answer", "number", "calls"),
    [
        (3, 3.0, 1),
        (np.float32(0.5), 0.5, 1),
        (jnp.asarray(2.0), 2.0, 1),
        (np.inf, np.inf, 1),  # an answer: impossible
        (None, np.inf, 2),
        ("3", np.inf, 2),
        (True, np.inf, 2),
        ([1.0], np.inf, 2),
        (1j, np.inf, 2),
        (np.nan, np.inf, 2),
        (-np.inf, np.inf, 2),
        (SystemExit(1), np.inf, 2),
        (KeyError("x"), np.inf, 2),
    ],
    ids=repr,
)
def test_one_real_number_or_plus_infinity(answer, number, calls):
    called = []

    def one(item):
        called.append(item)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    assert egrl.evaluate_all(one, ["a"], quick()).tolist() == [number]
    assert len(called) == calls


def test_a_function_that_hangs_is_abandoned_and_its_worker_replaced(caplog):
    free, calls = threading.Event(), []

    def one(x):
        calls.append(x)
        if x < 2:
            free.wait(20)
            return -1.0
        return float(x)

    pool = egrl.external(one, quick(workers=1, timeout_s=0.4, retries=0, abandoned=2))
    try:
        np.testing.assert_array_equal(pool(range(4)), [np.inf, np.inf, 2, 3])
        assert (
            "item 0 (0), attempt 1 of 1 failed: timed out after 0.4 s, and runs on in its thread"
            in caplog.text
        )
        with pytest.raises(egrl.ExternalError, match=r"one: 3 calls run on past their time limit of 0.4 s"):
            pool([1])
    finally:
        free.set()
    wait_for(lambda: not any(thread.is_alive() for thread in pool._abandoned))
    assert pool([5]).tolist() == [5.0], "the threads have ended, and there is room again"


def test_an_answer_that_comes_too_late_is_not_taken():
    free, late = threading.Event(), threading.Event()

    def one(x):
        if x == 0:
            free.wait(20)
            late.set()
            return -1.0
        free.set()
        assert late.wait(20)
        time.sleep(0.1)  # its answer is there before this one's
        return float(x)

    config = quick(workers=1, timeout_s=1.0, retries=0)
    assert egrl.evaluate_all(one, [0, 1], config).tolist() == [np.inf, 1.0]


def test_a_large_item_is_named_by_its_shape_in_the_log(caplog):
    def one(item):
        raise OSError("line one\nline two \x1b[31m" + "x" * 1000 + " the end")

    egrl.evaluate_all(one, np.zeros((1, 50, 40), np.int32), quick(retries=0))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("one: item 0 (int32 (50, 40), [0, 0, 0,")
    assert "OSError: line one line two" in line
    assert line.endswith("xx the end; counts +inf")
    assert line.isprintable()
    assert len(line) < 700


def test_too_many_failures_in_a_row_are_an_error():
    calls = []

    def one(x):
        calls.append(x)
        raise ConnectionError("no route")

    pool = egrl.external(one, quick(workers=1, retries=0, in_a_row=3))
    assert pool([0, 1]).tolist() == [np.inf, np.inf]
    with pytest.raises(egrl.ExternalError, match="3 items failed in a row, the last one by Conn"):
        pool([2, 3, 4])
    assert calls == [0, 1, 2]
    calm = egrl.external(lambda x: 1 / x, quick(workers=1, retries=0, in_a_row=2))
    assert calm([1, 1, 0, 1, 0, 1, 1]).tolist() == [1, 1, np.inf, 1, np.inf, 1, 1], "never two in a row"


def test_backoff_lets_others_go_first_and_a_worker_rests():
    times = []

    def fails_once(x):
        times.append((x, time.monotonic()))
        if x == 0 and len(times) == 1:
            raise OSError
        return x

    egrl.evaluate_all(fails_once, range(3), egrl.ExternalConfig(workers=1, backoff_s=0.5))
    assert [x for x, _ in times] == [0, 1, 2, 0]
    assert times[3][1] - times[0][1] >= 0.5
    assert times[2][1] - times[0][1] < 0.5
    times.clear()
    pool = egrl.external(
        lambda x: times.append((x, time.monotonic())) or 1.0, quick(workers=1, cooldown_s=0.1)
    )
    pool([0, 1])
    pool([2])
    assert (np.diff([at for _, at in times]) >= 0.1).all(), "also from call to call"
    waits = egrl.ExternalConfig(backoff_s=0.5, backoff_limit_s=3.0)
    assert [waits.wait_s(k) for k in (1, 2, 3, 4, 5000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.fixture
def interruptible():
    """Also where these tests run in the background of a shell, which ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_leaves_no_process_behind(tmp_path, interruptible):
    program = egrl.command([*PROGRAM, str(tmp_path)])
    items = [{"id": i, "value": 1.0, "plan": ["hang"]} for i in range(5)]

    def interrupt():
        wait_for(lambda: len(pids(tmp_path, "child")) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        egrl.evaluate_all(program, items, quick(workers=2))
    watcher.join()
    assert len(pids(tmp_path, "seen")) == 2, "the others were not started"
    wait_for(lambda: not any(map(lives, pids(tmp_path, "child") + pids(tmp_path, "seen"))))  # killed at once


def test_what_a_command_leaves_running_is_killed_and_not_waited_for(tmp_path):
    start = time.monotonic()
    program = egrl.command(["sh", "-c", "sleep 300 & echo $! > left; echo 5"], cwd=tmp_path)
    assert program("item") == 5.0
    assert time.monotonic() - start < 5
    wait_for(lambda: not lives(int((tmp_path / "left").read_text())))


def test_output_without_end_fills_no_memory():
    program = egrl.command(["sh", "-c", "head -c 30000000 /dev/zero; echo; echo 7"], output_bytes=1000)
    tracemalloc.start()
    assert program(0) == 7.0
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    assert egrl.evaluate_all(egrl.command(["yes"]), [0], quick(timeout_s=0.2, retries=0)).tolist() == [np.inf]
    with pytest.raises(ValueError, match="longer than output_bytes"):
        egrl.command(["echo", "1234567"], output_bytes=4)(0)  # 567 would be wrong


def test_how_an_item_goes_in_and_a_number_comes_out(tmp_path):
    array = np.array([[1, 2], [3, 4]], np.int32)
    code = "import json, sys; print(json.load({})['levels'][1][0], end='')"
    python = [sys.executable, "-S", "-E", "-c"]
    as_dict = {"encode": lambda item: {"levels": item}}
    assert egrl.command([*python, code.format("sys.stdin")], **as_dict)(array) == 3.0
    by_file = egrl.command([*python, code.format("open(sys.argv[1])"), "{item}"], **as_dict)
    assert by_file(array) == 3.0
    assert egrl.command(["cat"], parse=lambda text: text.count("["))(array) == 3
    assert egrl.command(["echo", '{"n": 2}'], parse="n")(0) == 2
    with pytest.raises(ValueError, match=r"is no number: '\$\(echo 3\); true'"):
        egrl.command(["echo", "$(echo 3); true"])(0)  # no shell reads it
    for argv, message in (
        (["true"], "it printed nothing"),
        (["sh", "-c", "kill -9 $$"], "killed by signal 9"),
        (["sh", "-c", "echo tail >&2; exit 4"], r"exit status 4; standard error ends 'tail"),
    ):
        with pytest.raises(ValueError, match=message):
            egrl.command(argv)(0)
    with pytest.raises(FileNotFoundError):
        egrl.command(["./no_such_program"], cwd=tmp_path)(0)
    assert egrl.external(egrl.command(["echo", "1"]), quick(retries=0))([0], "more").tolist() == [np.inf]


def test_what_tells_external_functions_apart():
    assert egrl.external(np.linalg.norm).identity == "numpy.linalg.norm" == named(np.linalg.norm)
    assert egrl.external(lambda x: x).identity is None
    assert egrl.external(partial(max, 1)).identity is None
    assert egrl.external(lambda x: x, identity="board A").identity == "board A"
    one, other = egrl.command(["measure", "-n", "3"]), egrl.command(["measure", "-n", "4"])
    assert egrl.external(one).identity == egrl.external(egrl.command(["measure", "-n", "3"])).identity
    assert len({one.identity, other.identity, egrl.command(one.argv, parse="s").identity}) == 3
    assert egrl.command(["measure"], encode=lambda x: x).identity is None
    assert egrl.command(["measure"], encode=np.sort).identity != egrl.command(["measure"]).identity


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"workers": 1.5}, "workers must be a whole number, got 1.5"),
        ({"in_a_row": 0}, "in_a_row must be at least 1, got 0"),
        ({"timeout_s": 0.0}, "timeout_s must be above 0 and finite, got 0.0"),
        ({"timeout_s": np.inf}, "a call that hangs would hold its worker for good"),
        ({"backoff_s": np.inf}, "backoff_s must be at least 0 and finite, got inf"),
        ({"backoff_limit_s": np.nan}, "backoff_limit_s must be a number, got nan"),
        ({"cooldown_s": -1.0}, "cooldown_s must be at least 0"),
    ],
)
def test_refused_settings(changes, message, as_users_have_it):
    with pytest.raises(ValueError, match=message):
        egrl.ExternalConfig(**changes)


def test_refused_commands(as_users_have_it):
    for argv in ("measure {item}", [], ["measure", 3]):
        with pytest.raises(ValueError, match="argv must be a program and its arguments"):
            egrl.command(argv)
    with pytest.raises(ValueError, match="output_bytes must be at least 1, got 0"):
        egrl.command(["measure"], output_bytes=0)


def test_a_boards_failures_are_nan_to_egrl():
    board = egrl.external(lambda placement: 1e-3 if placement.sum() else np.inf, quick())
    placements = np.array([[[0, 0], [0, 1]], [[0, 0], [0, 0]]], np.int32)
    np.testing.assert_array_equal(measured_by(board, placements), [1e-3, np.nan])
