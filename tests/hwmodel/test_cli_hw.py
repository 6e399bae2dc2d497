"""The console script: reports of models from every source, and one line for everything that is wrong."""

import csv
import json
import re
import sys

import numpy as np
import pytest

from hwmodel import cli
from hwmodel.baselines import BASELINES
from hwmodel.bits import Bits
from hwmodel.chips.file import load_chip, preset_names, preset_text
from hwmodel.problem import problem
from hwmodel.random_graphs import random_workload
from hwmodel.report.explain import explain
from hwmodel.report.models import load_model
from hwmodel.report.placement_csv import read_placement_csv
from hwmodel.report.report import make_report
from hwmodel.workload_file import save_workload
from hwmodel.zoo import by_name

CHIP = load_chip("nnp_i_tight", warn=False)
TIGHT = """
schema = "hwmodel.chip"
version = 1
name = "tight"
[[levels]]
name = "slow"
read_bytes_per_s = 1e9
write_bytes_per_s = 1e9
[[levels]]
name = "fast"
capacity_bytes = 65_536
read_bytes_per_s = 1e10
write_bytes_per_s = 1e10
[[compute]]
weight_bits = 8
activation_bits = 8
ops_per_s = 1e12
"""


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Calls the script in an empty folder; (exit code, output, error output)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hwmodel", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return call


@pytest.fixture
def small(tmp_path):
    """A workload file and a chip file on which capacity binds."""
    work = random_workload(1, 9, 0.5, weight_elems=(1 << 12, 1 << 15), output_elems=(1 << 10, 1 << 14))
    save_workload(tmp_path / "small.json", work)
    (tmp_path / "tight.toml").write_text(TIGHT)
    return work


@pytest.mark.long
def test_report_writes_what_it_says(run, small, tmp_path):
    code, out, err = run("report", "small.json", "--chip", "tight.toml", "--out", "folder", "--top", 3)
    assert code == 0
    assert re.fullmatch(
        r"(compiled \d+ programs? .*\n)?", err
    )  # nothing, where an earlier test compiled them
    assert "gap to the bound: 0.000%" in out
    assert "and 6 shorter operations" in out
    files = {file.name: file for file in (tmp_path / "folder").iterdir()}
    names = "chip.toml explanation.csv explanation.json latency.png memory.png placement.png report.txt"
    assert sorted(files) == [*names.split(), "roofline.png", "workload.json"]
    assert all(files[name].read_bytes().startswith(b"\x89PNG") for name in files if name.endswith(".png"))
    chip = load_chip(files["chip.toml"])
    placement = read_placement_csv(files["explanation.csv"], small, chip)
    document = json.loads(files["explanation.json"].read_text())
    assert explain(small, chip, placement).latency_s == document["latency_s"]
    assert load_model(str(files["workload.json"])).operations == small.operations
    assert f"{len(small.operations)} operations" in files["report.txt"].read_text()


def test_a_placement_that_was_written_can_be_read_again(run, small, tmp_path):
    run("report", "small.json", "--chip", "tight.toml", "--placement", "density", "--out", "one")
    again = run("report", "small.json", "--chip", "tight.toml", "--placement", "one/explanation.csv")
    first = run("report", "small.json", "--chip", "tight.toml", "--placement", "density")
    assert again[0] == first[0] == 0
    table = [line for line in again[1].splitlines() if line.startswith("operation")]
    assert table == [line for line in first[1].splitlines() if line.startswith("operation")]
    assert len(table) == 10


def test_a_placement_that_does_not_fit_is_told_and_ends_with_1(run, small, tmp_path):
    rows = [{"operation": op.name, "weight_level": "fast", "output_level": "fast"} for op in small.operations]
    with (tmp_path / "all.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    code, out, _ = run("report", "small.json", "--chip", "tight.toml", "--placement", "all.csv")
    assert code == 1
    assert "DOES NOT FIT: fast" in out
    assert "gap to the bound" not in out


def test_report_of_a_built_in_network_warns_about_the_chip(run):
    arguments = ("report", "resnet50", "--chip", "nnp_i_tight", "--placement", "first_fit")
    code, out, err = run(*arguments, "--time-limit", 0)
    assert code == 0
    assert "57 operations" in out
    assert "no placement takes less" not in out
    *warnings, last = err.splitlines()
    assert warnings == [f"warning: chip 'nnp_i_tight': {line}" for line in CHIP.warnings]
    assert re.fullmatch(r"compiled \d+ programs? in [\d.]+ s \(\d+ from the cache\)", last)


def test_the_report_compares_with_rules_bound_and_backing_store():
    work = by_name("resnet50")
    found = make_report(work, CHIP, "density", time_limit_s=20.0)
    tables = problem(work, CHIP)
    for name, rule in BASELINES.items():
        assert found.rules_s[name] == explain(work, CHIP, rule(tables)).latency_s
    assert found.explanation.latency_s == found.rules_s["density"]
    assert found.backing_s == explain(work, CHIP, np.zeros((57, 2), int)).latency_s
    assert found.speed_up == found.backing_s / found.rules_s["density"]
    assert found.gap == pytest.approx(found.rules_s["density"] / found.optimum.lower_bound_s - 1)
    assert make_report(work, CHIP, "optimal", time_limit_s=20.0).gap < 1e-5


def test_the_gradient_placement_can_be_asked_for(small, tmp_path):
    chip = load_chip(tmp_path / "tight.toml")
    found = make_report(small, chip, "gradient", time_limit_s=0.0, seed=3)
    assert found.explanation.fits
    assert found.gap is None
    assert found.explanation.latency_s <= found.rules_s["density"] * (1 + 1e-6)
    again = make_report(small, chip, "gradient", time_limit_s=0.0, seed=3)
    np.testing.assert_array_equal(found.explanation.placement, again.explanation.placement)


def test_bits_and_batch_reach_the_model(run, small):
    assert load_model("resnet50", 2).operations == by_name("resnet50", batch=2).operations
    arguments = (
        "report",
        "small.json",
        "--chip",
        "tight.toml",
        "--time-limit",
        0,
        "--placement",
        "first_fit",
    )
    chip = load_chip("tight.toml")
    for bits in (8, 4):
        wide = Bits(bits, bits, bits)
        placement = BASELINES["first_fit"](problem(small, chip, wide))
        held = explain(small, chip, placement, wide).peaks[1].held_bytes
        _, out, _ = run(*arguments, "--bits", bits)
        assert f"{held:,} B" in next(line for line in out.splitlines() if line.startswith("fast"))
    code, _, err = run("report", "resnet50", "--chip", "nnp_i_aggregate", "--bits", 16)
    assert (code, "none holds 16-bit weights with 16-bit activations" in err) == (2, True)


TRACED = """
import jax
import jax.numpy as jnp

def build():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((5, 16), (16, 3), (2, 5))]
    return (lambda params, x: jax.nn.relu(x @ params[0]) @ params[1]), tuple(shapes[:2]), shapes[2]

def sorting():
    x = jax.ShapeDtypeStruct((2, 16), jnp.float32)
    return (lambda params, x: jnp.sort(x @ params)), jax.ShapeDtypeStruct((16, 3), jnp.float32), x

def wrong():
    return 3

def broken():
    raise KeyError("no weights\\nhere")
"""


@pytest.mark.long
def test_a_function_of_the_users_is_traced(run, tmp_path):
    (tmp_path / "mine_for_cli.py").write_text(TRACED)
    code, out, _ = run("report", "mine_for_cli:build", "--chip", "nnp_i_aggregate")
    assert code == 0
    assert out.startswith("2 operations, 1 edges, 128 weights")
    arguments = ("report", "mine_for_cli:sorting", "--chip", "nnp_i_aggregate")
    code, _, err = run(*arguments)
    assert (code, "does not know primitive 'sort'" in err) == (2, True)
    assert run(*arguments, "--unknown", "elementwise")[0] == 0
    for name, message in (
        ("wrong", "mine_for_cli:wrong must return (fn, params, inputs), got int"),
        ("broken", "mine_for_cli:broken: KeyError: 'no weights"),
        ("absent", "mine_for_cli:absent: AttributeError"),
    ):
        code, out, err = run("report", f"mine_for_cli:{name}", "--chip", "nnp_i_aggregate")
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert message in err


@pytest.mark.long
def test_an_onnx_file_is_read(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 5])],
        [helper.make_tensor_value_info("y", 1, [2, 3])],
        [helper.make_tensor("w", 1, [5, 3], np.ones(15, np.float32))],
    )
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    code, out, _ = run("report", "net.onnx", "--chip", "nnp_i_aggregate")
    assert code == 0
    assert out.startswith("1 operations, 0 edges, 15 weights")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:40])
    code, _, err = run("report", "cut.onnx", "--chip", "nnp_i_aggregate")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "cut.onnx" in err


def test_the_memories_can_be_packed(run, small, tmp_path):
    pytest.importorskip("ortools")
    pytest.importorskip("omnimalloc")
    arguments = ("report", "small.json", "--chip", "tight.toml", "--placement", "density", "--addresses")
    code, out, _ = run(*arguments, "--out", "one")
    assert code == 0
    assert "Written to one: addresses.csv, addresses.json" in out
    code, again, _ = run("report", "small.json", "--chip", "tight.toml", "--placement", "one/addresses.json")
    assert code == 0
    first = [line for line in out.splitlines() if line.startswith("operation")]
    assert first == [line for line in again.splitlines() if line.startswith("operation")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet5", "--chip", "nnp_i_tight"), "no model 'resnet5': .* did you mean resnet50?"),
        (("nothing", "--chip", "nnp_i_tight"), "no model 'nothing': .* the zoo has mobilenet_v2"),
        (("absent.json", "--chip", "nnp_i_tight"), "absent.json: no such file"),
        (("absent.onnx", "--chip", "nnp_i_tight"), "absent.onnx: no such file"),
        (("small.json", "--chip", "absent.toml"), "absent.toml: no such file; the presets are imxrt1170"),
        (("small.json", "--chip", "imxrt1170"), "'imxrt1170': the chip lacks compute, .* --rate 8x8=1e9"),
        (
            ("small.json", "--chip", "imxrt1170", "--rate", "8=1"),
            "--rate must be WxA=OPS_PER_S, .* got '8=1'",
        ),
        (("small.json", "--chip", "tight.toml", "--rate", "8x8=nan"), "--rate must be WxA=OPS_PER_S"),
        (
            ("small.json", "--chip", "tight.toml", "--batch", "2"),
            "small.json has its batch: leave out --batch",
        ),
        (("resnet50", "--chip", "tight.toml", "--batch", "0"), "batch must be at least 1, got 0"),
        (("small.json", "--chip", "tight.toml", "--bits", "0"), "bits.weights must lie in"),
        (
            ("small.json", "--chip", "tight.toml", "--placement", "best"),
            "no placement 'best': give optimal, gradient, first_fit",
        ),
        (("small.json", "--chip", "tight.toml", "--placement", "a.csv"), "a.csv: no such file"),
        (("small.json", "--chip", "tight.toml", "--time-limit", "-1"), "time_limit_s must be at least 0"),
        (("small.json", "--chip", "tight.toml", "--time-limit", "0"), "optimal placement needs a time limit"),
        (("small.json", "--chip", "tight.toml", "--top", "0"), "--top must be at least 1, got 0"),
        (("small.json", "--chip", "tight.toml", "--out", "."), "--out . must be a new or an empty folder"),
        (("small.json", "--chip", "tight.toml", "--out", "small.json"), "must be a new or an empty folder"),
        (("resnet50", "--chip", "tight.toml", "--unknown", "x"), "unknown must be 'error' or 'elementwise'"),
        (("a.b:c d", "--chip", "tight.toml"), "'a.b:c d' must be module:function"),
        (("no_such_module:f", "--chip", "tight.toml"), "no_such_module:f: ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(run, small, arguments, message):
    code, out, err = run("report", *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("hwmodel: error: ")
    head, _, tail = message.partition(" .* ")
    assert head in line
    assert tail in line


def test_chips_are_listed_shown_and_checked(run, tmp_path):
    code, out, _ = run("chip", "list")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines() if line.split(":")[0] in preset_names()] == list(
        preset_names()
    )
    assert run("chip", "show", "template")[:2] == (0, preset_text("template"))
    (tmp_path / "mine.toml").write_text(preset_text("template"))
    code, out, err = run("chip", "check", "mine.toml")
    assert (code, err) == (0, "")
    assert out.startswith("mine.toml is a chip: my_chip\n  DRAM: unlimited, reads 1e+09")
    (tmp_path / "bad.toml").write_text(TIGHT.replace("capacity_bytes", "capacity_kb"))
    code, out, err = run("chip", "check", "bad.toml")
    assert (code, out) == (1, "")
    assert err.startswith(
        "hwmodel: error: bad.toml: levels[1] 'fast': unknown key 'capacity_kb'; give capacity_bytes"
    )
    code, out, err = run("chip", "show", "tpu")
    assert (code, "no chip 'tpu'" in err) == (2, True)


def test_the_zoo_is_listed(run):
    code, out, _ = run("zoo")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["resnet50"][:2] == ["57", "25,557,032"]
    assert rows["mobilenet_v2"][1] == "3,504,872"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("operation,weight_level\n", "lacks the column output_level"),
        ("", "lacks the column operation"),
        ("operation,weight_level,output_level\na\n", "line 2 has too few cells"),
        ("operation,weight_level,output_level\nzzz,fast,fast\n", "line 2: 'zzz' is no operation of workload"),
        (
            "operation,weight_level,output_level\noperation0,fast,LLC\n",
            r"output_level must be one of .* got 'LLC'",
        ),
        (
            "operation,weight_level,output_level\noperation0,,slow\n",
            "lacks 8 operations of .*, as 'operation1'",
        ),
        ("operation,weight_level,output_level\noperation0,,\n", "output_level must be one of"),
        ("operation,weight_level,output_level\n" + "operation0,,slow\n" * 2, "'operation0' is listed twice"),
    ],
)
def test_what_is_no_placement_file(text, message, small, tmp_path):
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_placement_csv(file, small, load_chip(tmp_path / "tight.toml"))
    assert str(error.value).startswith(f"{file}: ")
