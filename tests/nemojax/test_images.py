"""Pictures on disk to arrays: preprocessing against NumPy, both layouts in folder and zip, every refusal."""

import os
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from nemojax import sources
from nemojax.images import ImageSet, load_images, load_labelled, split
from nemojax.preprocess import Preprocess, decode

SMALL = Preprocess(resolution=16)


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None] / 9.0
    waves = 127 + 90 * np.sin(x * rng.uniform(0.5, 2, 3) + y * rng.uniform(0.5, 2, 3) + rng.uniform(0, 6, 3))
    return Image.fromarray((waves + rng.uniform(-30, 30, waves.shape)).clip(0, 255).astype(np.uint8))


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


def zipped(folder: Path, prefix: str = "") -> Path:
    """The folder as a zip archive beside it."""
    out = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, prefix + path.relative_to(folder).as_posix())
    return out


def class_folders(root: Path, classes=("bee", "ant", "cat"), each=4) -> Path:
    for c, name in enumerate(classes):
        for i in range(each):
            save(root / name / f"{i}.png", 10 * c + i)
    return root


def table(root: Path, text: str) -> Path:
    for i in range(4):
        save(root / f"{i}.png", i)
    (root / "labels.csv").write_text(text)
    return root


def cubic_weights(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs): Keys's kernel with a = -1/2, widened by the reduction factor, rows summing to 1."""
    scale = inputs / outputs
    centre = (np.arange(outputs)[:, None] + 0.5) * scale - 0.5
    t = np.abs(np.arange(inputs)[None] - centre) / max(scale, 1)
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    w = np.where(t < 1, near, np.where(t < 2, far, 0))
    return w / w.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("width", "height", "resolution"), [(90, 61, 32), (61, 90, 28), (40, 40, 64), (57, 200, 20)]
)
def test_preprocessing_equals_numpy(width, height, resolution):
    photo = picture(0, width, height)
    short = round(resolution * 256 / 224)
    rows, columns = (round(n * short / min(width, height)) for n in (height, width))
    x = np.asarray(photo, np.float64)
    x = np.einsum("rh,hwc->rwc", cubic_weights(height, rows), x)
    x = np.einsum("cw,rwk->rck", cubic_weights(width, columns), x).clip(0, 255)
    top, left = (rows - resolution) // 2, (columns - resolution) // 2
    want = (x[top : top + resolution, left : left + resolution] - 127) / 128
    found = Preprocess(resolution=resolution)(photo)
    assert found.shape == (resolution, resolution, 3)
    assert found.dtype == np.float32
    # Pillow rounds to whole levels after each of the two passes
    assert np.abs(found - want).max() <= 1.5 / 128
    assert np.abs(found - want).mean() <= 0.4 / 128


def test_whole_levels_are_kept_where_nothing_is_resized():
    photo = picture(1, 256, 300)
    want = (np.asarray(photo, np.float32)[38:262, 16:240] - 127) / 128
    np.testing.assert_array_equal(Preprocess()(photo), want)
    half = Preprocess(mean=0.0, scale=255.0)(photo)
    np.testing.assert_allclose(half, (want * 128 + 127) / 255, atol=1e-6)


def encoded(image: Image.Image, tmp_path: Path, suffix=".png", **options) -> bytes:
    path = tmp_path / f"one{suffix}"
    image.save(path, **options)
    return path.read_bytes()


def test_decoding_every_mode(tmp_path):
    photo = picture(2)
    pixels = np.asarray(photo)
    np.testing.assert_array_equal(decode(encoded(photo, tmp_path)), pixels)
    grey = np.asarray(decode(encoded(photo.convert("L"), tmp_path)))
    np.testing.assert_array_equal(grey, np.asarray(photo.convert("L"))[..., None].repeat(3, -1))
    palette = photo.quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette, tmp_path)), np.asarray(palette.convert("RGB")))
    assert decode(encoded(photo.convert("CMYK"), tmp_path, ".jpg")).mode == "RGB"
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:10] = 0
    clear = photo.copy()
    clear.putalpha(Image.fromarray(alpha))
    found = np.asarray(decode(encoded(clear, tmp_path)))
    np.testing.assert_array_equal(found[10:], pixels[10:])
    np.testing.assert_array_equal(found[:10], 255)  # transparent is white
    decode(encoded(palette, tmp_path, transparency=bytes(16)))  # without a warning


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (6, lambda x: np.rot90(x, -1)),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_exif_orientation(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(picture(3), tmp_path, exif=exif))
    np.testing.assert_array_equal(found, turn(np.asarray(picture(3))))


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("prefix", ["", "set/"])
def test_table_layout(tmp_path, as_zip, prefix):
    root = table(tmp_path / "set", "file,label,wnid\n3.png,7,n03\n0.png,2,n00\n1.png,7,n03\n")
    place = zipped(root, prefix) if as_zip else root
    found = load_labelled(place, SMALL, threads=2)
    inside = prefix if as_zip else ""
    assert found.names == (f"{inside}3.png", f"{inside}0.png", f"{inside}1.png")
    np.testing.assert_array_equal(found.labels, [7, 2, 7])
    assert found.labels.dtype == np.int32
    for image, seed in zip(found.images, (3, 0, 1), strict=True):
        np.testing.assert_array_equal(image, SMALL(picture(seed)))


@pytest.mark.parametrize("as_zip", [False, True])
def test_class_folder_layout(tmp_path, as_zip):
    root = class_folders(tmp_path / "set")
    (root / "README.txt").write_text("not a picture, but not in a class")
    (root / ".hidden").mkdir()
    (root / "ant" / ".DS_Store").write_bytes(b"x")
    found = load_labelled(zipped(root) if as_zip else root, SMALL)
    assert found.names == tuple(f"{c}/{i}.png" for c in ("ant", "bee", "cat") for i in range(4))
    np.testing.assert_array_equal(found.labels, np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(found.images[4], SMALL(picture(0)))  # "bee" was drawn first
    some = load_labelled(root, SMALL, count=3)
    assert some.names == ("ant/0.png", "bee/0.png", "cat/0.png")


def test_linked_class_folders(tmp_path):
    real = class_folders(tmp_path / "real")
    (tmp_path / "set").mkdir()
    for name in ("ant", "cat"):
        os.symlink(real / name, tmp_path / "set" / name)
    os.symlink(tmp_path / "set", real / "cat" / "loop")
    found = load_labelled(tmp_path / "set", SMALL)
    np.testing.assert_array_equal(found.labels, np.repeat([0, 1], 4))


def test_a_pipe_among_pictures_is_refused_and_not_waited_for(tmp_path):
    save(tmp_path / "b" / "1.png", 0)
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png: cannot be read \(it is no plain file"):
        load_labelled(tmp_path)


@pytest.mark.parametrize("as_zip", [False, True])
def test_unlabelled(tmp_path, as_zip):
    root = class_folders(tmp_path / "set", classes=("b", "a"), each=2)
    save(root / "top.JPG", 5)
    (root / "labels.csv").write_text("ignored here")
    found = load_images(zipped(root) if as_zip else root, SMALL, threads=1)
    assert found.labels is None
    assert found.names == ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "top.JPG")
    assert load_images(root, SMALL, count=2).names == ("a/0.png", "b/0.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not name the columns file and label"),
        ("name,label\n0.png,1\n", "does not name the columns file and label"),
        ("file,label\n0.png,-1\n", "line 2: label '-1' is not a class index"),
        ("file,label\n0.png,1.5\n", "line 2: label '1.5' is not a class index"),
        ("file,label\n0.png\n", "line 2: label '' is not a class index"),
        ("file,label\n0.png,1\n1.png,²\n", "line 3: label '²' is not a class index"),
        ("file,label\n0.png,99999999999\n", "is not a class index"),
        ("file,label\n0.png,1\n9.png,1\n", "line 3: there is no file '9.png'"),
        ("file,label\n,1\n", "line 2: there is no file ''"),
        ("file,label\n../set/0.png,1\n", r"line 2: '../set/0.png' leaves the folder"),
        ("file,label\n..\\0.png,1\n", "leaves the folder"),
        ("file,label\n/etc/passwd,1\n", "leaves the folder"),
        ("file,label\n0.png,1\n0.png,2\n", "line 3: '0.png' is listed twice"),
        ("file,label\n./0.png,1\n0.png,2\n", "listed twice"),
        ('file,label\n"0.png,1\n', "is not a UTF-8 table"),
        ("file,label\n", "holds no pictures"),
    ],
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_a_wrong_table_is_named(tmp_path, text, message, as_zip):
    root = table(tmp_path / "set", text)
    with pytest.raises(ValueError, match="set") as error:
        load_labelled(zipped(root) if as_zip else root, SMALL)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_text(tmp_path):
    root = table(tmp_path / "set", "")
    (root / "labels.csv").write_bytes(b"file,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="is not a UTF-8 table"):
        load_labelled(root, SMALL)


def test_places_without_labelled_pictures(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    class_folders(tmp_path / "one", classes=("ant",))
    class_folders(tmp_path / "nested" / "train")
    class_folders(tmp_path / "nested" / "val")
    save(class_folders(tmp_path / "loose") / "stray.png", 0)
    (class_folders(tmp_path / "hollow") / "dog").mkdir()
    (class_folders(tmp_path / "mixed") / "ant" / "notes.txt").write_text("x")
    for place, message in {
        "absent": "no such folder or zip file",
        "notes.txt": "is neither folder nor zip file",
        "empty": "has 0 class folders: give a folder with one subfolder per class",
        "one": "has 1 class folders",
        "nested": "has several subfolders of its own",
        "loose": r"'stray.png' has no label",
        "hollow": "dog: holds no pictures",
        "mixed": r"notes.txt: is not a picture by its name",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_labelled(tmp_path / place, SMALL)
    with pytest.raises(ValueError, match="holds no pictures"):
        load_images(tmp_path / "empty", SMALL)
    with pytest.raises(ValueError, match=r"has 3 class folders, but the network has 2 classes"):
        load_labelled(class_folders(tmp_path / "three"), SMALL, classes=2)
    for count in (0, 13):
        with pytest.raises(ValueError, match=f"holds 12 pictures, got count={count}: take 1-12"):
            load_labelled(tmp_path / "three", SMALL, count=count)


@pytest.mark.parametrize("as_zip", [False, True])
def test_bad_files_are_named(tmp_path, as_zip, monkeypatch):
    root = class_folders(tmp_path / "set")
    good = (root / "bee" / "1.png").read_bytes()

    def refused(content: bytes, message: str) -> None:
        (root / "bee" / "1.png").write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            load_labelled(zipped(root) if as_zip else root, SMALL)
        assert "bee/1.png: " in str(error.value)
        assert "\n" not in str(error.value)

    refused(b"", "is not a picture")
    refused(b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not a picture")
    refused(good[:-200], "cannot be decoded|is not a picture")
    refused(good[:60] + bytes(200) + good[260:], "cannot be decoded|is not a picture")
    Image.new("RGB", (300_000, 1)).save(root / "bee" / "1.png")
    refused((root / "bee" / "1.png").read_bytes(), "is 300000x1, too long and thin")
    Image.new("1", (10_000, 8_100)).save(root / "bee" / "1.png")
    refused((root / "bee" / "1.png").read_bytes(), "81000000 pixels or more, over the limit of 80000000")
    Image.new("1", (10_000, 9_500)).save(root / "bee" / "1.png")  # Pillow itself warns from here on
    refused((root / "bee" / "1.png").read_bytes(), "over the limit of 80000000")
    Image.new("1", (15_000, 14_000)).save(root / "bee" / "1.png")  # and refuses from here on
    refused((root / "bee" / "1.png").read_bytes(), "over the limit of 80000000")
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 20_000)
    refused(good + bytes(30_000), "is over 0 MiB: make it smaller")


def test_a_damaged_zip_member_is_named(tmp_path):
    place = zipped(class_folders(tmp_path / "set"))
    data = bytearray(place.read_bytes())
    at = data.find(b"cat/2.png") + 100
    data[at : at + 50] = bytes(50)
    place.write_bytes(data)
    with pytest.raises(ValueError, match=r"cat/2\.png: cannot be read"):
        load_labelled(place, SMALL)


def labelled(counts: dict[int, int]) -> ImageSet:
    labels = np.repeat(list(counts), list(counts.values())).astype(np.int32)
    images = np.broadcast_to(
        np.arange(len(labels), dtype=np.float32)[:, None, None, None], (len(labels), 1, 1, 3)
    )
    return ImageSet(images, labels, tuple(map(str, range(len(labels)))))


@pytest.mark.parametrize("seed", range(5))
def test_split_is_disjoint_and_stratified(seed):
    whole = labelled({0: 40, 3: 20, 5: 100})
    parts = split(jax.random.key(seed), whole, calibration=16, search=48, report=80)
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == len(names) == 144
    for part, size in zip(parts, (16, 48, 80), strict=True):
        assert len(part) == size
        for label, share in {0: 1 / 4, 3: 1 / 8, 5: 5 / 8}.items():
            assert abs((part.labels == label).sum() - size * share) < 2
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], [float(name) for name in part.names])
        np.testing.assert_array_equal(part.labels, whole.labels[[int(name) for name in part.names]])
    again = split(jax.random.key(seed), whole, calibration=16, search=48, report=80)
    assert again.report.names == parts.report.names
    other = split(jax.random.key(seed + 1), whole, calibration=16, search=48)
    assert other.search.names != parts.search.names
    assert len(other.report) == 96


def test_split_without_labels_and_with_a_photograph_per_class():
    whole = labelled(dict.fromkeys(range(30), 1))
    for images in (whole, ImageSet(whole.images, None, whole.names)):
        parts = split(jax.random.key(0), images, calibration=5, search=10)
        assert sorted(int(name) for part in parts for name in part.names) == list(range(30))


def test_wrong_arguments():
    whole = labelled({0: 10})
    with pytest.raises(ValueError, match="report must be at least 1 image, got 0"):
        split(jax.random.key(0), whole, calibration=5, search=5)
    with pytest.raises(ValueError, match="calibration must be at least 1 image, got 0"):
        split(jax.random.key(0), whole, calibration=0, search=5)
    with pytest.raises(ValueError, match="take 12 of 10 images"):
        split(jax.random.key(0), whole, calibration=4, search=4, report=4)
    with pytest.raises(ValueError, match="images, labels and names differ: 10, no and 1"):
        ImageSet(whole.images, None, ("a",))
    with pytest.raises(ValueError, match="resolution must be 8-4096 pixels, got 4097"):
        Preprocess(resolution=4097)
    with pytest.raises(ValueError, match=r"crop_ratio must be 1-4 .* got 0\.9"):
        Preprocess(crop_ratio=0.9)
    with pytest.raises(ValueError, match=r"scale must be above 0, got 0\.0"):
        Preprocess(scale=0.0)


def test_photographs_of_the_development_data(data_dir):
    place = data_dir / "imagenet_samples" / "images.zip"
    found = load_labelled(place, Preprocess(resolution=32), count=50, classes=1000)
    assert found.names[0] == "n01440764_tench.JPEG"
    np.testing.assert_array_equal(found.labels, np.arange(0, 1000, 20))
