"""`fewshotjax detect` and `train-detector` on tiny pictures and a plugin of the test's own."""

import csv
import json
import sys
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fewshotjax import cli, cli_detect, cli_train_detector
from fewshotjax.detection import pyramid_plugins
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.data import read_coco, read_coco_detections
from fewshotjax.detection.detector_files import load_detector

SHADES = {"red": (220, 30, 30), "blue": (30, 30, 220)}
STRIDES = (4, 8, 16)


def means(params, x):
    b, h, w, c = x.shape
    return tuple(
        x.reshape(b, h // s, s, w // s, s, c).mean(axis=(2, 4)) * params[None, None, None] for s in STRIDES
    )


def colours():
    return {
        "name": "efficientnet_lite0",  # stands in for it
        "function": means,
        "params": np.ones(3, np.float32),
        "channels": 3,
        "mean": 127.5,
        "scale": 64.0,
        "strides": STRIDES,
        "widths": (3, 3, 3),
    }


@pytest.fixture(autouse=True, scope="module")
def plugin():
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "a_pyramid", SimpleNamespace(colours=colours))
    entries = EntryPoints([EntryPoint("efficientnet_lite0", "a_pyramid:colours", pyramid_plugins.GROUP)])
    patch.setattr(pyramid_plugins, "entry_points", lambda **what: entries.select(**what))
    small = partial(
        DetectorConfig, channels=4, before_nms=20, proposals=8, roi_size=2, hidden=(8,), hardest=8
    )
    patch.setattr(cli_train_detector, "DetectorConfig", small)
    yield
    patch.undo()


def photograph(seed, *names):
    rng = np.random.default_rng(seed)
    image = rng.integers(50, 80, (48, 64, 3)).astype(np.uint8)
    boxes = []
    for column, name in enumerate(names):
        x, y = 4 + 30 * column + int(rng.integers(0, 10)), int(rng.integers(0, 30))
        image[y : y + 16, x : x + 16] = SHADES[name]
        image[y + 4 : y + 12, x + 4 : x + 12] = 255  # so that a part of it is no whole
        boxes.append([x, y, 16, 16])
    return image, boxes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """support/boxes.json beside its pictures, and photos/."""
    top = tmp_path_factory.mktemp("detect")
    (top / "support").mkdir()
    (top / "photos").mkdir()
    names = list(SHADES)
    record = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 4 + i, "name": n} for i, n in enumerate(names)],
    }
    for number in range(3):
        image, boxes = photograph(number, *names)
        Image.fromarray(image).save(top / "support" / f"{number}.png")
        record["images"].append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        for i, box in enumerate(boxes):
            one = {"id": len(record["annotations"]), "image_id": number, "category_id": 4 + i, "bbox": box}
            record["annotations"].append(one)
    (top / "support" / "boxes.json").write_text(json.dumps(record))
    for number, shown in enumerate((["red"], ["blue", "red"])):
        Image.fromarray(photograph(10 + number, *shown)[0]).save(top / "photos" / f"{number}.png")
    return top


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


def test_detect_leaves_coco_files_a_table_and_pictures(place, tmp_path, capsys):
    out, saved = tmp_path / "found", tmp_path / "mine.safetensors"
    given = ("detect", "--support", place / "support/boxes.json", "--images", place / "photos")
    code, text, err = run(capsys, *given, "--out", out, "--pixels", 64, "--save", saved)
    assert code == 0, err
    lines = text.splitlines()
    assert lines[0].split() == ["file", "label", "score", "box", "nearest", "example", "distance"]
    assert sorted(tuple(line.split()[:2]) for line in lines[1:]) == [
        ("0.png", "red"),
        ("1.png", "blue"),
        ("1.png", "red"),
    ]
    assert "note: sliding windows over pretrained features, no trained proposals" in err
    assert "note: threshold " in err
    assert "3 boxes in 2 photographs, score from " in err
    assert "red 2, blue 1" in err
    known = read_coco(out / "images.json")
    assert (known.files, known.category_ids) == (("0.png", "1.png"), (4, 5))
    assert len(read_coco_detections(out / "detections.json", known)) == 3
    with (out / "detections.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)].count("red") == 2
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["0.png", "1.png"]
    assert "is not empty: give another --out" in refused(capsys, *given, "--out", out)
    # The same classes again, without their support.
    again = ("detect", "--load", saved, "--images", place / "photos", "--out", tmp_path / "again")
    code, second, err = run(capsys, *again)
    assert (code, second) == (0, text), err


def test_support_may_lie_among_the_photographs(place, tmp_path, capsys):
    boxes = tmp_path / "boxes.json"
    boxes.write_text((place / "support/boxes.json").read_text())
    given = ("detect", "--support", boxes, "--images", place / "support", "--pixels", 64, "--classes", "blue")
    code, text, err = run(capsys, *given, "--out", tmp_path / "found")
    assert code == 0, err
    assert "note: 3 photographs are of the support, where they are no test: 0.png" in err
    assert {line.split()[1] for line in text.splitlines()[1:]} == {"blue"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--support": "nowhere.json"}, "--support nowhere.json: there is no such file or folder"),
        ({"--images": "nowhere"}, "--images nowhere: there is no such file or folder"),
        ({"--support": None}, "give either --support, boxes of examples, or --load"),
        ({"--load": "x.safetensors"}, "give either --support, boxes of examples, or --load"),
        ({"--detector": "x.safetensors"}, "--detector x.safetensors: there is no such file or folder"),
        ({"--tune": "5"}, "--keep-base and --tune need a trained detector: give --detector"),
        ({"--tune": "-1"}, "--tune must be at least 0 epochs, got -1"),
        ({"--threshold": "2"}, "threshold must be a score, 0 to 1"),
        ({"--pixels": "50"}, "pixels must be a multiple of 32 from 32 to 4096, got 50"),
        ({"--classes": "green"}, "green"),
        ({"--save": "x.txt"}, "x.txt must end in .safetensors"),
    ],
)
def test_detect_refuses(place, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    given = {
        "--support": place / "support/boxes.json",
        "--images": place / "photos",
        "--out": "found",
        **change,
    }
    told = refused(
        capsys, "detect", *(part for pair in given.items() if pair[1] is not None for part in pair)
    )
    assert message in told
    assert not (tmp_path / "found").exists()


def test_augmenting_without_tuning_is_refused(place, tmp_path, capsys):
    given = ("--support", place / "support/boxes.json", "--images", place / "photos", "--out", tmp_path / "y")
    assert "--augment is of fine-tuning: give --tune EPOCHS" in refused(capsys, "detect", *given, "--augment")


def test_what_loaded_classes_do_not_ask_for_is_refused(place, tmp_path, capsys):
    given = (
        "detect",
        "--load",
        tmp_path / "x.safetensors",
        "--images",
        place / "photos",
        "--out",
        tmp_path / "y",
    )
    rest = ("--classes", "red", "--pixels", 64, "--tune", 5, "--keep-base", "--repair", "--seed", 0)
    told = refused(capsys, *given, *rest, "--support-images", place)
    names = "--support-images, --classes, --pixels, --repair, --keep-base, --tune, --seed are of --support"
    assert names in told
    assert "x.safetensors: there is no such file" in refused(capsys, *given, "--threshold", 0.5)


def test_faults_are_told_where_boxes_are_read_for_good(place, tmp_path):
    record = json.loads((place / "support/boxes.json").read_text())
    record["annotations"][0]["bbox"][0] = 60  # beyond the border
    (tmp_path / "boxes.json").write_text(json.dumps(record))
    assert cli_detect._lie_in(tmp_path / "boxes.json", place / "support")  # a warning is an error here


def test_without_the_extra_it_says_what_to_install(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pyramid_plugins, "entry_points", lambda **what: EntryPoints())
    given = ("--support", place / "support/boxes.json", "--images", place / "photos")
    told = refused(capsys, "detect", *given, "--out", tmp_path / "found")
    assert "comes with pip install 'frugaljax[pretrained]'" in told


def test_damaged_photographs_are_refused_or_skipped(place, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    whole = (place / "photos/0.png").read_bytes()
    (photos / "good.png").write_bytes(whole)
    (photos / "bad.png").write_bytes(whole[:80])
    given = ("detect", "--support", place / "support/boxes.json", "--images", photos, "--pixels", 64)
    assert "bad.png: cannot be decoded" in refused(capsys, *given, "--out", tmp_path / "found")
    code, text, err = run(capsys, *given, "--skip", "--out", tmp_path / "found")
    assert (code, text.splitlines()[1].split()[:2]) == (0, ["good.png", "red"]), err
    assert "note: 1 files were skipped, the first" in err


@pytest.mark.long
def test_train_detector_leaves_a_detector_that_detects(place, tmp_path, capsys):
    out = tmp_path / "det.safetensors"
    boxes = ("--boxes", place / "support/boxes.json")
    given = ("train-detector", *boxes, "--network", "efficientnet_lite0", "--pixels", 64, "--batch", 2)
    check = ("--validation", place / "support/boxes.json")
    code, text, err = run(capsys, *given, *check, "--epochs", 2, "--out", out)
    assert code == 0, err
    assert "efficientnet_lite0: 3 photographs of 2 classes, images of 64x64; the first step compiles" in err
    assert "epoch 2/2: loss" in err
    assert "AP of --validation at IoU .5" in err
    assert text.startswith("efficientnet_lite0: loss")
    figures = json.loads((tmp_path / "det.json").read_text())
    assert (figures["classes"], len(figures["epochs"])) == (["red", "blue"], 2)
    again = load_detector(out)
    assert (again.classes, again.net.preprocess.pixels) == (("red", "blue"), 64)
    found = ("detect", "--support", place / "support/boxes.json", "--images", place / "photos")
    code, text, err = run(
        capsys,
        *found,
        "--detector",
        out,
        "--out",
        tmp_path / "found",
        "--keep-base",
        "--threshold",
        0,
        "--tune",
        1,
    )
    assert code == 0, err
    assert "blue (trained)" in text
    assert "exists: give another name" in refused(capsys, *given, "--out", out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"--boxes": "nowhere.json"},
            "--boxes nowhere.json: there is no such file; sets are named like",
        ),
        ({"--boxes": "bccd:all"}, "--boxes bccd:all: bccd has the parts train, val, test: write bccd:PART"),
        ({"--network": "magic"}, "--network magic is none of resnet18_pyramid, resnet50_pyramid"),
        ({"--network": "x.safetensors"}, "--network x.safetensors: there is no such file"),
        ({"--novel": "red,green"}, "images show 1 novel classes, such as 'red'"),
        ({"--pixels": "50"}, "pixels must be a multiple of 32"),
        ({"--epochs": "0"}, "epochs must be at least 1"),
        ({"--out": "det.txt"}, "det.txt must end in .safetensors"),
        ({"--resume": ""}, "--resume: there is no det.ckpt: leave --resume out"),
    ],
)
def test_train_detector_refuses(place, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    given = {"--boxes": place / "support/boxes.json", "--out": "det.safetensors", **change}
    given.setdefault("--network", "efficientnet_lite0")
    parts = [part for pair in given.items() for part in pair if part != ""]
    assert message in refused(capsys, "train-detector", *parts)


def test_names_of_the_novel_classes_of_tiny_imagenet(data_dir):
    assert cli_train_detector._novel("tiny_imagenet_mine.json", None) == ()
    names = cli_train_detector._novel("tiny_imagenet:base_train", "a, b")
    assert names[:2] == ("a", "b")
    assert len(names) == 2 + 30 + 50
    assert cli_detect.LINES > 0
