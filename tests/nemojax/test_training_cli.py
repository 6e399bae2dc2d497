"""`nemojax train` on a few pictures: what it writes, and that a stopped run is resumed bit for bit."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from nemojax import cli, cli_train
from nemojax.evaluation import wilson_interval
from nemojax.networks import resnet_cifar

FILES = {"weights.safetensors", "metrics.json", "curve.png", "train.ckpt", "epochs.json"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Ten classes of grey levels; the network is the smallest of its family."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for label in range(10):
            folder = tmp_path / "cifar" / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(25 * label + rng.integers(0, 25, (32, 32, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")

    def small(name, weights=None, key=None, **options):
        return resnet_cifar(weights, key, depth=8, **{"width": 4, **options})

    monkeypatch.setattr(cli_train.networks, "by_name", small)
    monkeypatch.setattr(cli_train, "VALIDATION", 10)
    return tmp_path / "cifar"


def run(*arguments):
    cli.app(["train", "--network", "resnet20_cifar", *map(str, arguments)], standalone_mode=False)


@pytest.mark.long
def test_a_run_and_one_that_was_stopped(data, tmp_path, capsys):
    settings = ("--data", data, "--epochs", 2, "--batch", 25, "--resolutions", "8,16", "--learning-rate", 0.1)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(*settings, "--out", whole)
    told = capsys.readouterr()
    assert told.err.index("reading") < told.err.index("epoch 1/2: loss") < told.err.index("epoch 2/2: loss")
    assert "top-1 accuracy" in told.out
    assert {file.name for file in whole.iterdir()} == FILES
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["config"]["resolutions"] == [8, 16]
    assert [epoch["number"] for epoch in metrics["epochs"]] == [1, 2]
    assert (metrics["training_images"], metrics["test_images"]) == (50, 20)
    misses = round(metrics["test_error"] * 20)
    np.testing.assert_allclose(metrics["test_error_interval"], wilson_interval(np.array(misses), 20))

    status = run_for_status(*settings, "--out", stopped, "--time-limit", 0)
    assert status == 130
    assert "stopped; continue with --resume" in capsys.readouterr().err
    assert {file.name for file in stopped.iterdir()} == {"train.ckpt", "epochs.json"}
    before = json.loads((stopped / "epochs.json").read_text())["training_seconds"]
    with pytest.raises(ValueError, match="is not empty: give another --out, or --resume"):
        run(*settings, "--out", stopped)
    run(*settings, "--out", stopped, "--resume", "--half")
    assert {file.name for file in stopped.iterdir()} == FILES
    metrics = json.loads((stopped / "metrics.json").read_text())
    assert [epoch["number"] for epoch in metrics["epochs"]] == [1, 2]
    assert 0 < before < metrics["training_seconds"]
    halves, singles = (load_file(folder / "weights.safetensors") for folder in (stopped, whole))
    for name, tensor in singles.items():
        assert halves[name].dtype == np.float16
        np.testing.assert_array_equal(halves[name], tensor.astype(np.float16))


def run_for_status(*arguments):
    try:
        return cli.app(["train", "--network", "resnet20_cifar", *map(str, arguments)], standalone_mode=False)
    except SystemExit as stop:
        return stop.code


def test_refusals(data, tmp_path):
    out = ("--data", data, "--out", tmp_path / "out")
    for arguments, message in (
        (("--network", "resnet50"), "--network must be one of mobilenet_v2_cifar, "),
        (("--resolutions", "16;32"), "--resolutions must be numbers with commas"),
        (("--width", 0.5), "--width of resnet20_cifar must be a whole number of channels, got 0.5"),
        (("--images", 51), "--images must be 1-50, got 51"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*out, *arguments)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "epochs.json").write_text("{")
    with pytest.raises(ValueError, match=r"epochs.json is damaged"):
        run(*out, "--resume")
