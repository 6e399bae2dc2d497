"""The published sets: small imitations for every rule, and the counts of the real files."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshotjax.data import cifar10, duplicates, omniglot, tiny_imagenet, tiny_imagenet_boxes

CLASSES = 'split,wnid,name\nbase,n02,"crane, bird"\nbase,n01,crane\nval_novel,n03,c\ntest_novel,n04,d\n'


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def zipped(path: Path, entries: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def photo(seed: int, side: int = 64) -> bytes:
    return encoded(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8), "JPEG")


def with_boxes(entries: dict[str, bytes], boxes: str = "") -> dict[str, bytes]:
    rows = [f"{name},{name.split('/')[0]},{i},10,{i + 3},10" for i, name in enumerate(entries)]
    text = "\n".join(["file,wnid,xmin,ymin,xmax,ymax", *rows]) + "\n"
    return {**entries, "boxes.csv": (boxes or text).encode()}


BASE = {"n01/b.JPEG": photo(0), "n02/a.JPEG": photo(1), "n01/a.JPEG": photo(2), "n01/c.JPEG": photo(3)}


@pytest.fixture
def small(tmp_path) -> Path:
    top = tmp_path / "tiny_imagenet"
    grey = encoded(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64), "JPEG")
    zipped(top / "base_train.zip", with_boxes(BASE))
    zipped(top / "novel_val.zip", with_boxes({"n03/1.JPEG": photo(3), "n03/2.JPEG": photo(5)}))
    zipped(top / "novel_test.zip", with_boxes({"n04/1.JPEG": grey}))
    (top / "classes.csv").write_text(CLASSES)
    return tmp_path


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_tiny_imagenet_by_class_and_file_without_what_is_novel(small, monkeypatch):
    found = tiny_imagenet(small, "base_train")
    assert found.classes == ("n02 crane, bird", "n01 crane")  # as in classes.csv
    assert found.files == ("n02/a.JPEG", "n01/a.JPEG", "n01/b.JPEG")  # n01/c.JPEG is n03/1.JPEG
    assert found.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(found.images, [decoded(BASE[name]) for name in found.files])
    monkeypatch.setenv("FRUGALJAX_DATA", str(small))
    one = tiny_imagenet(None, "base_train", classes=["n01"], pixels=32)
    assert (one.classes, one.files) == (("n01 crane",), ("n01/a.JPEG", "n01/b.JPEG"))
    assert one.images.shape == (2, 32, 32, 3)
    assert tiny_imagenet(small, "base_train", classes="n02 crane, bird").files == ("n02/a.JPEG",)
    (grey,) = tiny_imagenet(small, "novel_test").images
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    assert len(tiny_imagenet(small, "novel_val")) == 2


def test_boxes_stand_in_the_order_of_the_images(small):
    found = tiny_imagenet_boxes(small, "base_train")
    rows = [list(BASE).index(name) for name in tiny_imagenet(small, "base_train").files]
    np.testing.assert_array_equal(found, [[i, 10, i + 4, 11] for i in rows])  # past the last pixel
    assert found.dtype == np.float32
    half = tiny_imagenet_boxes(small, "base_train", pixels=32, classes=("n01",))
    np.testing.assert_array_equal(half, found[1:] / 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("n03/1.JPEG,n03,0,0,1,1\n", "boxes.csv: has no box for 'n03/2.JPEG'"),
        ("n03/1.JPEG,n03,0,0,1,1\nn03/1.JPEG,n03,0,0,2,2\n", "line 3: 'n03/1.JPEG' has a box already"),
        ("n03/1.JPEG,n04,0,0,1,1\n", "line 2: 'n03/1.JPEG' is not of class 'n04'"),
        ("n03/1.JPEG,n03,0,0,64,1\n", "line 2: 0,0,64,1 is no box in 0-63"),
        ("n03/1.JPEG,n03,5,0,4,1\n", "is no box"),
        ("n03/1.JPEG,n03,-5,0,4,1\n", "line 2: -5,0,4,1 are not whole pixels"),
        ("n03/1.JPEG,n03,0.5,0,4\n", "are not whole pixels"),
    ],
)
def test_boxes_that_are_refused(small, rows, message):
    entries = {"n03/1.JPEG": photo(3), "n03/2.JPEG": photo(5)}
    zipped(
        small / "tiny_imagenet/novel_val.zip", with_boxes(entries, "file,wnid,xmin,ymin,xmax,ymax\n" + rows)
    )
    with pytest.raises(ValueError, match=message):
        tiny_imagenet_boxes(small, "novel_val")


def test_tiny_imagenet_says_what_is_missing(small, monkeypatch):
    top = small / "tiny_imagenet"
    with pytest.raises(ValueError, match=r"part must be one of base_train, base_test.* got 'val_novel'"):
        tiny_imagenet(small, "val_novel")
    with pytest.raises(ValueError, match=r"tiny_imagenet/base_test.zip: there is no such file"):
        tiny_imagenet(small, "base_test")
    with pytest.raises(ValueError, match="'n05', which is none of the 1"):
        tiny_imagenet(small, "novel_val", classes=["n05"])
    monkeypatch.delenv("FRUGALJAX_DATA", raising=False)
    with pytest.raises(ValueError, match=r"FRUGALJAX_DATA is not set: .*tiny_imagenet/novel_val.zip"):
        tiny_imagenet(None, "novel_val")
    zipped(top / "novel_val.zip", {"n04/1.JPEG": photo(0)})
    with pytest.raises(ValueError, match="n04 is no val_novel class"):
        tiny_imagenet(small, "novel_val")
    zipped(top / "novel_val.zip", {"n03/1.JPEG": photo(0, 32)})
    with pytest.raises(ValueError, match=r"n03/1.JPEG: is 32x32, not 64x64"):
        tiny_imagenet(small, "novel_val", pixels=32)
    with pytest.raises(ValueError, match=r"boxes.csv: there is no such file"):
        tiny_imagenet_boxes(small, "novel_val")
    zipped(top / "novel_val.zip", {"boxes.csv": b""})
    with pytest.raises(ValueError, match="has no images of 'n03 c'"):
        tiny_imagenet(small, "novel_val")
    (top / "novel_test.zip").unlink()
    with pytest.raises(ValueError, match=r"novel_test.zip: there is no such file"):
        tiny_imagenet(small, "base_train")  # which must not hold what is in there
    for text, message in (("split,wnid\n", "must name split,wnid,name"), ("split,wnid,name\n", "no classes")):
        (top / "classes.csv").write_text(text)
        with pytest.raises(ValueError, match=rf"classes.csv: .*{message}"):
            tiny_imagenet(small, "novel_val")


def drawing(seed: int) -> bytes:
    """One bit, dark on white as in the published files."""
    ink = np.zeros((105, 105), bool)
    ink[20 + seed : 24 + seed, 10:50] = True
    return encoded(~ink)


ALPHABETS = {
    1: ("Balinese", "Greek", "Latin", "Korean"),
    2: ("Greek", "Japanese_(katakana)", "Latin", "Sanskrit"),
}


@pytest.fixture
def characters(tmp_path) -> Path:
    for number, alphabets in ALPHABETS.items():
        top = f"images_background_small{number}"
        names = [f"{top}/{a}/character0{c}/{c}_0{d}.png" for a in alphabets for c in (2, 1) for d in (1, 2)]
        seeds = {name: 4 * sum(map(ord, name.split("/")[1])) + int(name[-5]) for name in names}
        zipped(tmp_path / "omniglot" / f"{top}.zip", {n: drawing(seed % 50) for n, seed in seeds.items()})
    return tmp_path


def test_omniglot_merges_inverts_and_sorts(characters):
    found = omniglot(characters, "base")
    alphabets = ("Balinese", "Greek", "Japanese_(katakana)", "Latin", "Sanskrit")
    assert found.classes == tuple(f"{a}/character0{c}" for a in alphabets for c in (1, 2))
    assert found.counts().tolist() == [2] * 10  # Greek and Latin once
    assert found.images.shape == (20, 28, 28, 1)
    whole = omniglot(characters, "base", 105, classes=["Latin/character02"])
    assert whole.files[0].endswith("Latin/character02/2_01.png")
    ink = np.asarray(Image.open(io.BytesIO(drawing((4 * sum(map(ord, "Latin")) + 1) % 50)))) == 0
    np.testing.assert_array_equal(whole.images[0, ..., 0], ink * np.uint8(255))  # bright strokes
    assert found.images.astype(float).mean() < 40


def test_omniglot_rotations_are_classes(characters):
    plain, turned = omniglot(characters, "base"), omniglot(characters, "base", rotations=True)
    assert len(turned) == 80
    assert turned.classes[:10] == plain.classes
    assert turned.classes[10] == "Balinese/character01/rot90"
    assert len(set(turned.files)) == 80
    for turn in range(4):
        for row in (0, 7, 19):
            found = turned.images[20 * turn + row]
            np.testing.assert_array_equal(found, np.rot90(plain.images[row], turn))
            assert turned.labels[20 * turn + row] == plain.labels[row] + 10 * turn


def test_omniglot_refuses(characters):
    with pytest.raises(ValueError, match="part must be one of base, val, test, got 'train'"):
        omniglot(characters, "train")
    with pytest.raises(ValueError, match="set part='base', got 'test'"):
        omniglot(characters, "test", rotations=True)
    with pytest.raises(ValueError, match="have no pictures of Tagalog"):
        omniglot(characters, "test")
    top = "images_background_small2"
    zipped(characters / "omniglot" / f"{top}.zip", {f"{top}/Greek/character01/1_01.png": drawing(0)})
    with pytest.raises(ValueError, match=r"Greek/character01/1_01.png: differs from .*small1.zip"):
        omniglot(characters, "base")
    (characters / "omniglot" / f"{top}.zip").unlink()
    with pytest.raises(ValueError, match=r"images_background_small2.zip: there is no such file"):
        omniglot(characters, "val")


def test_cifar10_by_class_and_file(tmp_path):
    names = ["train/dog/1.jpg", "train/cat/2.jpg", "train/cat/1.jpg", "test/cat/1.jpg"]
    with tarfile.open(tmp_path / "cifar10.tar.xz", "w:xz") as archive:
        for seed, name in enumerate(names):
            info, data = tarfile.TarInfo(name), photo(seed, 32)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = cifar10(tmp_path, "train")
    assert (found.classes, found.labels.tolist()) == (("cat", "dog"), [0, 0, 1])
    np.testing.assert_array_equal(found.images, [decoded(photo(seed, 32)) for seed in (2, 1, 0)])
    assert cifar10(tmp_path, "test").files == ("test/cat/1.jpg",)
    assert cifar10(tmp_path, "train", classes=["dog"]).files == ("train/dog/1.jpg",)
    with pytest.raises(ValueError, match="part must be one of train, test, got 'val'"):
        cifar10(tmp_path, "val")
    with pytest.raises(ValueError, match=r"cifar10.tar.xz: there is no such file"):
        cifar10(tmp_path / "none", "train")


def test_real_boxes_and_the_four_copies(data_dir):
    """The counts were taken from the files by another program (repmet.md, D1)."""
    counts = {"base_train": (29_996, 109), "novel_val": (3_600, 7)}
    for part, (images, thin) in counts.items():
        boxes = tiny_imagenet_boxes(data_dir, part)
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (len(boxes), int((sides.min(1) == 1).sum())) == (images, thin)
        assert (boxes >= 0).all()
        assert (boxes <= 64).all()


def test_a_few_real_classes(data_dir):
    found = tiny_imagenet(data_dir, "novel_val", classes=["n02099601", "n01774384"])
    assert found.classes[0] == "n02099601 golden retriever"
    assert (found.images.shape, found.counts().tolist()) == ((240, 64, 64, 3), [120, 120])
    assert 60 < found.images.mean() < 190
    strokes = omniglot(data_dir, "val")
    assert (strokes.images.shape, set(strokes.counts().tolist())) == ((440, 28, 28, 1), {20})
    assert strokes.images.mean() < 40


@pytest.mark.long
def test_every_real_part_of_tiny_imagenet(data_dir):
    parts = {
        part: tiny_imagenet(data_dir, part, pixels=64) for part in ("base_test", "novel_val", "novel_test")
    }
    assert {part: len(found) for part, found in parts.items()} == {
        "base_test": 5_000,
        "novel_val": 3_600,
        "novel_test": 6_000,
    }
    base = tiny_imagenet(data_dir, "base_train")
    assert len(base) == 29_996
    assert set(base.counts().tolist()) <= {296, 297, 298, 299, 300}
    for found in parts.values():
        assert not len(duplicates(base, found))
    with zipfile.ZipFile(data_dir / "tiny_imagenet/novel_test.zip") as archive:
        modes = [Image.open(io.BytesIO(archive.read(name))).mode for name in parts["novel_test"].files]
    grey = parts["novel_test"].images[np.array(modes) == "L"]
    assert len(grey) == 97
    assert (grey == grey[..., :1]).all()


@pytest.mark.long
def test_every_real_part_of_omniglot_and_cifar10(data_dir):
    for part, count in {"base": 163, "test": 57}.items():
        assert omniglot(data_dir, part).counts().tolist() == [20] * count
    found = cifar10(data_dir, "train")
    assert found.counts().tolist() == [5_000] * 10
    assert {"cat", "dog", "truck"} < set(found.classes)
