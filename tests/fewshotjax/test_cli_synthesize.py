"""`fewshotjax train-delta` and `synthesize` on small tables: what they write, and what they refuse."""

import csv
import sys
import zipfile
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax import cli, cli_synthesize, delta as de
from fewshotjax.cli_features import FeatureWriter, read_features
from fewshotjax.delta import synthesis
from fewshotjax.delta.scaling import Scaling

WIDTH = 4
TINY = ("--hidden", 6, "--code", 2, "--epochs", 2, "--batch", 16, "--learning-rate", 0.01)


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
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("fewshotjax: error: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    return lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """seen.npz, other.npz, new.csv (one of ant, two of bee) and a trained delta.safetensors."""
    top = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10)
    x = rng.normal(size=(40, WIDTH)).astype(np.float32) + labels[:, None]
    np.savez(top / "seen.npz", features=x, labels=labels)
    np.savez(top / "other.npz", features=x, labels=np.array(list("pqrs"))[labels])
    with (top / "new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", *(f"f{i}" for i in range(WIDTH))])
        writer.writerows([["bee", *x[0]], ["ant", *x[11]], ["bee", *x[22]]])
    return top


@pytest.fixture(scope="module")
def trained(place):
    known = read_features(place / "seen.npz", "--features")
    config, train = de.DeltaConfig(hidden=6, code=2), de.DeltaTrainConfig(0.01, 16, 1)
    delta = de.train_delta(jax.random.key(0), known.features, known.labels, config, train).delta
    de.save_delta(place / "delta.safetensors", delta)
    return delta


def test_train_delta_leaves_the_best_epoch_in_a_file(place, tmp_path, capsys, monkeypatch):
    """By 1-shot episodes of --validation, whose four classes make four ways; those are stubs here."""
    seen = []

    def episodes(task, sampler, fit):
        assert (task.config.ways, task.config.most, task.config.queries) == (4, 1, 9)
        assert fit.samples == 40
        seen.append(jax.tree.map(np.asarray, sampler.delta))
        return np.full((8, 1), [0.75, 0.5][len(seen) - 1], np.float32)

    monkeypatch.setattr(cli_synthesize, "EPISODES", 8)
    monkeypatch.setattr(cli_synthesize, "accuracies_by_epoch", episodes)
    out = tmp_path / "delta.safetensors"
    given = ("train-delta", "--features", place / "seen.npz", "--out", out, *TINY)
    code, told, err = run(capsys, *given, "--validation", place / "other.npz")
    assert code == 0, err
    assert told.startswith("Delta-encoder of 4 classes: loss ")
    assert "epoch 2/2: loss" in err
    assert "--validation: 8 episodes, 4-way 1-shot with 9 queries of a class\n" in err
    for wrong in ("0.2500", "0.5000"):
        assert f", error of --validation {wrong}," in err
    delta = de.load_delta(out)
    jax.tree.map(np.testing.assert_array_equal, delta, seen[0])
    assert (delta.width, delta.config.hidden, len(delta.bank)) == (WIDTH, 6, 40)
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    assert "exists: give another name" in refused(capsys, *given)


def test_small_classes_of_validation_are_left_out_and_a_resumed_training_has_the_same(
    place, tmp_path, capsys
):
    """Five classes of 12 examples, two small ones: queries are cut by the fifth, not by the smallest."""
    labels = np.repeat(list("pqrstuv"), [12] * 5 + [1, 3])
    x = np.random.default_rng(1).normal(size=(len(labels), WIDTH)).astype(np.float32)
    np.savez(tmp_path / "other.npz", features=x, labels=labels)
    np.savez(tmp_path / "more.npz", features=x + 1, labels=labels)
    known = read_features(place / "seen.npz", "--features")
    found = cli_synthesize._validation(tmp_path / "other.npz", known)
    assert found.told == "200 episodes, 5-way 1-shot with 11 queries of a class"
    assert found.left_out == "; left out, of fewer than 12 examples: u, v"
    given = ("train-delta", "--features", place / "seen.npz", "--out", tmp_path / "d.safetensors", *TINY)
    stopped = run(capsys, *given, "--validation", tmp_path / "other.npz", "--time-limit", 0)
    assert stopped[0] == cli_synthesize.STOPPED
    told = refused(capsys, *given, "--validation", tmp_path / "more.npz", "--resume")
    assert "other settings: validation was" in told


@pytest.mark.long
def test_train_delta_runs_the_episodes_of_validation(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli_synthesize, "EPISODES", 8)
    out = tmp_path / "delta.safetensors"
    given = ("train-delta", "--features", place / "seen.npz", "--out", out, *TINY)
    code, _, err = run(capsys, *given, "--validation", place / "other.npz")
    assert code == 0, err
    assert ", error of --validation 0." in err
    assert out.exists()


def test_a_stopped_training_goes_on(place, tmp_path, capsys):
    out = tmp_path / "delta.safetensors"
    given = ("train-delta", "--features", place / "seen.npz", "--out", out, *TINY)
    code, told, err = run(capsys, *given, "--time-limit", 0)
    assert (code, told) == (cli_synthesize.STOPPED, "")
    assert "continue with --resume" in err
    assert "--resume to continue its training" in refused(capsys, *given)
    assert run(capsys, *given, "--resume")[0] == 0
    whole = tmp_path / "whole.safetensors"
    assert run(capsys, *given[: -len(TINY) - 1], whole, *TINY)[0] == 0
    jax.tree.map(np.testing.assert_array_equal, de.load_delta(out), de.load_delta(whole))


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_synthesize_writes_a_table(place, trained, tmp_path, capsys, kind):
    """Each class's own seeds with as many samples as they share, as `synthesize` makes them."""
    out = tmp_path / f"more.{kind}"
    given = ("--features", place / "new.csv", "--delta", place / "delta.safetensors", "--per-class", 6)
    code, told, err = run(capsys, "synthesize", *given, "--out", out)
    assert code == 0, err
    assert told == f"15 rows of 2 classes in {out}\n"
    found, seeds = read_features(out, "--features"), read_features(place / "new.csv", "--features")
    assert found.classes == ("ant", "bee")
    np.testing.assert_array_equal(found.labels, [0] * 7 + [1] * 8)
    for label, each in ((0, 6), (1, 3)):
        key = jax.random.fold_in(jax.random.key(0), label)
        expected = de.synthesize(key, trained, seeds.features[seeds.labels == label], each)
        own = found.features[found.labels == label].reshape(expected.shape)
        np.testing.assert_allclose(own, expected, rtol=1e-6)
        np.testing.assert_allclose(own[:, 0], seeds.features[seeds.labels == label], rtol=1e-6)
    if kind == "npz":
        with np.load(out) as stored:
            np.testing.assert_array_equal(np.flatnonzero(~stored["synthesized"]), [0, 7, 11])
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    assert "exists: give another name" in refused(capsys, "synthesize", *given, "--out", out)


def test_queries_are_scaled_as_samples_are(place, trained, tmp_path, capsys):
    """Without a sample, by any scaling."""
    statistics = Scaling(jnp.arange(4.0), jnp.asarray([1.0, 2.0, 3.0, 4.0]), "standard")
    scaled = trained.replace(scaling=statistics, config=replace(trained.config, scaling="standard"))
    de.save_delta(tmp_path / "standard.safetensors", scaled)
    given = ("--features", place / "new.csv", "--delta", tmp_path / "standard.safetensors", "--per-class", 0)
    code, told, err = run(capsys, "synthesize", *given, "--out", tmp_path / "queries.npz")
    assert code == 0, err
    assert told.startswith("3 rows of 2 classes")
    assert "--per-class 0 scales a table of queries alike" in err
    found, before = (read_features(p, "") for p in (tmp_path / "queries.npz", place / "new.csv"))
    order = np.argsort(before.labels, kind="stable")  # class by class
    np.testing.assert_array_equal(found.labels, before.labels[order])
    np.testing.assert_allclose(found.features, statistics(before.features[order]), rtol=1e-6)
    message = refused(capsys, "synthesize", *given, "--no-include-seeds", "--out", tmp_path / "none.npz")
    assert "there is nothing to write" in message


def test_numbers_of_seeds_between_two_powers_of_two_are_one_program(place, trained, tmp_path, capsys):
    """Three, four and two seeds: the first two of one shape, each cut to what its seeds share."""
    labels = np.repeat([0, 1, 2], [3, 4, 2])
    x = np.random.default_rng(2).normal(size=(9, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "new.npz", features=x, labels=labels)
    before = synthesis._synthesize._cache_size()
    given = ("--features", tmp_path / "new.npz", "--delta", place / "delta.safetensors", "--per-class", 8)
    assert run(capsys, "synthesize", *given, "--out", tmp_path / "more.npz")[0] == 0
    assert synthesis._synthesize._cache_size() <= before + 2
    with np.load(tmp_path / "more.npz") as stored:
        made = stored["features"]
        np.testing.assert_array_equal(np.bincount(stored["labels"]), [3 * 3, 4 * 3, 2 * 5])
        np.testing.assert_array_equal(made[~stored["synthesized"]], x)
        assert len(np.unique(made, axis=0)) == len(made)


def test_synthesize_refuses(place, trained, tmp_path, capsys):
    np.savez(tmp_path / "wide.npz", features=np.ones((2, 9), np.float32), labels=[0, 1])
    good = {
        "--features": place / "new.csv",
        "--delta": place / "delta.safetensors",
        "--out": tmp_path / "o.npz",
    }
    for change, message in (
        ({"--features": tmp_path / "wide.npz"}, "--features has 9 features, the Delta-encoder of --delta 4"),
        ({"--per-class": 1}, "--per-class is 1, but class bee has 2 seeds, which share them: give 2 or more"),
        ({"--per-class": -3}, "--per-class is -3, but class bee has 2 seeds"),
        ({"--per-class": 10**9}, "--per-class is 1000000000: a class of more than 16777216 samples"),
        ({"--codes": "magic"}, "--codes must be one of pairs, noise, normal, got 'magic'"),
        ({"--out": tmp_path / "o.txt"}, "o.txt must end in .npz or .csv"),
        ({"--features": tmp_path / "none.npz"}, "there is no such file"),
        ({"--delta": tmp_path / "none.safetensors"}, "none.safetensors: there is no such file"),
        ({"--features": tmp_path / "none.mat"}, "must end in .npz or .csv"),
        ({"--delta": place / "new.csv"}, "new.csv: is no .safetensors file"),
    ):
        options = [part for pair in {**good, **change}.items() for part in pair]
        assert message in refused(capsys, "synthesize", *options)
    assert not (tmp_path / "o.npz").exists()


def test_train_delta_refuses(place, tmp_path, capsys):
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    tables = {
        "single": {"features": x, "labels": [0, 0, 1, 1, 2, 0]},
        "nan": {"features": np.where(x == 5, np.nan, x), "labels": [0, 0, 1, 1, 2, 2]},
        "constant": {"features": np.ones_like(x), "labels": [0, 0, 1, 1, 2, 2]},
        "few": {"features": x, "labels": [0, 1]},
        "objects": {"features": x, "labels": np.array([None] * 6)},
        "nothing": {"labels": [0]},
    }
    for name, arrays in tables.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "text.npz").write_text("no archive")
    out = ("--out", tmp_path / "d.safetensors")
    for name, message in (
        ("single", "1 classes have a single sample"),
        ("nan", "row 1 of features is not finite"),
        ("constant", "features are the same in all rows"),
        ("few", "labels are int64 of (2,)"),
        ("objects", "is no .npz of plain arrays"),
        ("nothing", "must hold the arrays features and labels"),
        ("text", "is no .npz of plain arrays"),
    ):
        given = ("train-delta", "--features", tmp_path / f"{name}.npz", *out, *TINY)
        assert message in refused(capsys, *given)
    given = ("train-delta", "--features", place / "seen.npz", *out)
    told = refused(capsys, *given, "--validation", place / "seen.npz")
    assert "has classes of --features, 0, 1" in told
    assert "number the classes apart, or give names" in told
    assert "hidden must be a whole number of at least 1" in refused(capsys, *given, "--hidden", 0)
    assert not (tmp_path / "d.safetensors").exists()


def npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def npy(header, data=b"\0" * 64):
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "features",
    [
        b"no array",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}"),  # 16 TB, it says
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4)", b""),  # tokens without an end
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (8,)}"),
        npy(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (16777216, 1)}", bytes(2**26)
        ),  # 64 MB of 64 KB
        npy("{'descr': '<U2', 'fortran_order': False, 'shape': (8,)}", b"\xff" * 64),
    ],
)
def test_forged_features_are_refused_before_memory_is_taken(tmp_path, features):
    labels = npy("{'descr': '<i4', 'fortran_order': False, 'shape': (4,)}", bytes(16))
    npz(tmp_path / "x.npz", features=features, labels=labels)
    with pytest.raises(ValueError, match=r"--features .*x\.npz: is no \.npz of plain arrays") as caught:
        read_features(tmp_path / "x.npz", "--features")
    assert "\n" not in str(caught.value)


def test_a_table_that_fails_leaves_nothing(tmp_path):
    def fail():
        with FeatureWriter(tmp_path / "a.npz", ("a",), 2) as writer:
            writer.add(np.zeros((3, 2), np.float32), 0, np.ones(3, bool))
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()
    assert not list(tmp_path.iterdir())
