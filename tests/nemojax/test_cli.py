"""The console script, end to end on a small network: files, resume, and every refusal in one line."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nemojax as nemo
from nemojax import cli

from .report_cases import data_of

BASE = [
    "--resolution",
    "16",
    "--population",
    "8",
    "--calibration",
    "2",
    "--search-images",
    "3",
    "--report",
    "3",
    "--species",
    "continuous,floor",
    "--warm-start",
    "none",
    "--chip",
    "none",
]


@pytest.fixture(autouse=True, scope="module")
def small(small_network):
    patch = pytest.MonkeyPatch()
    patch.setattr(
        "nemojax.setup_run.by_name", lambda name, *given, **options: small_network(*given, **options)
    )
    yield
    patch.undo()


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `nemojax ...`."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["nemojax", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        patch.undo()
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *arguments) -> str:
    """The one line that a refused command prints."""
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("nemojax: error: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    return lines[0]


def labelled(folder: Path, count: int) -> Path:
    """A folder of pictures with a labels.csv."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["file,label"]
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{i % 5}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 24 evaluations and what it printed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["nemojax", "search", "--out", str(folder), "--budget", "24", *BASE])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    patch.undo()
    assert stop.value.code == 0
    return folder


@pytest.mark.long
def test_search_leaves_all_files(finished):
    names = {file.name for file in finished.iterdir()}
    assert names == {
        "course.json", "front.csv", "front.json", "front.png", "knee.json", "knee.png", "progress.png",
        "report.csv", "report.html", "report.json",
        "search.ckpt", "settings.json",
    }  # fmt: skip
    for name in ("front.png", "knee.png", "progress.png"):
        with Image.open(finished / name) as picture:
            assert min(picture.size) >= 400
    front = nemo.Front.from_json(finished / "front.json")
    assert front.objectives == ("kl", "model_ratio", "bitops_max")
    assert set(front.held_out) == {"report_kl", "report_disagreement", "bitops_product"}
    assert front.settings["run"]["population"] == 8
    assert front.settings["images_sha256"]["search"] != front.settings["images_sha256"]["report"]
    with (finished / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(front)
    np.testing.assert_allclose([float(row["kl"]) for row in rows], front.costs[:, 0])
    again = nemo.Front.from_json(finished / "report.json")
    assert set(again.held_out) == {"search_kl"}
    of_search = {row.tobytes(): kl for row, kl in zip(front.bits, front.held_out["report_kl"], strict=True)}
    assert [of_search[row.tobytes()] for row in again.bits] == again.costs[:, 0].tolist()
    bits = json.loads((finished / "knee.json").read_text())["bits"]
    assert list(bits) == list(front.names)


@pytest.mark.long
def test_show_makes_the_report_again_and_with_a_chip(finished, tmp_path, capsys):
    pages = [finished / "report.html", tmp_path / "same.html", tmp_path / "chip.html"]
    for page, chip in zip(pages[1:], ("none", "nnp_i_tight"), strict=True):
        assert run(capsys, "show", finished, "--report", page, "--chip", chip)[0] == 0
    first, same, other = (data_of(page) for page in pages)
    assert first == same
    front = nemo.Front.from_json(finished / "front.json")
    assert first["front"]["bits"] == front.bits.tolist()
    assert first["history"]["evaluations"][-1] <= 24
    assert list(first["baselines"][0]["values"]) == ["report_kl", "model_ratio", "bitops_max"]
    (chip,) = other["chips"]
    assert set(chip["points"]) == {str(row) for row in range(len(front))} or len(front) > 24
    assert all(point["fits"] for point in chip["points"].values())


@pytest.mark.long
def test_resume_equals_the_uninterrupted_run(finished, tmp_path, capsys):
    folder = tmp_path / "two-parts"
    assert run(capsys, "search", "--out", folder, "--budget", 16, *BASE)[0] == 0
    assert run(capsys, "search", "--out", folder, "--budget", 24, "--resume", *BASE)[0] == 0
    one, two = (nemo.Front.from_json(f / "front.json") for f in (finished, folder))
    np.testing.assert_array_equal(one.bits, two.bits)
    np.testing.assert_array_equal(one.costs, two.costs)


@pytest.mark.long
def test_resume_of_a_finished_run_evaluates_nothing(finished, capsys):
    before = (finished / "front.json").read_bytes()
    code, out, err = run(capsys, "search", "--out", finished, "--budget", 24, "--resume", *BASE)
    assert code == 0
    assert "evaluations," not in err  # no generation was reported
    assert "knee" in out
    assert (finished / "front.json").read_bytes() == before


def test_show_picks_and_saves(finished, tmp_path, capsys):
    code, out, _ = run(
        capsys, "show", finished, "--pick", "model_ratio=0.2", "--save", tmp_path / "bits.json"
    )
    assert code == 0
    assert "The point picked" in out
    front = nemo.Front.from_json(finished / "front.json")
    chosen = nemo.load_bits(tmp_path / "bits.json", front.names)
    np.testing.assert_array_equal(chosen.bits, front.pick(model_ratio=0.2).bits)
    assert "knee.json exists" in refused(capsys, "show", finished, "--save", finished / "knee.json")


@pytest.mark.long
def test_evaluate_gives_full_precision_and_the_configuration(finished, capsys):
    code, out, _ = run(capsys, "evaluate", finished / "knee.json")
    assert code == 0
    knee = nemo.load_bits(finished / "knee.json")
    own = [float(x) for x in out.splitlines()[-1].split()[1:]]
    expected = [
        knee.held_out["report_kl"],
        knee.held_out["report_disagreement"],
        *list(knee.costs.values())[1:],
    ]
    np.testing.assert_allclose(own[:4], expected, rtol=2e-3)  # the search's report, again, as printed
    full = next(line for line in out.splitlines() if line.startswith("full precision")).split()
    assert [float(x) for x in full[2:]] == [0, 0, 1, 1, 1]
    common = ["--resolution", "16", "--report", "3"]
    code, out, _ = run(capsys, "evaluate", "8", *common)
    assert code == 0
    eight = [float(x) for x in out.splitlines()[-1].split()[1:]]
    np.testing.assert_allclose(eight[3:], [0.25, 0.0625], atol=1e-4)
    assert "give 2-16" in refused(capsys, "evaluate", "17", *common)
    for option in ("--json", "--classes", "--calibration", "--batch", "--threads"):
        assert f"{option} is for --network" in refused(capsys, "evaluate", "8", option, "4", *common)


@pytest.mark.long
def test_labelled_pictures_are_scored_by_their_labels(tmp_path, capsys):
    images = labelled(tmp_path / "images", 12)
    code, _, err = run(capsys, "search", "--images", images, "--out", tmp_path / "run", "--budget", 8, *BASE)
    assert code == 0, err
    front = nemo.Front.from_json(tmp_path / "run" / "front.json")
    assert front.objectives == ("top5_error", "model_ratio", "bitops_max")
    assert set(front.held_out) == {"report_top1_error", "report_top5_error", "bitops_product"}
    code, out, err = run(capsys, "evaluate", tmp_path / "run" / "knee.json")
    assert code == 0, err
    knee = nemo.load_bits(tmp_path / "run" / "knee.json")
    own = dict(zip(out.splitlines()[0].split(), out.splitlines()[-1].split()[1:], strict=True))
    for k in (1, 5):  # on the very images of the search's report
        np.testing.assert_allclose(
            float(own[f"top{k}_error"]), knee.held_out[f"report_top{k}_error"], atol=1e-3
        )


def test_evaluate_refuses_quantizers_that_no_option_sets(tmp_path, capsys):
    """As a search in Python may have had them."""
    settings = {"quantizers": {"symmetric_weights": True}}
    nemo.save_bits(tmp_path / "own.json", nemo.Configuration(np.array([4]), ("a",), {}, settings=settings))
    assert "with quantizers that no option sets" in refused(capsys, "evaluate", tmp_path / "own.json")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    line = refused(capsys, "search", "--out", tmp_path, *BASE)
    assert "is not empty" in line
    assert "--resume" in line
    assert "no run to resume" in refused(capsys, "search", "--out", tmp_path, "--resume", *BASE)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_resume_with_other_settings_names_the_difference(finished, capsys):
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    line = refused(capsys, "search", "--out", finished, "--resume", *BASE, "--seed", 3)
    assert "seed=0, now it is 3" in line
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def test_a_damaged_checkpoint_is_refused(finished, tmp_path, capsys):
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("settings.json", "search.ckpt"):
        (folder / name).write_bytes((finished / name).read_bytes())
    data = (folder / "search.ckpt").read_bytes()
    (folder / "search.ckpt").write_bytes(data[: len(data) // 2])
    assert "cut short" in refused(capsys, "search", "--out", folder, "--budget", 32, "--resume", *BASE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bits", "1,2"], "2-16"),
        (["--bits", "8,17"], "2-16"),
        (["--bits", "4,2"], "ascending"),
        (["--bits", "two"], "--bits must be numbers"),
        (["--pin", "stem.weight=4", "--pin", "stem.*=8"], "contradictory pins"),
        (["--pin", "stem.weight=4", "--pin", "stem.weight=8"], "contradictory pins"),
        (["--pin", "nothing=4"], "matches no quantizer"),
        (["--pin", "stem.weight"], "--pin must be NAME=BITS"),
        (["--pin", "stem.weight=40"], "2-16"),
        (["--budget", "3"], "--budget must be at least"),
        (["--survival", "luck"], "survival is 'luck'"),
        (["--activation-range", "luck"], "activation_range must be one of"),
        (["--top-k", "0"], "top_k must be at least 1"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--calibration", "0"], "calibration must be at least 1"),
        (["--images", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, capsys, arguments, words):
    line = refused(capsys, "search", "--out", tmp_path / "run", *BASE, *arguments)
    assert words in line
    assert not (tmp_path / "run").exists()


def test_wrong_images_are_refused(tmp_path, capsys):
    few = labelled(tmp_path / "few", 4)
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = labelled(tmp_path / "broken", 12)
    (broken / "3.png").write_bytes(b"not a picture")
    for images, words in ((few, "holds 4 images"), (empty, "empty"), (broken, "3.png")):
        line = refused(capsys, "search", "--images", images, "--out", tmp_path / "run", *BASE)
        assert words in line
        assert not (tmp_path / "run").exists()


def test_wrong_weights_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nemojax.setup_run.by_name", nemo.networks.by_name)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(b"\x10\x00\x00\x00")
    for weights, words in ((tmp_path / "absent.pth", "absent.pth"), (cut, "cut.safetensors")):
        line = refused(capsys, "search", "--weights", weights, "--out", tmp_path / "run", *BASE)
        assert words in line
        assert not (tmp_path / "run").exists()


def test_class_folders_that_are_not_the_networks_are_refused(tmp_path, capsys):
    for name in ("dog", "tench"):
        labelled(tmp_path / "images" / name, 6)
        (tmp_path / "images" / name / "labels.csv").unlink()
    line = refused(capsys, "search", "--images", tmp_path / "images", "--out", tmp_path / "run", *BASE)
    assert "has 2 class folders, but the network has 1000 classes" in line


def test_a_file_that_cannot_be_written_is_one_line(finished, tmp_path, capsys):
    code, _, err = run(capsys, "show", finished, "--chart", tmp_path / "absent" / "x.png")
    assert code == 2
    assert err.startswith("nemojax: error: ")
    assert len(err.splitlines()) == 1


def test_an_interrupted_search_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_search", interrupted)
    code, _, err = run(capsys, "search", "--out", tmp_path / "run", "--budget", 8, *BASE)
    assert code == 130
    assert "stopped; no generation was finished" in err


def test_help_teaches(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "First steps: nemojax search" in " ".join(out.split())
    code, out, _ = run(capsys, "search", "--help")
    assert code == 0
    assert "labels.csv with columns file,label" in " ".join(out.split())


# Ties, pairs, limits, warm start, cache, seeds


@pytest.mark.slow
def test_all_options_of_a_space_and_a_start_together(finished, tmp_path, capsys):
    """The second run starts from the first one's knee and evaluates nothing that the cache knows."""
    names = nemo.Front.from_json(finished / "front.json").names
    weight, other = [name for name in names if name.endswith(".weight")][:2]
    options = [
        *BASE[:8], "--species", "continuous,priced", "--warm-start", "sqnr", "--bits", "4,8",
        "--bits-of", f"{weight}=8", "--tie", f"{weight},{other}", "--pairs", "8x8,4x8,4x4",
        "--limit", "model_ratio=0.25", "--cache", tmp_path / "cache", "--seeds-from", finished / "knee.json",
    ]  # fmt: skip
    code, _, err = run(capsys, "search", "--out", tmp_path / "run", "--budget", 24, *options)
    assert code == 0, err
    front = nemo.Front.from_json(tmp_path / "run" / "front.json")
    column = dict(zip(front.names, front.bits.T, strict=True))
    assert set(np.unique(front.bits)) <= {4, 8}
    assert set(column[weight]) == set(column[other]) == {8}
    assert (front.costs[:, list(front.objectives).index("model_ratio")] <= 0.25).all()
    told = front.settings["run"]
    assert told["ties"] == [[weight, other]]
    assert told["pairs"] == [[8, 8], [4, 8], [4, 4]]
    assert told["limits"] == [["model_ratio", "0.25"]]
    assert (told["species"], told["warm_start"]) == (["continuous", "priced"], "sqnr")
    assert (tmp_path / "cache").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "model_ratio=0.001"], "limit model_ratio <= 0.001 cannot be kept"),
        (["--limit", "beauty=1"], "no objective 'beauty'"),
    ],
)
def test_limits_that_cannot_be_kept_are_one_line(tmp_path, capsys, arguments, words):
    assert words in refused(capsys, "search", "--out", tmp_path / "run", *BASE, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "model_ratio"], "--limit must be NAME=VALUE"),
        (["--limit", "model_ratio=small"], "model_ratio must be a number"),
        (["--limit", "size=12"], "limit of size must be a number and one of"),
        (["--species", "continuous,dragon"], "species holds 'dragon'"),
        (["--species", "continuous,priced", "--warm-start", "none"], "'priced' needs a warm_start"),
        (["--warm-start", "luck"], "warm_start must be one of"),
        (["--pairs", "8by8"], "--pairs must be like 8x8,4x8"),
        (["--pairs", "8x8x8"], "--pairs must be like 8x8,4x8"),
        (["--pairs", "20x8"], "2-16"),
        (["--tie", "nothing,stem.weight"], "matches no quantizer"),
        (["--bits-of", "nothing=4,8"], "matches no quantizer"),
        (["--bits-of", "stem.weight"], "--bits-of must be NAME=VALUE"),
        (["--bits-of", "stem.weight=8,4"], "ascending"),
    ],
)
def test_wrong_spaces_and_starts_are_refused_before_anything_is_written(tmp_path, capsys, arguments, words):
    line = refused(capsys, "search", "--out", tmp_path / "run", *BASE, *arguments)
    assert words in line
    assert not (tmp_path / "run").exists()


def test_seeds_of_a_foreign_file_are_refused(tmp_path, capsys):
    (tmp_path / "seeds.json").write_text("{}")
    options = ["--seeds-from", tmp_path / "seeds.json"]
    assert "seeds.json" in refused(capsys, "search", "--out", tmp_path / "run", *BASE, *options)


def test_a_network_that_is_not_known_is_refused(tmp_path, capsys):
    line = refused(capsys, "search", "--network", "alexnet", "--out", tmp_path / "run", *BASE)
    assert "'alexnet'" in line
    assert "resnet50" in line
