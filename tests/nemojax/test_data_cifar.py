"""CIFAR-10 from all its forms: pixels and order against plain loops, and every refusal."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemojax import data
from nemojax.data import cifar

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EACH = {"train": 3, "test": 2}


def pixels(part: str, label: int, i: int) -> np.ndarray:
    return np.random.default_rng([part == "train", label, i]).integers(0, 256, (32, 32, 3), np.uint8)


def folders(root: Path) -> Path:
    for part, each in EACH.items():
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(pixels(part, label, i)).save(root / part / name / f"{i:04}.png")
    return root


def binary(root: Path) -> Path:
    """The published form: five files of train, one of test, the classes mixed."""
    root.mkdir(parents=True)
    for part, files in cifar.BINARY_FILES.items():
        order = np.random.default_rng(7).permutation(
            [(label, i) for label in range(10) for i in range(EACH[part])]
        )
        for file, rows in zip(files, np.array_split(order, len(files)), strict=True):
            records = [
                bytes([label]) + pixels(part, label, i).transpose(2, 0, 1).tobytes() for label, i in rows
            ]
            (root / file).write_bytes(b"".join(records))
    (root / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    return root


def zipped(folder: Path) -> Path:
    out = folder.with_name("packed.zip")
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return out


def tarred(folder: Path, outer: str = ".") -> Path:
    out = folder.with_name("packed.tar.xz")
    with tarfile.open(out, "w:xz") as archive:
        archive.add(folder, outer)
    return out


FORMS = {
    "folder": lambda root: root,
    "zip": zipped,
    "tar": tarred,
    "tar in a folder": lambda root: tarred(root, "cifar10"),
}


@pytest.mark.parametrize("form", FORMS)
def test_pictures(tmp_path, form):
    found = data.cifar10(FORMS[form](folders(tmp_path / "set")))
    for (part, each), arrays in zip(EACH.items(), found, strict=True):
        assert isinstance(arrays, data.LabelledArrays)
        assert arrays.classes == CLASSES
        assert (arrays.images.dtype, arrays.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(arrays.labels, np.repeat(np.arange(10), each))
        want = [pixels(part, label, i) for label in range(10) for i in range(each)]
        np.testing.assert_array_equal(arrays.images, want)


@pytest.mark.parametrize("form", FORMS)
def test_the_binary_version(tmp_path, form):
    train, test = data.cifar10(FORMS[form](binary(tmp_path / "cifar-10-batches-bin")))
    for part, arrays in (("train", train), ("test", test)):
        order = np.random.default_rng(7).permutation(
            [(label, i) for label in range(10) for i in range(EACH[part])]
        )
        np.testing.assert_array_equal(arrays.labels, order[:, 0])
        np.testing.assert_array_equal(arrays.images, [pixels(part, label, i) for label, i in order.tolist()])
        assert arrays.images.flags.c_contiguous
        assert (arrays.images.dtype, arrays.labels.dtype) == (np.uint8, np.int32)
        assert arrays.classes == CLASSES


def test_threads_change_nothing(tmp_path):
    root = folders(tmp_path / "set")
    one, four = data.cifar10(root), data.cifar10(root, threads=4)
    np.testing.assert_array_equal(one[0].images, four[0].images)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        data.cifar10(root, threads=0)


def refused(place: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        data.cifar10(place)
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_pickled_version_is_refused(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    (root / "data_batch_1").write_bytes(pickle.dumps({b"labels": [1]}))
    refused(tmp_path, "is the pickled Python version, .* give cifar-10-batches-bin")
    refused(tarred(root), "is the pickled Python version")


def test_damaged_binaries(tmp_path):
    root = binary(tmp_path / "set")
    good = {path.name: path.read_bytes() for path in root.iterdir()}

    def wrong(name: str, content: bytes | None, message: str) -> None:
        if content is None:
            (root / name).unlink()
        else:
            (root / name).write_bytes(content)
        refused(root, message)
        (root / name).write_bytes(good[name])

    wrong("data_batch_3.bin", None, "lacks data_batch_3.bin of the binary version")
    wrong("test_batch.bin", None, "lacks test_batch.bin")
    wrong("batches.meta.txt", None, "lacks batches.meta.txt")
    wrong("batches.meta.txt", b"cat\ndog\n", "batches.meta.txt: names 2 classes, not 10")
    wrong(
        "data_batch_2.bin",
        good["data_batch_2.bin"][:-1],
        "data_batch_2.bin: has 18437 bytes, no multiple of 3073",
    )
    wrong("data_batch_2.bin", b"", "data_batch_2.bin: has 0 bytes")
    wrong(
        "data_batch_2.bin",
        b"\x0a" + good["data_batch_2.bin"][1:],
        "data_batch_2.bin: holds the label 10, above 9",
    )


def test_pictures_that_are_not_cifar(tmp_path):
    root = folders(tmp_path / "set")
    one = root / "train" / "cat" / "0001.png"
    good = one.read_bytes()
    for content, message in (
        (b"", "cat/0001.png: is not a picture"),
        (good[:-300], "cat/0001.png: "),
    ):
        one.write_bytes(content)
        refused(root, message)
    Image.new("RGB", (32, 30)).save(one)
    refused(root, r"cat/0001.png: is 32x30, the first 32x32: bring them to one size")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(one)  # grey becomes RGB
    assert data.cifar10(root)[0].images[3 * 3 + 1].max() == 0
    loose = root / "train" / "loose.png"
    loose.write_bytes(good)
    refused(root, "train/loose.png: lies in no class folder")
    loose.unlink()
    (root / "train" / "cat").rename(root / "train" / "kitten")
    refused(root, r"train and test have other classes \('cat' is in one\)")
    (root / "train" / "kitten").rename(root / "kitten")
    refused(root, "train/ has 9 class folders, not 10")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no pictures in train/")


def test_all_of_another_size(tmp_path):
    for part in EACH:
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (28, 28)).save(tmp_path / part / name / "0.png")
    refused(tmp_path, "is 28x28, not 32x32")


@pytest.mark.slow
def test_the_development_data(data_dir):
    train, test = data.cifar10(data_dir / "cifar10.tar.xz")
    assert train.images.shape == (50_000, 32, 32, 3)
    assert test.images.shape == (10_000, 32, 32, 3)
    assert train.classes == test.classes == CLASSES
    for arrays, each in ((train, 5000), (test, 1000)):
        np.testing.assert_array_equal(arrays.labels, np.repeat(np.arange(10), each))
    with tarfile.open(data_dir / "cifar10.tar.xz") as archive:
        for member in archive:  # the first files of the archive are those of the first class of train
            if member.isreg():
                index = int(member.name.split("/")[-1].split(".")[0])
                picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
                np.testing.assert_array_equal(train.images[index], picture.convert("RGB"))
                if index == 20:
                    break
