"""The networks that the benchmarks train, the reader of their images, and the table of all configurations."""

import importlib
import io
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import nemojax as nemo


@pytest.fixture(scope="module")
def benchmark():
    """Imports a module of the repository's benchmarks, which are in no package that is installed."""
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "small_networks.py").is_file():
        pytest.skip("the benchmarks are not here: this is not the repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(root), *sys.path])
        yield lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture(scope="module")
def digits(benchmark, tmp_path_factory):
    """The trained digits network and the folder that it was kept in."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRUGALJAX_CACHE", str(folder))
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
            yield benchmark("small_networks").digits_network(jax.random.key(3)), folder


@pytest.fixture(scope="module")
def task(digits):
    trained, _ = digits
    network = nemo.quantize(trained.network, trained.train.images[:60])
    space = nemo.search_space(network, bits=(2, 4, 8))
    return nemo.fidelity(network, trained.search.images[:40], space=space)


def test_the_digits_network_has_three_weights_and_three_activations(task):
    assert [point.is_weight for point in task.network.workload.points].count(True) == 3
    assert len(task.space.names) == 6
    assert task.space.names[0] == "input"


def test_the_digits_network_learns(digits):
    trained, _ = digits
    logits = trained.network.apply(trained.network.params, trained.report.images)
    right = float(np.mean(np.argmax(logits, axis=1) == trained.report.labels))
    assert right > 0.9
    assert trained.accuracy == pytest.approx(right, abs=1e-4)


def test_the_digits_are_in_one_part_each(digits):
    from sklearn.datasets import load_digits

    trained, _ = digits
    parts = (trained.train, trained.search, trained.report)
    images = np.concatenate([part.images.reshape(len(part.labels), -1) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    found, all_of_them = np.column_stack([images * 16, labels]), load_digits(return_X_y=True)
    whole = np.column_stack(all_of_them)
    np.testing.assert_array_equal(found[np.lexsort(found.T)], whole[np.lexsort(whole.T)])
    first = np.bincount(trained.search.labels[:100], minlength=10)
    assert first.min() >= 9  # any first part holds each class alike


def test_a_trained_network_is_read_from_the_cache(benchmark, digits, monkeypatch):
    trained, folder = digits
    module = benchmark("small_networks")
    monkeypatch.setenv("FRUGALJAX_CACHE", str(folder))
    monkeypatch.setattr(module, "train", None)  # would fail
    again = module.digits_network(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, again.network.params, trained.network.params)
    with pytest.raises(TypeError):
        module.digits_network(jax.random.key(4))  # another key is another network


def test_training_again_gives_the_same_weights(benchmark, digits):
    module = benchmark("small_networks")
    short = module.Training(epochs=2, batch=100, rate=1e-2, decay=1e-2)
    part = digits[0].train
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes float and int32
        first, second = (module.train(jax.random.key(0), module.DigitsNet(), part, short) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_table_is_the_tasks_costs_one_by_one(benchmark, task):
    table = benchmark("oracle").Table(task, block=100)  # 729 configurations: the last block is not full
    assert len(np.unique(table.bits, axis=0)) == len(table.bits) == len(table.costs) == 3**6
    some = np.random.default_rng(0).choice(len(table.bits), 20, replace=False)
    np.testing.assert_array_equal(table.index(table.bits[some]), some)
    one = jax.jit(nemo.Task.cost)
    for row in some:
        np.testing.assert_allclose(table.costs[row], one(task, table.bits[row]), rtol=1e-4, atol=1e-6)


def test_the_front_of_the_table_is_that_of_brute_force(benchmark, task):
    table = benchmark("oracle").Table(task, block=729)
    better = (table.costs[:, None] <= table.costs[None]).all(-1) & (
        table.costs[:, None] < table.costs[None]
    ).any(-1)
    np.testing.assert_array_equal(table.on_front, ~better.any(axis=0))
    seen = table.on_front.copy()
    assert table.figures(seen) == pytest.approx({"front_share": 1, "hv_ratio": 1, "evaluations": seen.sum()})
    seen[np.flatnonzero(seen)[::2]] = False
    assert table.figures(seen)["front_share"] == pytest.approx(seen.sum() / table.on_front.sum())
    assert 0 < table.figures(seen)["hv_ratio"] < 1


def test_a_lookup_counts_configurations_once_and_stops(benchmark, task, monkeypatch):
    oracle = benchmark("oracle")
    monkeypatch.setattr(oracle, "BUDGET", 5)
    table = oracle.Table(task, block=729)
    lookup = oracle.Lookup(table)
    rows = table.bits[[7, 3, 7]]
    np.testing.assert_array_equal(lookup(rows), table.costs[[7, 3, 7]])
    assert np.flatnonzero(lookup.seen).tolist() == [3, 7]
    lookup(rows)
    assert (lookup.stale, int(lookup.seen.sum()), lookup.finished) == (1, 2, False)
    lookup(table.bits[[100, 7, 90, 80, 70]])  # one too many: the last is not seen
    assert np.flatnonzero(lookup.seen).tolist() == [3, 7, 80, 90, 100]
    assert lookup.finished


@pytest.mark.long
def test_cifar_images_and_classes(benchmark, data_dir):
    images, labels = benchmark("small_networks").read_cifar10(data_dir, "test", range(10, 40))
    assert (images.shape, images.dtype) == ((300, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 30))
    assert labels[:10].tolist() == list(range(10))
    assert len(np.unique(images.reshape(300, -1), axis=0)) == 300
    colours = images[labels == 8].mean(axis=(0, 1, 2))  # ships: sky and sea
    assert colours[2] > colours[0]


def test_cifar_images_come_by_number_then_class(benchmark, tmp_path):
    """On an archive written here in another order, of one colour an image; JPEG keeps grey exactly."""
    module = benchmark("small_networks")
    grey = {}
    with tarfile.open(tmp_path / module.CIFAR_ARCHIVE, "w:xz") as archive:
        for split, shift in (("test", 0), ("train", 100)):
            for number in (2, 0, 1):
                for place in np.random.default_rng(number).permutation(10):
                    grey[split, number, int(place)] = shift + 10 * number + int(place)
                    file = io.BytesIO()
                    Image.new("L", (32, 32), grey[split, number, int(place)]).save(file, "JPEG")
                    member = tarfile.TarInfo(f"{split}/{'abcdefghij'[place]}/{number:04}.jpg")
                    member.size = file.tell()
                    archive.addfile(member, io.BytesIO(file.getvalue()))
    images, labels = module.read_cifar10(tmp_path, "train", range(1, 3))
    assert labels.tolist() == [*range(10), *range(10)]
    expected = [grey["train", number, place] for number in (1, 2) for place in range(10)]
    np.testing.assert_array_equal(images.min(axis=(1, 2, 3)), expected)
    np.testing.assert_array_equal(images.max(axis=(1, 2, 3)), expected)
    with pytest.raises(ValueError, match="holds 10 of the 20 images of 'test'"):
        module.read_cifar10(tmp_path, "test", range(2, 4))
    with pytest.raises(ValueError, match="is not there"):
        module.read_cifar10(tmp_path / "elsewhere", "test", range(2))
