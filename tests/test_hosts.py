"""Processes on this machine that share a search: the numbers of one; what happens when one is gone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hwmodel as hw

FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def reports(script, arguments):
    """The last line of JSON of each process that gave one, by index; they run at once."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XLA_FLAGS": FLAGS}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    commands = [[sys.executable, str(Path(__file__).with_name(script)), *words] for words in arguments]
    processes = [subprocess.Popen(command, **pipe) for command in commands]
    found = {}
    try:
        for index, process in enumerate(processes):
            out, err = process.communicate(timeout=300)
            lines = [line for line in out.splitlines() if line.startswith("{")]
            if lines:
                found[index] = json.loads(lines[-1])
            else:
                print(err[-3000:])
    finally:
        for process in processes:
            process.kill()
    return found


def run(count, checkpoint, **options):
    """A search by `count` processes; 0: one without jax.distributed."""
    address, arguments = free_address(), []
    for index in range(max(count, 1)):
        folder = checkpoint.parent / str(index)  # no file system is shared
        folder.mkdir(exist_ok=True)
        place = checkpoint if index == 0 else folder / checkpoint.name
        wanted = {"address": address, "count": count, "index": index, "checkpoint": str(place), **options}
        arguments.append([json.dumps(wanted)])
    return reports("hosts_worker.py", arguments)


def test_what_processes_share_and_what_they_tell_when_one_is_gone():
    address = free_address()
    first, second = reports(
        "hosts_seam.py", [[address, "2", str(i), "1", "killed", "20"] for i in (0, 1)]
    ).values()
    rows = np.arange(14).reshape(7, 2) + 0.1
    expected = np.stack([rows.sum(axis=1) * 10.5, rows[:, 0]], axis=1)
    assert (first["place"], second["place"]) == ([0, 2, True], [1, 2, False])
    for told in (first, second):
        np.testing.assert_array_equal(told["map"], expected)
        np.testing.assert_array_equal(told["one"], expected[:1])
        assert told["none"] == [0, 2]
        assert told["any"] == [True, False]
        assert (told["read"], told["no_file"], told["agreed"]) == ("of 0", None, None)
        assert "has another key than process" in told["key"]
        assert "measures other rows than process" in told["rows"]
        assert "is at 'any', process 0 at 'map'" in told["other"] or "is at 'map'" in told["other"]
    assert (first["seen"], second["seen"]) == ([4, 1, 0], [3, 0])
    assert first["unread"].startswith("FileNotFoundError")
    assert second["unread"].startswith("HostsError: process 0 failed (FileNotFoundError")
    assert first["failed"].startswith("HostsError: process 1 failed (OSError: no board)")
    assert second["failed"] == "OSError: no board"
    assert "process 1 failed (ValueError: 2 results for 3 rows)" in first["short"]
    assert "a process is gone" in first["gone"]
    assert "start all processes again, with the same checkpoint" in first["gone"]
    assert first["seconds"] < 21
    assert "gone" not in second


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(0, tmp_path_factory.mktemp("alone") / "run.ckpt")[0]


@pytest.mark.long
def test_two_processes_give_the_numbers_of_one(alone, tmp_path):
    found = run(2, tmp_path / "run.ckpt")
    assert [found[i]["digest"] for i in (0, 1)] == [alone["digest"]] * 2
    calls = [found[i]["calls"] for i in (0, 1)]
    assert sum(calls) == alone["calls"] == alone["results"]
    assert min(calls) >= alone["calls"] // 2 - 5  # shared out evenly
    assert found[0]["told"] == alone["told"] > 1
    assert found[1]["told"] == 0, "one process speaks for all"
    assert (tmp_path / "run.ckpt").exists()
    assert not (tmp_path / "1" / "run.ckpt").exists(), "one process writes"


@pytest.mark.long
def test_one_of_two_is_killed_and_the_others_go_on_afterwards(alone, tmp_path):
    place = tmp_path / "run.ckpt"
    killed = run(2, place, victim=1, call=8)
    assert list(killed) == [0]
    assert "a process is gone" in killed[0]["error"]
    assert "start all processes again, with the same checkpoint" in killed[0]["error"]
    assert killed[0]["seconds"] < 60
    assert place.exists()
    again = run(2, place)
    assert [again[i]["digest"] for i in (0, 1)] == [alone["digest"]] * 2
    assert again[0]["calls"] + again[1]["calls"] < alone["calls"], "what was evaluated before is known"


@pytest.mark.long
def test_a_search_of_four_goes_on_with_one(alone, tmp_path):
    place = tmp_path / "run.ckpt"
    killed = run(4, place, victim=2, call=4)
    assert sorted(killed) == [0, 1, 3]
    assert all("a process is gone" in report["error"] for report in killed.values())
    assert run(0, place)[0]["digest"] == alone["digest"]


@pytest.mark.long
def test_a_process_that_hangs_is_waited_for_so_long():
    address = free_address()
    found = reports("hosts_seam.py", [[address, "2", str(i), "1", "hangs", "8"] for i in (0, 1)])
    assert "did not answer for 8 s" in found[0]["gone"]
    assert 8 <= found[0]["seconds"] < 20


@pytest.mark.long
def test_processes_that_search_something_else_are_told(tmp_path):
    found = run(2, tmp_path / "run.ckpt", other_key=True)
    assert all("has another search (task, key or settings)" in report["error"] for report in found.values())


@pytest.mark.long
def test_a_time_limit_ends_all_of_them(tmp_path):
    found = run(2, tmp_path / "run.ckpt", time_limit_s=1e-6)
    assert found[0]["digest"] == found[1]["digest"]
    assert found[0]["told"] == 1


@pytest.mark.long
def test_a_placement_is_measured_on_a_board_of_each_process(tmp_path):
    (tmp_path / "alone").mkdir()
    alone = run(0, tmp_path / "alone" / "run.ckpt", board=True)[0]
    place = tmp_path / "run.ckpt"
    killed = run(2, place, board=True, victim=1, call=8)
    assert list(killed) == [0]
    assert "a process is gone" in killed[0]["error"]
    found = run(2, place, board=True)
    assert [found[i]["digest"] for i in (0, 1)] == [alone["digest"]] * 2
    calls = [found[i]["calls"] for i in (0, 1)]
    assert 0 < sum(calls) < alone["calls"] == alone["results"]
    assert 0 <= calls[0] - calls[1] <= alone["told"]  # the odd one of a generation is the first's
    assert [found[i]["told"] > 0 for i in (0, 1)] == [True, False]
    assert not (tmp_path / "1" / "run.ckpt").exists(), "one process writes"
    late = run(2, tmp_path / "late.ckpt", board=True, time_limit_s=1e-6)
    assert late[0]["digest"] == late[1]["digest"]
    assert late[0]["told"] == 2, "at the start and after the generation in which the time ran out"
    other = run(2, tmp_path / "other.ckpt", board=True, other_key=True)
    assert all("has another search (network, chip" in report["error"] for report in other.values())


def test_hosts_need_their_service():
    with pytest.raises(ValueError, match=r"call jax\.distributed\.initialize\(\) first"):
        hw.Hosts()
    with pytest.raises(ValueError, match=r"timeout_s must be above 0 and finite, got 0\.0"):
        hw.Hosts(timeout_s=0.0)
