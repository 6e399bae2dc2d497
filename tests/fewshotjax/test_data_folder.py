"""Pictures of users: layouts, modes and orientation, resizing against a plain filter, and damaged files."""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshotjax.data import files as files_module, folder, pictures
from fewshotjax.data.files import Files


def pixels(height: int = 4, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(image, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG", **options)
    return file.getvalue()


LAYOUT = {"b/2.png": 2, "b/1.png": 1, "a/x.png": 3, "a/y.PNG": 4}


def contents() -> dict[str, bytes]:
    return {name: png(pixels(seed=seed)) for name, seed in LAYOUT.items()}


def write(top: Path, entries: dict[str, bytes]) -> Path:
    for name, data in entries.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, entries: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.xz", "tar.gz"])
@pytest.mark.parametrize("outer", ["", "support/"])
def test_class_folders_in_sorted_order_from_any_container(tmp_path, kind, outer):
    entries = {outer + name: data for name, data in contents().items()}
    extra = {".hidden": b"", "b/Thumbs.db": b"no picture", "__MACOSX/b/._1.png": b"", "notes.txt": b"mine"}
    entries |= {outer + name: data for name, data in extra.items()}
    if kind == "folder":
        path = write(tmp_path / "s", entries)
    elif kind == "zip":
        path = zipped(tmp_path / "s.zip", entries)
    else:
        path = tarred(tmp_path / "s", entries, "w" if kind == "tar" else f"w:{kind[-2:]}")
    found = folder(path)
    assert found.classes == ("a", "b")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.files == tuple(outer + name for name in ("a/x.png", "a/y.PNG", "b/1.png", "b/2.png"))
    np.testing.assert_array_equal(found.images, [pixels(seed=seed) for seed in (3, 4, 1, 2)])
    assert folder(path, classes=["b"]).files == tuple(outer + name for name in ("b/1.png", "b/2.png"))


def test_threads_change_nothing_and_the_first_bad_file_is_named(tmp_path):
    entries = {f"c/{i:03}.png": png(pixels(seed=i)) for i in range(150)}
    path = write(tmp_path / "s", entries)
    np.testing.assert_array_equal(folder(path, threads=1).images, folder(path, threads=4).images)
    np.testing.assert_array_equal(folder(path).images, [pixels(seed=i) for i in range(150)])
    write(path, {"c/070.png": b"x", "c/140.png": b"x"})
    for threads in (1, 4):
        with pytest.raises(ValueError, match=r"070.png: is no picture"):
            folder(path, threads=threads)


def test_pictures_of_a_folder_an_archive_or_one_file(tmp_path):
    path = write(tmp_path / "q", contents())
    found, names = pictures(path)
    assert names == ("a/x.png", "a/y.PNG", "b/1.png", "b/2.png")
    np.testing.assert_array_equal(found, folder(path).images)
    assert pictures(zipped(tmp_path / "q.zip", contents())).files == names
    write(path, {"b/bad.png": b"x", ".one.png": png(pixels(seed=9))})
    one, names = pictures(path / "b" / "1.png", channels=1)  # its neighbours are not looked at
    assert (one.shape, names) == ((1, 4, 4, 1), ("1.png",))
    np.testing.assert_array_equal(pictures(path / ".one.png").images[0], pixels(seed=9))
    with pytest.raises(ValueError, match=r"bad.png: is no picture"):
        pictures(path)


def triangle(length: int, side: int, short: int) -> np.ndarray:
    """Weights (side, length) of antialiased bilinear resizing of the central `short` of `length` pixels.

    A triangle as wide as the reduction, which reaches beyond the centre where there is more picture.
    """
    scale = short / side
    centres = (length - short) / 2 + (np.arange(side) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(12, 12, 4), (7, 13, 5), (7, 12, 3), (20, 6, 3), (4, 6, 9)]
)
def test_resizing_is_a_triangle_filter_on_the_central_square(tmp_path, height, width, side):
    image = pixels(height, width)
    path = write(tmp_path, {"c/1.png": png(image)})
    rows, columns = (triangle(length, side, min(height, width)) for length in (height, width))
    expected = np.einsum("ia,jb,abc->ijc", rows, columns, image.astype(float))
    found = folder(path, pixels=side).images[0]
    assert np.abs(found - expected).max() <= 1.5  # each of its two passes rounds
    assert folder(path, side, 1).images.shape == (1, side, side, 1)


def test_a_picture_that_has_the_size_is_left_alone(tmp_path):
    path = write(tmp_path, {"c/1.png": png(pixels())})
    np.testing.assert_array_equal(folder(path, pixels=4).images[0], pixels())


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_rgb_or_grey(tmp_path, channels):
    image = pixels()
    grey = Image.fromarray(image).convert("L")
    clear = Image.fromarray(np.dstack([image, np.zeros((4, 4), np.uint8)]), "RGBA")
    palette = Image.fromarray(image // 128 * 255).quantize(8)
    modes = {
        "1": Image.fromarray(image).convert("1"),
        "L": grey,
        "P": palette,
        "RGBA": clear,
        "LA": grey.convert("LA"),
    }
    entries = {f"c/{mode}.png": png(one) for mode, one in modes.items()}
    found = folder(write(tmp_path, entries), channels=channels)
    by_mode = {Path(name).stem: one for name, one in zip(found.files, found.images, strict=True)}
    assert found.images.shape == (5, 4, 4, channels)
    assert (by_mode["RGBA"] == 255).all()  # transparent: white
    for mode in ("L", "LA"):
        np.testing.assert_array_equal(by_mode[mode], np.repeat(np.asarray(grey)[..., None], channels, 2))
    assert set(np.unique(by_mode["1"])) <= {0, 255}
    if channels == 3:
        np.testing.assert_array_equal(by_mode["P"], image // 128 * 255)
    else:
        luma = (image // 128 * 255) @ np.array([0.299, 0.587, 0.114])
        assert np.abs(by_mode["P"][..., 0] - luma).max() <= 1


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_photographs_stand_upright(tmp_path, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path, {"c/1.png": png(pixels(3, 5), exif=exif)})
    np.testing.assert_array_equal(folder(path).images[0], np.rot90(pixels(3, 5), turns))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_what_cameras_and_browsers_save_is_read_whatever_its_name(tmp_path, kind):
    """MPO is what many telephones write under the name .jpg."""
    file = io.BytesIO()
    smooth = np.stack(np.meshgrid(*[np.arange(0, 240, 15, dtype=np.uint8)] * 2), -1)
    image = Image.fromarray(np.dstack([smooth, smooth[..., :1]]))
    extra = {"save_all": True, "append_images": [image.rotate(90)]} if kind in ("MPO", "GIF") else {}
    image.save(file, kind, **extra)
    found = folder(write(tmp_path, {"c/1.jpg": file.getvalue()})).images[0]
    assert np.abs(found.astype(int) - np.asarray(image)).max() < 64  # the first picture, if with losses


def test_layouts_that_are_refused(tmp_path):
    good = png(pixels())
    cases = {
        "no class folders: give a folder with one": {"notes.txt": b""},
        "1.png: lies in no class folder": {"1.png": good, "a/1.png": good},
        "a/deep/1.png: lies below a class folder": {"a/deep/1.png": good, "a/2.png": good},
        "test/a/1.png: lies below a class": {"train/a/1.png": good, "test/a/1.png": good},
        "video.txt: is no picture": {"a/1.png": good, "a/video.txt": b"x"},
        "2.png: is 5x4, the first 4x4: bring them": {"a/1.png": good, "a/2.png": png(pixels(4, 5))},
    }
    for number, (message, entries) in enumerate(cases.items()):
        path = write(tmp_path / str(number), entries)
        with pytest.raises(ValueError, match=message):
            folder(path)
    path = write(tmp_path / "e", {"a/1.png": good})
    (path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no pictures"):
        folder(path)
    assert folder(path, classes=("a",)).classes == ("a",)
    with pytest.raises(ValueError, match="'b', which is none of the 2"):
        folder(path, classes=("b",))
    for arguments, message in (
        ({"pixels": 0}, "pixels must be 1-4096"),
        ({"channels": 2}, "channels must be 1"),
        ({"threads": 0}, "threads must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            folder(path, classes=("a",), **arguments)
    with pytest.raises(ValueError, match="nowhere: there is no such file or folder"):
        folder(tmp_path / "nowhere")
    (tmp_path / "plain").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="plain: is neither zip nor tar file"):
        folder(tmp_path / "plain")
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        pictures(tmp_path / "void")


def declared(width: int, height: int) -> bytes:
    """The head of a PNG that says that it is as large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )


def test_files_that_are_no_good_pictures_are_named(tmp_path):
    whole = png(pixels(40, 40))
    jpeg = io.BytesIO()
    Image.fromarray(pixels(40, 40)).save(jpeg, "JPEG")
    deep = png(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000))
    cases = {
        "text.jpg": (b"I am no picture", "is no picture"),
        "empty.png": (b"", "is no picture"),
        "cut.png": (whole[: len(whole) // 2], "cannot be decoded"),
        "cut.jpg": (jpeg.getvalue()[:-300], "cannot be decoded"),
        "deep.png": (deep, "has values of mode 'I;16', not of 8 bits"),
        "large.png": (declared(9_000, 9_500), "has 85500000 pixels, over the limit of 80 million"),
        "huge.png": (declared(12_000, 9_000), "has too many pixels"),
        "enormous.png": (declared(200_000, 200_000), "has too many pixels"),
        "fake.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture"),
        "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "is no picture"),
    }
    for name, (data, message) in cases.items():
        path = write(tmp_path / name, {f"c/{name}": data})
        with pytest.raises(ValueError, match=rf"c/{name}: {message}"):
            folder(path)


def test_an_array_that_would_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fewshotjax.data.decode.MAX_BYTES", 4 * 4 * 3 * 3)
    with pytest.raises(ValueError, match=r"pixels is None, and 4 images of 4x4 take .*: read fewer, or set"):
        folder(write(tmp_path, contents()))
    assert len(folder(tmp_path, pixels=3)) == 4


@pytest.mark.parametrize(
    "name", ["../out.png", "/abs.png", "a/../../out.png", "C:\\x.png", "a\\..\\..\\x.png"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_archive_are_refused(tmp_path, name, kind):
    path = (zipped if kind == "zip" else tarred)(tmp_path / "s", {**contents(), name: png(pixels())})
    with pytest.raises(ValueError, match="which leaves the archive: do not trust it"):
        folder(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_are_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a/1.png", b"1")
        archive.writestr("a/1.png", b"2")
    with pytest.raises(ValueError, match=r"twice.zip: holds 'a/1.png' twice"):
        folder(tmp_path / "twice.zip")
    link = tarfile.TarInfo("a/1.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    long = tarfile.TarInfo("a/1.png")
    long.size = 2**40
    for info, message in ((link, "'a/1.png' is a link"), (long, "a/1.png: is over 64 MiB")):
        with tarfile.open(tmp_path / "t.tar", "w") as tar:
            tar.addfile(info)
        with pytest.raises(ValueError, match=message):
            folder(tmp_path / "t.tar")
    path = tarred(tmp_path / "bomb.tar.xz", {f"a/{i}.png": bytes(2**16) for i in range(8)}, "w:xz")
    monkeypatch.setattr(files_module, "MAX_UNPACKED_BYTES", 2**18)
    with pytest.raises(ValueError, match=r"bomb.tar.xz: unpacks to more than 0 MiB: unpack it"):
        folder(path)


def test_a_file_is_refused_by_its_size_declared_or_real(tmp_path, monkeypatch):
    path = zipped(tmp_path / "s.zip", {"a/1.png": png(pixels())})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 2**31)  # the unpacked size
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"s.zip/a/1.png: is over 64 MiB"):
        folder(path)
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 2**10)
    for make in (write, zipped):
        with pytest.raises(ValueError, match=r"a/1.png: is over 0 MiB"):
            folder(make(tmp_path / make.__name__, {"a/1.png": bytes(2**11)}))


def test_damaged_archives_give_an_error_or_what_was_in_them(tmp_path):
    """Cut anywhere, or with bytes changed: never another error, never fewer files in silence."""
    rng = np.random.default_rng(0)
    entries = {f"c/{i}.png": png(pixels(seed=i)) for i in range(3)}
    makers = (
        zipped,
        tarred,
        lambda path, e: tarred(path, e, "w:gz"),
        lambda path, e: tarred(path, e, "w:xz"),
    )
    refused = 0
    for number, make in enumerate(makers):
        whole = make(tmp_path / f"{number}", entries).read_bytes()
        cuts = {*rng.integers(0, len(whole), 30).tolist(), *range(0, len(whole), 512)}
        broken = [whole[:cut] for cut in cuts]
        for _ in range(60):
            data = np.frombuffer(whole, np.uint8).copy()
            data[rng.integers(0, len(data), 2)] = rng.integers(0, 256, 2)
            broken.append(data.tobytes())
        for case, data in enumerate(broken):
            path = tmp_path / "broken"
            path.write_bytes(data)
            try:
                with Files(path) as found:
                    every = {name: found.read(name) for name in found.names}
            except ValueError:
                refused += 1
            else:  # plain tar archives have no checksum of the files, and a name may have changed
                assert len(every) >= 3 - (case >= len(cuts)), (number, case)
                if number != 1:
                    assert set(entries.values()) >= set(every.values())
    assert refused > 150


def test_links_in_a_folder_are_followed_but_not_in_circles(tmp_path):
    path = write(tmp_path / "s", contents())
    os.symlink(path, path / "a" / "circle")
    os.symlink(tmp_path / "elsewhere", path / "c")
    write(tmp_path / "elsewhere", {"1.png": png(pixels(seed=8))})
    assert folder(path).classes == ("a", "b", "c")
    os.symlink(tmp_path / "nowhere", path / "c" / "2.png")
    with pytest.raises(ValueError, match=r"2.png: is no plain file, or a broken link"):
        folder(path)
