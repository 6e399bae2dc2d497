"""`egrljax train`, and `egrljax map` by what it wrote."""

import json

import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax.cli import main as command

from .small import small_chip, small_work


@pytest.fixture
def files(tmp_path):
    """Two networks, a chip, and one that no policy has seen."""
    for name, seed in (("a", 20), ("b", 3), ("new", 7)):
        hw.save_workload(tmp_path / f"{name}.json", small_work(seed))
    hw.save_chip(tmp_path / "chip.toml", small_chip())
    return tmp_path


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["egrljax", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


@pytest.mark.long
def test_a_policy_is_trained_kept_and_places_another_network(files, monkeypatch, capsys):
    policy, chip = files / "policy", files / "chip.toml"
    networks = ("--workload", files / "a.json", "--workload", files / "b.json")
    given = ("train", *networks, "--chip", chip, "--out", policy, "--budget", 60)
    code, text, err = run_command(monkeypatch, capsys, *given)
    assert code == 0, err
    assert "train 60/60" in err
    read = egrl.load_policy(policy)
    assert len(read.trained_on) == 2

    code, _, err = run_command(monkeypatch, capsys, *given)
    assert code == 2
    assert "must be a new file, or --resume its training" in err
    code, again, _ = run_command(monkeypatch, capsys, *given, "--resume")
    assert code == 0
    assert again == text
    np.testing.assert_array_equal(egrl.load_policy(policy).vector, read.vector)

    out = files / "out"
    on = ("map", "--workload", files / "new.json", "--chip", chip, "--out", out)
    code, text, err = run_command(monkeypatch, capsys, *on, "--engine", "policy", "--policy", policy)
    assert code == 0, err
    assert "by policy" in text
    levels = json.loads((out / "map.json").read_text())["tensors"]
    work = small_work(7)
    proposed = np.asarray(read.propose(egrl.environment(work, small_chip())))
    for t in hw.tensors(work):
        assert levels[t.name]["level"] == small_chip().level_names[proposed[t.operation, t.column]]

    elsewhere = (*on[:-1], files / "elsewhere", "--engine", "density", "--policy", policy)
    code, _, err = run_command(monkeypatch, capsys, *elsewhere)
    assert code == 2
    assert "engine 'density' has no use for a policy" in err


@pytest.mark.long
def test_what_is_wrong_with_a_training_is_one_line(files, monkeypatch, capsys):
    (files / "there").write_text("something")
    four = files / "four.toml"
    hw.save_chip(four, hw.Chip("four", small_chip((900, 300, 100)).levels, small_chip().compute))
    base = ("train", "--workload", files / "a.json", "--chip", files / "chip.toml")
    for options, message in (
        (("--out", files / "there"), "must be a new file"),
        (("--out", files / "new_one", "--resume"), "no new_one.ckpt beside it to resume"),
        (("--out", files / "x", "--chip", four), "chips of one number of levels, got small 3, four 4"),
        (("--out", files / "x", "--budget", 3), "budget must be at least 10"),
        (("--out", files / "x", "--time-limit", 0), "time_limit_s must be above 0"),
    ):
        code, _, err = run_command(monkeypatch, capsys, *base, *options)
        assert code == 2, err
        assert message in err
        assert len(err.strip().splitlines()) == 1


def test_a_file_that_is_no_policy_is_one_line(files, monkeypatch, capsys):
    base = ("map", "--workload", files / "a.json", "--chip", files / "chip.toml", "--out", files / "out")
    for file, message in ((files / "a.json", "is no trained policy"), (files / "none", "no such file")):
        code, _, err = run_command(monkeypatch, capsys, *base, "--engine", "policy", "--policy", file)
        assert code == 2, err
        assert message in err.lower()
    code, _, err = run_command(monkeypatch, capsys, *base, "--engine", "policy")
    assert code == 2
    assert "needs a trained policy" in err
