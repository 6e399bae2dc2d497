"""Garbage for readers and constructors: a few dozen cases of each, all of them `make bench NAME=fuzz`."""

import ast
import importlib
import re
import sys
import warnings
from pathlib import Path

import pytest

import egrljax
import fewshotjax
import hwmodel
import nemojax

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # at the end: the packages stay the ones that are tested
fuzz = pytest.importorskip(
    "benchmarks.fuzz", reason="the benchmarks are not here: this is not the repository"
)
child = pytest.importorskip("benchmarks.fuzz_child")
fuzz_target = pytest.importorskip("benchmarks.fuzz_target")
TARGETS = fuzz.targets()
READERS = [name for name in TARGETS if not name.startswith("make ")]
# What they need first (a network, a chip's allocation, a detector) takes seconds to make.
DEAR = {
    *("addresses", "policies", "network_weights", "exports", "backbones", "heads", "classifiers"),
    *("deltas", "detectors", "found_classes"),
}
# Functions with a reader's name that read no file, or one of another's.
NO_READERS = {
    "hwmodel.json_checks.read_text": "what other readers read by",
    "hwmodel.onnx_import.reader.read_model": "of from_onnx",
    "nemojax.weights.archive.read_member": "of read_weights",
    "nemojax.weights.hdf5.read_hdf5": "of read_weights",
    "nemojax.weights.hdf5.read_keras": "of read_weights",
    "nemojax.weights.opcodes.read_pickle": "of read_weights",
    "nemojax.weights.pth.read_old_layout": "of read_weights",
    "nemojax.weights.pth.read_zip_layout": "of read_weights",
    "nemojax.export.files.read_file": "what other readers read by",
    "nemojax.export.packed_manifest.load_manifest": "of load_packed",
    "fewshotjax.detection.data.episode_files.read_json": "of load_detection_episodes",
}
# Readers that are not called load_* or read_*.
OTHERS = {
    *(
        "hwmodel.from_onnx",
        "nemojax.Front.from_json",
        "nemojax.Sensitivity.from_json",
        "nemojax.data.pictures",
    ),
    *("nemojax.data.imagenet", "nemojax.data.cifar10", "fewshotjax.folder", "fewshotjax.pictures"),
    *("fewshotjax.csv_table", "fewshotjax.feature_table", "fewshotjax.cifar10", "fewshotjax.omniglot"),
    *("fewshotjax.tiny_imagenet", "fewshotjax.detection.photos.photos", "fewshotjax.backbone"),
    *("fewshotjax.detector", "nemojax.networks.by_name", "nemojax.run_folder.check_folder"),
}


@pytest.fixture
def findings(tmp_path):
    """Runs cases of a target; what leaves but its documented errors."""

    def run(name, cases):
        lines = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders and of faulty boxes: a warning is no crash
            child.run_target(TARGETS[name], fuzz.SEED, 0, cases, tmp_path, lambda **line: lines.append(line))
        done = next(line for line in lines if line["kind"] == "done")
        assert done["cases"] == cases
        assert done["taken"] >= 1  # the valid file
        return [line for line in lines if line["kind"] != "done"]

    return run


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("name", [name for name in READERS if name not in DEAR])
def test_a_reader_takes_or_refuses(findings, name):
    assert not findings(name, 40)


@pytest.mark.long
@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("name", sorted(DEAR))
def test_a_dear_reader_takes_or_refuses(findings, name):
    assert not findings(name, 40)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("package", ["hwmodel", "egrljax", "nemojax", "fewshotjax"])
def test_constructors_take_or_refuse(findings, package):
    dear = ("DetectionPool", "TrainedPolicy", "Windows", "Pyramid")
    for name in TARGETS:
        if name.startswith(f"make {package}.") and not name.endswith(dear):
            assert not findings(name, 25), name


def public_readers():
    """Dotted names of public functions called load_* or read_*, where they are defined."""
    for package in (hwmodel, egrljax, nemojax, fewshotjax):
        folder = Path(package.__file__).parent
        for file in sorted(folder.rglob("*.py")):
            module = ".".join((package.__name__, *file.relative_to(folder).with_suffix("").parts))
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.FunctionDef) and re.match(r"(load|read)_", node.name):
                    yield f"{module}.{node.name}"


def test_every_reader_is_in_the_table():
    covered = {name for target in TARGETS.values() for name in target.covers}
    functions = {id(found(name)) for name in covered}
    missing = [n for n in public_readers() if n not in NO_READERS and id(found(n)) not in functions]
    assert not missing, f"register these in benchmarks/fuzz_*.py, or say in NO_READERS why not: {missing}"
    assert covered >= OTHERS


def found(name):
    """The object of a dotted name."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for part in parts[i:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(f"there is no {name}")


def test_a_crash_a_hang_and_full_memory_are_seen(tmp_path, monkeypatch):
    """The harness itself, on readers that misbehave."""
    monkeypatch.setattr(child, "SLOW_S", 0.2)

    def crash(path):
        raise KeyError(path.name)

    def hang(path):
        while True:
            pass

    def fill(path):
        raise MemoryError

    def long_winded(path):
        raise ValueError("two\nlines")

    kinds = {}
    for read in (crash, hang, fill, long_winded):
        lines = []

        def draw(rng, number, read=read):
            return fuzz_target.Case(lambda: read(tmp_path / "x"), b"input", ".bin")

        target = fuzz_target.Target(read.__name__, (), lambda folder, draw=draw: draw)
        child.run_target(target, 0, 3, 4, tmp_path, lambda lines=lines, **line: lines.append(line))
        kinds[read.__name__] = [line["kind"] for line in lines]
    assert kinds == {
        "crash": ["crash", "done"],
        "hang": ["hang", "done"],
        "fill": ["memory", "done"],
        "long_winded": ["untidy", "done"],
    }
    assert (tmp_path / "kept" / "crash-3.bin").read_bytes() == b"input"


def test_the_two_checks_of_fields_are_one():
    ours, theirs = (Path(package.__file__).with_name("fields.py") for package in (hwmodel, fewshotjax))
    assert ours.read_bytes() == theirs.read_bytes()
