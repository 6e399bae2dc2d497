"""What a run's folder keeps for its report, and the page that `nemojax show` makes of it."""

import json
import shlex
import sys
from importlib import resources
from types import SimpleNamespace

import numpy as np
import pytest

import nemojax as nemo
from nemojax import cli
from nemojax.run_folder import command, read_course, write_course
from nemojax.setup_run import RunSettings

from .report_cases import Page, data_of, read

NAMES = ("input", "stem.weight", "stem.activation", "head.weight")


def found(generations=2):
    history = {
        "evaluations": np.array([8, 16], np.int32)[:generations],
        "hypervolume": np.array([0.1, 0.3], np.float32)[:generations],
        "alloc": np.array([[5, 3], [4, 4]], np.int32)[:generations],
    }
    return SimpleNamespace(history=history, species=("continuous", "gcn"), evaluations=16, finished=False)


def baselines():
    rng = np.random.default_rng(1)
    costs = rng.random((3, 3))
    costs[1, 0] = np.inf  # failed
    return {
        "uniform": (np.full((2, 4), 4), rng.random((2, 3))),
        "random": (rng.integers(2, 9, (3, 4)), costs),
    }


COLUMNS = ("report_kl", "model_ratio", "bitops_max")


@pytest.fixture
def folder(tmp_path, as_users_have_it):
    """A run as `search` leaves it, as far as its report reads it."""
    folder = tmp_path / "run"
    folder.mkdir()
    rng = np.random.default_rng(0)
    costs = 0.1 + rng.random((30, 3))
    settings = {"run": RunSettings(seed=3).as_dict(), "budget": 40, "network": "small"}
    held_out = {"report_kl": rng.random(30)}
    objectives = ("kl", *COLUMNS[1:])
    bits = rng.integers(2, 9, (30, 4))
    nemo.Front.of(bits, costs, objectives, NAMES, settings, held_out).to_json(folder / "front.json")
    write_course(folder / "course.json", found(), baselines(), COLUMNS)
    return folder


def run(capsys, *arguments):
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["nemojax", *map(str, arguments)])
    with patch.context(), pytest.raises(SystemExit) as stop:
        cli.main()
    patch.undo()
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize("generations", [0, 2])  # none: stopped within the warm start
def test_a_course_comes_back(tmp_path, as_users_have_it, generations):
    path = tmp_path / "course.json"
    write_course(path, found(generations), baselines(), COLUMNS)
    again = read_course(path, len(NAMES))
    for name, column in found(generations).history.items():
        np.testing.assert_array_equal(again.history[name], column)
    assert (again.species, again.baseline_columns) == (("continuous", "gcn"), COLUMNS)
    assert (again.evaluations, again.finished) == (16, False)
    alive = {"uniform": [0, 1], "random": [0, 2]}
    assert list(again.baselines) == list(alive)
    for name, rows in alive.items():
        for got, want in zip(again.baselines[name], baselines()[name], strict=True):
            np.testing.assert_array_equal(got, want[rows])


def test_a_course_keeps_its_published_schema(tmp_path, as_users_have_it):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(resources.files("nemojax").joinpath("schemas/course.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    write_course(tmp_path / "c.json", found(), baselines(), COLUMNS)
    data = json.loads((tmp_path / "c.json").read_text())
    jsonschema.validate(data, schema)
    assert set(schema["required"]) == set(data) == set(schema["properties"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("members", [[1, 2]], "has columns of different lengths"),
        ("baseline_names", [], "has columns of different lengths"),
        ("spent", {"evaluations": 1}, "spent must hold evaluations and finished"),
        ("progress", [[1, "x"]], r"progress\[0\]\[1\] is \"x\", not a finite number"),
        ("schema", "else/1", "schema is \"else/1\", not 'frugaljax.nemo.course/1'"),
    ],
)
def test_a_damaged_course_is_named(tmp_path, as_users_have_it, field, value, message):
    path = tmp_path / "course.json"
    write_course(path, found(), baselines(), COLUMNS)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, field: value}))
    with pytest.raises(ValueError, match=message):
        read_course(path, len(NAMES))


@pytest.mark.parametrize(
    "settings",
    [
        RunSettings(),
        RunSettings(
            network="resnet50", images="my 'photos'", weights="w.pth", resolution=96, calibration=3, search=5,
            report=7, top_k=1, bits=(2, 4, 8), pins=(("stem.*", 8), ("fc.weight", 4)),
            sets=(("a.*", (4, 8)),), ties=(("q.*", "k.*"),), pairs=((8, 8), (4, 8)),
            limits=(("size", "1.2 MB"), ("kl", "0.5")),
            activation_range="minmax", population=8, species=("continuous", "floor"), survival="nsga2",
            warm_start="none", seed=9,
        ),
    ],
    ids=["defaults", "everything"],
)  # fmt: skip
def test_the_command_does_it_again(tmp_path, capsys, monkeypatch, settings):
    """What the console script makes of it are the same settings, and every option of them is there."""
    given = []

    def prepare(settings, say):
        given.append(settings)
        raise ValueError("enough")

    monkeypatch.setattr(cli, "prepare", prepare)
    words = shlex.split(command(settings, 60, str(tmp_path / "again")))
    assert run(capsys, *words[1:])[0] == 2
    assert given == [settings]
    kept = settings.as_dict() if settings != RunSettings() else {}
    assert {name for name in kept if kept[name] == RunSettings().as_dict()[name]} <= {"weight_range"}
    assert "--budget 60" in command(settings, 60)


def test_show_makes_the_page_of_a_run(folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    code, _, err = run(capsys, "show", folder, "--report", page, "--chip", "none")
    assert code == 0, err
    data, front = data_of(page), nemo.Front.from_json(folder / "front.json")
    assert np.array_equal(data["front"]["bits"], front.bits)
    assert data["history"]["evaluations"] == [8, 16]
    assert [one["name"] for one in data["baselines"]] == ["uniform", "random"]
    assert list(data["baselines"][0]["values"]) == list(COLUMNS)
    assert data["chips"] == []
    text = " ".join(Page(read(page)).text)
    assert "nemojax search --out again --budget 40 --seed 3" in text
    assert "stopped after 16 evaluations" in text
    code, _, err = run(capsys, "show", folder, "--report", page, "--chip", "none")
    assert code == 2
    assert "page.html exists: give another name" in err


def test_show_makes_the_page_of_a_front_alone(folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert run(capsys, "show", folder / "front.json", "--report", page, "--chip", "none")[0] == 0
    data = data_of(page)
    assert (data["history"], data["baselines"]) == (None, [])


def test_a_chip_that_there_is_not_is_refused_first(folder, tmp_path, capsys):
    code, _, err = run(capsys, "search", "--out", tmp_path / "new", "--chip", "absent")
    assert code == 2
    assert "absent" in err
    assert not (tmp_path / "new").exists()
    code, _, err = run(capsys, "show", folder, "--report", tmp_path / "r.html", "--chip", "imxrt1170")
    assert code == 2
    assert "imxrt1170" in err  # it has no rate of its own
