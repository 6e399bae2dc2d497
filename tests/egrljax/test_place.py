"""place and its files: which engine and why, what is refused, what is written."""

import csv
import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import egrljax as egrl
import hwmodel as hw
from egrljax.cli import main as command
from egrljax.place import _engine, _or_faster

from .small import small_chip, small_work, tiny

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def work():
    return small_work(nodes=7)


def exact_s(placed):
    problem = hw.problem(placed.workload, placed.chip, placed.bits)
    assert bool(hw.rectify(problem, placed.placement).valid), "it fits"
    return float(hw.latency(problem, placed.placement))


def test_auto_takes_the_proven_optimum(work):
    found = egrl.place(KEY, work, small_chip())
    assert found.engine == "exact"
    assert "proved the optimum" in found.why
    assert found.gap == pytest.approx(0, abs=1e-5)
    assert found.latency_s == pytest.approx(exact_s(found), rel=1e-6)
    assert found.speedup >= 1 - 1e-6
    assert found.evaluations == 0
    for engine in ("gradient", *hw.BASELINES):
        other = egrl.place(KEY, work, small_chip(), engine=engine)
        assert other.engine == engine
        assert exact_s(other) >= found.latency_s * (1 - 1e-6)
    assert other.rules_s["density"] == pytest.approx(
        egrl.place(KEY, work, small_chip(), engine="density").latency_s
    )


class Stopping:
    """An `on_chunk` that ends the search, and gives the terminal back."""

    closed = False

    def __call__(self, *numbers):
        assert not self.closed
        return "stop"

    def close(self):
        self.closed = True


@pytest.mark.long
def test_auto_searches_where_no_solver_applies_and_goes_on_from_a_checkpoint(work, tmp_path):
    config, chip = tiny(budget=60), small_chip()
    pin, other = (t.name for t in hw.tensors(work)[:2])
    reports = []
    settings = {
        "contention": 0.3,
        "config": config,
        "pins": {pin: "llc"},
        "forbidden": {other: ["sram"]},
        "every": 4,
    }
    found = egrl.place(KEY, work, chip, on_chunk=lambda *numbers: reports.append(numbers), **settings)
    assert found.engine in ("egrl", "exact", *hw.BASELINES)
    assert "not linear in the placement" in found.why
    assert 0 <= found.gap < 0.5, "the linear model's bound holds"
    known = 3 + 1  # the rules' and the solver's placements, measured first
    assert found.evaluations == 60 + known == found.course.evaluations[-1] == reports[-1][0]
    assert reports[0][:2] == (known, 60 + known)
    assert np.isfinite(reports[0][2])
    assert found.finished
    assert (np.diff(found.course.best_s) <= 0).all()
    env = egrl.environment(work, chip, contention=0.3)
    assert found.latency_s == pytest.approx(
        float(egrl.exact_latency(env, jnp.asarray(found.placement))), rel=1e-5
    )
    first, second = hw.tensors(work)[:2]
    assert found.placement[first.operation, first.column] == 1
    assert found.placement[second.operation, second.column] != 2

    # Killed after the first chunk, and begun again.
    file = tmp_path / "run" / "map.ckpt"
    line = Stopping()
    part = egrl.place(KEY, work, chip, on_chunk=line, checkpoint=file, **settings)
    assert line.closed
    assert not part.finished
    assert "stopped before" in part.text()
    went_on = []
    whole = egrl.place(
        KEY, work, chip, checkpoint=file, on_chunk=lambda *numbers: went_on.append(numbers[0]), **settings
    )
    assert went_on[0] == part.evaluations > known, "nothing is measured twice"
    np.testing.assert_array_equal(whole.placement, found.placement)
    np.testing.assert_array_equal(whole.course.best_s, found.course.best_s)
    np.testing.assert_array_equal(whole.course.evaluations, found.course.evaluations)
    with pytest.raises(ValueError, match="other settings"):
        egrl.place(jax.random.key(1), work, chip, checkpoint=file, **settings)


@pytest.mark.long
def test_a_board_measures_in_the_models_place(work, tmp_path):
    env = egrl.environment(work, small_chip())
    asked = []

    def board(maps):
        asked.append(len(maps))
        return np.asarray(egrl.exact_latency(env, jnp.asarray(maps))) * 3e3 + 1e-6

    file = tmp_path / "board.ckpt"
    given = {"config": tiny(budget=57), "board": board}
    found = egrl.place(KEY, work, small_chip(), engine="egrl", checkpoint=file, **given)
    assert found.engine == "egrl"
    assert sum(asked) == 60 == found.evaluations, "the rules count"
    assert found.latency_s == pytest.approx(exact_s(found) * 3e3 + 1e-6, rel=1e-5)
    rule = float(egrl.exact_latency(env, jnp.asarray(hw.density(env.problem)))) * 3e3 + 1e-6
    assert found.rules_s["density"] == pytest.approx(rule, rel=1e-5)
    with pytest.raises(ValueError, match="board was True and is now False"):
        egrl.place(KEY, work, small_chip(), engine="egrl", config=given["config"], checkpoint=file)
    auto = egrl.place(KEY, work, small_chip(), **given)
    assert "a board's own" in auto.why

    # Killed after the first chunk, and begun again: what was measured is not measured again.
    asked.clear()
    again = {"engine": "egrl", "checkpoint": tmp_path / "killed.ckpt", **given}
    part = egrl.place(KEY, work, small_chip(), on_chunk=lambda done, *_: done > 3 and "stop", **again)
    assert 3 < sum(asked) == part.evaluations < 60
    whole = egrl.place(KEY, work, small_chip(), **again)
    assert sum(asked) == 60 == whole.evaluations
    np.testing.assert_array_equal(whole.placement, found.placement)
    assert whole.latency_s == found.latency_s


@pytest.mark.long
def test_under_noise_it_searches_and_tells_the_latency_without_noise(work):
    asked = {}
    config = tiny(budget=60, rank="predicted")
    for noise in (0.05, 0.1):
        found = egrl.place(KEY, work, small_chip(), noise=noise, config=config)
        assert found.why.startswith("The measurements are noisy")
        assert found.latency_s == pytest.approx(exact_s(found), rel=1e-5), "told without noise"
        assert found.gap == pytest.approx(0, abs=1e-5), "the solver's is at hand, and proven"
        assert found.settings["noise"] == str(noise)
        asked[noise] = found.course.best_s
    assert not np.array_equal(asked[0.05], asked[0.1]), "what is measured has the noise"


@pytest.mark.long
def test_what_was_measured_before_the_search_counts_when_it_wins(work, tmp_path):
    """A rule that a board likes best, and that the search need not have measured again."""
    env = egrl.environment(work, small_chip())
    favourite = np.asarray(hw.banked_greedy(env.problem))
    taken_s = []

    def board(placements):
        same = np.all(np.asarray(placements) == favourite[None], axis=(1, 2))
        seconds = np.where(same, 1e-3 * (1 + len(taken_s) + np.cumsum(same)), 10.0)  # slower each time
        taken_s.extend(seconds[same].astype(np.float32).tolist())
        return seconds

    config = tiny(budget=40, screen=4)
    found = egrl.place(KEY, work, small_chip(), engine="egrl", board=board, config=config)
    np.testing.assert_array_equal(found.placement, favourite)
    assert found.latency_s == pytest.approx(np.mean(taken_s), rel=1e-5)
    egrl.write_placed(tmp_path, found)
    assert json.loads((tmp_path / "map.json").read_text())["latency_s"] == found.latency_s


def test_a_board_that_fails_is_no_result(work):
    given = {"config": tiny(budget=20), "engine": "egrl"}
    with pytest.raises(ValueError, match="board must measure first_fit"):
        egrl.place(KEY, work, small_chip(), board=lambda maps: np.full(len(maps), np.nan), **given)
    with pytest.raises(ValueError, match="board must answer 3 latencies"):
        egrl.place(KEY, work, small_chip(), board=lambda maps: np.ones(1), **given)


def test_the_fastest_stands_and_says_whose_it_is(work):
    """`auto` compares; an engine that was asked for answers for itself."""
    env = egrl.environment(work, small_chip())
    slow = {name: np.zeros((7, 2), np.int32) for name in hw.BASELINES}
    solved = hw.optimal_placement(env.problem)
    least = solved.latency_s
    base = egrl.Placed(
        workload=work,
        chip=small_chip(),
        bits=hw.INT8,
        engine="egrl",
        why="Asked.",
        placement=slow["density"],
        latency_s=3 * least,
        rules=slow,
        rules_s={"first_fit": 4 * least, "density": 2 * least, "banked_greedy": 5 * least},
        bound_s=None,
    )
    found = _or_faster(base, env, None)
    assert found.engine == "density"
    assert "density was faster than what it found" in found.why
    assert _or_faster(replace(base, latency_s=2 * least), env, None).engine == "egrl"
    best = _or_faster(base, env, solved)
    assert "The solver's placement (proven, for the cost without contention or noise) was faster" in best.why
    assert best.engine == "exact"
    assert best.latency_s == pytest.approx(exact_s(best), rel=1e-6)


def test_auto_searches_under_noise_and_goes_on_with_what_had_begun(work):
    """Though the solver has the proof by now."""
    proven = hw.optimal_placement(egrl.environment(work, small_chip()).problem)
    linear = ("auto", proven, False, None)
    assert _engine(*linear, 0.0, False)[0] == "exact"
    for noise, goes_on, why in ((0.1, False, "noisy"), (0.0, True, "had begun")):
        engine, told = _engine(*linear, noise, goes_on)
        assert engine == "egrl"
        assert why in told
    assert _engine("density", proven, False, None, 0.1, True)[0] == "density"


def test_before_and_packing_keep_to_pins(work, tmp_path):
    first, second = hw.tensors(work)[:2]
    found = egrl.place(
        KEY, work, small_chip(), engine="density", pins={first.name: "dram"}, forbidden={second.name: ["llc"]}
    )
    before = found.before()
    assert before.placement[first.operation, first.column] == 0
    assert before.latency_s == pytest.approx(found.rules_s[found.best_rule], rel=1e-6)
    egrl.write_placed(tmp_path, found)
    rows = csv.DictReader((tmp_path / "placement.csv").read_text().splitlines())
    levels = {row["name"]: row["level"] for row in rows}
    assert levels[first.name] == "dram"
    assert levels[second.name] != "llc"


@pytest.mark.long
def test_shapes_that_users_bring():
    one = hw.random_workload(2, 1, weight_elems=(100, 200), output_elems=(50, 100))
    assert egrl.place(KEY, one, small_chip()).gap == pytest.approx(0, abs=1e-5)
    five = small_chip((3000, 900))
    levels = (*five.levels, hw.Level("tcm", 1e12, 1e12, 200), hw.Level("regs", 1e13, 1e13, 100))
    five = hw.Chip("five", levels, five.compute)
    found = egrl.place(KEY, small_work(nodes=4), five)
    assert found.gap == pytest.approx(0, abs=1e-5)
    assert found.latency_s == pytest.approx(exact_s(found), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "magic"}, "engine must be one of auto, egrl"),
        ({"engine": "exact", "contention": 0.1}, "knows the linear model only, not contention"),
        ({"engine": "gradient", "board": len}, "not a board's own cost"),
        ({"engine": "exact", "solver_s": 0.0}, "needs solver_s above 0"),
        ({"solver_s": -1.0}, "solver_s must be at least 0"),
        ({"pins": {"nothing": "llc"}}, "there is no tensor 'nothing'"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"budget": 4}, "budget must be above 4, the placements that are known"),
        ({"time_limit_s": 0.0}, "time_limit_s must be above 0"),
        ({"engine": "density", "noise": 0.1}, "noise is for a search, engine 'density' is none"),
        ({"engine": "exact", "time_limit_s": 1.0}, "time_limit_s is for a search"),
        ({"engine": "gradient", "config": tiny()}, "config is for a search"),
        ({"engine": "first_fit", "checkpoint": "map.ckpt"}, "checkpoint is for a search"),
        ({"config": egrl.tuned(4)}, "policy.choices must be the chip's number of levels"),
    ],
)
def test_requests_that_cannot_be_fail_before_searching(work, changes, message):
    with pytest.raises(ValueError, match=message):
        egrl.place(KEY, work, small_chip(), **changes)


def test_a_chip_without_room_for_anything_is_refused(work):
    with pytest.raises(ValueError, match="nothing to decide"):
        egrl.place(KEY, work, small_chip((8, 4)))
    tiny_store = small_chip()
    levels = (hw.Level("dram", 1e9, 1e9, 100), *tiny_store.levels[1:])
    with pytest.raises(ValueError, match="needs"):
        egrl.place(KEY, work, hw.Chip("no room", levels, tiny_store.compute))


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["egrljax", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_the_console_script_writes_the_map(work, tmp_path, monkeypatch, capsys):
    chip, network, out = tmp_path / "chip.toml", tmp_path / "net.json", tmp_path / "out"
    hw.save_chip(chip, small_chip())
    hw.save_workload(network, work)
    given = ("map", "--workload", network, "--chip", chip, "--out", out)
    code, text, _ = run_command(monkeypatch, capsys, *given)
    assert code == 0
    assert "by exact" in text
    document = json.loads((out / "map.json").read_text())
    assert document["schema"] == "frugaljax.map"
    assert set(document["tensors"]) == {t.name for t in hw.tensors(work)}
    rows = list(csv.DictReader((out / "placement.csv").read_text().splitlines()))
    assert {row["name"] for row in rows} == set(document["tensors"])
    for row in rows:
        told = document["tensors"][row["name"]]
        assert told["level"] == row["level"]
        assert [told[k] for k in ("bytes", "birth", "death")] == [
            int(row[k]) for k in ("bytes", "birth", "death")
        ]
    assert {"level", "bytes", "birth", "death", "offset"} <= set(rows[0])
    for file in ("placement.png", "memory.png", "latency_before.png", "before.csv", "after.csv"):
        assert (out / file).stat().st_size > 100
    from hwmodel.addresses import read_minimalloc

    loaded = hw.load_placement(out / "placement.json", work, small_chip())
    assert loaded.workload == work.name
    for level in {row["level"] for row in rows}:
        buffers = read_minimalloc(out / f"minimalloc_{level}.csv")
        assert {b.name for b in buffers} == {row["name"] for row in rows if row["level"] == level}

    code, _, err = run_command(monkeypatch, capsys, *given)
    assert code == 2
    assert "must be a new or an empty folder" in err
    code, text, _ = run_command(monkeypatch, capsys, "chips")
    assert "nnp_i_tight" in text.split()


@pytest.mark.long
def test_the_options_of_the_console_script_are_kept_to(work, tmp_path, monkeypatch, capsys):
    chip, network = tmp_path / "chip.toml", tmp_path / "net.json"
    hw.save_chip(chip, small_chip())
    hw.save_workload(network, work)
    given = ["map", "--workload", network, "--chip", chip, "--engine", "density", "--solver-s", 0]

    def mapped(name, *options):
        code, text, err = run_command(monkeypatch, capsys, *given, "--out", tmp_path / name, *options)
        assert code == 0, err
        return json.loads((tmp_path / name / "map.json").read_text()), text

    plain, text = mapped("plain")
    assert plain["bound_s"] is None
    assert "no placement takes less" not in text, "the solver was not asked"
    fast = next(name for name, told in plain["tensors"].items() if told["level"] == "sram")
    forbidden, _ = mapped("forbid", "--forbid", f"{fast}=sram", "--forbid", f"{fast}=llc")
    assert forbidden["tensors"][fast]["level"] == "dram"
    pinned, _ = mapped("pin", "--pin", f"{fast}=llc")
    assert pinned["tensors"][fast]["level"] == "llc"
    assert any(told["level"] == "sram" and told["bytes"] > 50 for told in plain["tensors"].values())
    reserved, _ = mapped("reserve", "--reserve", "sram=250")
    for told in reserved["tensors"].values():
        assert told["level"] != "sram" or told["bytes"] <= 50, "no more room is left"
    narrow, _ = mapped("bits", "--bits", 4, "--rate", "4x4=1e12")
    for name, told in narrow["tensors"].items():
        assert told["bytes"] == -(-plain["tensors"][name]["bytes"] // 2)
    assert narrow["bits"] == {"weights": 4, "outputs": 4, "inputs": 4}
    assert forbidden["forbidden"] == {fast: ["sram", "llc"]}
    assert pinned["pins"] == {fast: "llc"}
    assert reserved["reserved"] == {"sram": 250}
    keys = {mapped(f"seed{seed}", "--seed", seed)[0]["settings"]["key"] for seed in (0, 1)}
    assert keys == {
        plain["settings"]["key"],
        str(np.asarray(jax.random.key_data(jax.random.key(1))).tolist()),
    }
    slower, _ = mapped("rate", "--rate", "8x8=1e6")
    assert slower["latency_s"] > 2 * plain["latency_s"]


def test_no_contention_is_the_linear_model(work):
    found = egrl.place(KEY, work, small_chip(), contention=0.0)
    assert found.engine == "exact"
    crowded = egrl.place(KEY, work, small_chip(), contention=2.0, engine="density")
    assert crowded.explain().latency_s == pytest.approx(crowded.latency_s, rel=1e-5)
    assert crowded.latency_s > exact_s(crowded)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pin", "a"), "--pin must be NAME=VALUE, got 'a'"),
        (("--reserve", "llc=many"), "--reserve must be LEVEL=BYTES"),
        (("--engine", "magic"), "engine must be one of"),
        (("--rate", "8x8=fast"), "--rate must be WxA=OPS_PER_S"),
        (("--resume",), "holds no map.ckpt to resume"),
        (("--chip", "nnp_tight"), "nnp_tight"),
        (("--engine", "density", "--budget", 9), "--budget is for a search, engine 'density' is none"),
        (("--reserve", "dram=9"), "level 'dram' has no capacity"),
    ],
)
def test_what_is_wrong_is_one_line(work, tmp_path, monkeypatch, capsys, options, message):
    chip, network = tmp_path / "chip.toml", tmp_path / "net.json"
    hw.save_chip(chip, small_chip())
    hw.save_workload(network, work)
    given = ["map", "--workload", network, "--chip", chip, "--out", tmp_path / "out", *options]
    code, _, err = run_command(monkeypatch, capsys, *given)
    assert code == 2
    assert re.search(re.escape(message), err)
    told = [line for line in err.splitlines() if not line.startswith("compiled ")]  # the first in a process
    assert len(told) == 1


@pytest.mark.long
def test_a_search_of_the_console_script_has_a_course_and_goes_on(work, tmp_path, monkeypatch, capsys):
    chip, network = tmp_path / "chip.toml", tmp_path / "net.json"
    hw.save_chip(chip, small_chip())
    hw.save_workload(network, work)
    options = ("--contention", 0.2, "--noise", 0.05, "--budget", 480)
    given = ["map", "--workload", network, "--chip", chip, *options]
    code, text, err = run_command(monkeypatch, capsys, *given, "--out", tmp_path / "whole")
    assert code == 0
    assert "480 maps measured" in text
    assert "map 480/480" in err
    assert (tmp_path / "whole" / "course.png").stat().st_size > 1000
    document = json.loads((tmp_path / "whole" / "map.json").read_text())
    assert document["contention"] == 0.2
    assert document["settings"]["noise"] == "0.05"
    assert "rank='predicted'" in document["settings"]["config"]
    assert document["settings"]["reward"] == "5 · speedup"

    stopped = (*given, "--out", tmp_path / "stopped")
    code, text, before = run_command(monkeypatch, capsys, *stopped, "--time-limit", 1e-3)
    assert code == 0
    assert "stopped before the budget was spent" in text
    code, _, after = run_command(monkeypatch, capsys, *stopped, "--resume")
    assert code == 0
    done, going_on = (int(re.search(r"map (\d+)/480", err)[1]) for err in (before, after))
    assert going_on > done, "what was measured is not measured again"
    levels = [json.loads((tmp_path / n / "map.json").read_text())["tensors"] for n in ("whole", "stopped")]
    assert levels[0] == levels[1]


def test_what_has_nothing_to_share_is_refused_before_anything_is_measured(work, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    mesh = jax.make_mesh((1,), ("pop",), axis_types=(jax.sharding.AxisType.Auto,))

    def board(placements):
        raise AssertionError("it was measured")

    with pytest.raises(ValueError, match="hosts share a board's maps"):
        egrl.place(jax.random.key(0), work, small_chip(), hosts=hw.Hosts())
    with pytest.raises(ValueError, match="mesh is for the model, which runs on devices, and a board is not"):
        egrl.place(jax.random.key(0), work, small_chip(), board=board, mesh=mesh, hosts=hw.Hosts())
    with pytest.raises(ValueError, match="hosts is for a search, engine 'first_fit' is none"):
        egrl.place(jax.random.key(0), work, small_chip(), engine="first_fit", hosts=hw.Hosts())
