"""Tar archives as sources: every compression, read in place, and every archive that is not to be trusted."""

import bz2
import gzip
import io
import lzma
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nemojax import sources, tar_files
from nemojax.images import load_labelled
from nemojax.preprocess import Preprocess
from nemojax.sources import Source

COMPRESS = {".tar": lambda x: x, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}
FILES = {"b/2.bin": b"two" * 300, "a/1.bin": bytes(512), "a/.hidden": b"x", "top.txt": b"", "./c/3": b"3"}


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def packed(files, format=tarfile.GNU_FORMAT) -> bytes:
    """Of (TarInfo, bytes) pairs, or of name -> bytes."""
    if isinstance(files, dict):
        files = [(entry(name, len(data)), data) for name, data in files.items()]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, data in files:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_of_an_archive(tmp_path, suffix, format):
    long = "d/" + "long" * 60 + ".bin"
    files = [(entry("a", kind=tarfile.DIRTYPE), b"")]
    files += [(entry(name, len(data)), data) for name, data in {**FILES, long: b"L"}.items()]
    place = tmp_path / f"some{suffix}"
    place.write_bytes(COMPRESS[suffix](packed(files, format)))
    with Source(place) as source:
        assert source.names == ["a/1.bin", "b/2.bin", "c/3", long, "top.txt"]
        assert source.folders == ["a", "b", "c", "d"]
        assert [source.read(name) for name in source.names] == [bytes(512), b"two" * 300, b"3", b"L", b""]
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(source.read, source.names * 50))
        assert read == [bytes(512), b"two" * 300, b"3", b"L", b""] * 50
    assert [p.name for p in tmp_path.iterdir()] == [place.name]  # nothing was extracted


def test_a_folder_and_its_archives_are_one(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    from PIL import Image

    for c in ("ant", "bee"):
        (tmp_path / "set" / c).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (20, 16, 3), np.uint8)).save(
                tmp_path / "set" / c / f"{i}.png"
            )
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "set", ".")
    want, found = (load_labelled(tmp_path / name, Preprocess(16)) for name in ("set", "set.tar.gz"))
    assert found.names == want.names
    np.testing.assert_array_equal(found.labels, want.labels)
    np.testing.assert_array_equal(found.images, want.images)


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz"])
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([(entry("a", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")], "'a' is a link or no plain file"),
        ([(entry("a", kind=tarfile.LNKTYPE, linkname="b"), b"")], "'a' is a link or no plain file"),
        ([(entry("a", kind=tarfile.FIFOTYPE), b"")], "is a link or no plain file"),
        ([(entry("a", kind=tarfile.CHRTYPE), b"")], "is a link or no plain file"),
        ([(entry("../a", 1), b"x")], r"holds '../a', which leaves the archive"),
        ([(entry("b/../../a", 1), b"x")], "leaves the archive"),
        ([(entry("/a", 1), b"x")], "leaves the archive"),
        ([(entry("..", kind=tarfile.DIRTYPE), b"")], "leaves the archive"),
        ([(entry("a", 1), b"x"), (entry("./a", 1), b"y")], "holds 'a' twice"),
    ],
)
def test_archives_not_to_be_trusted(tmp_path, suffix, files, message):
    place = tmp_path / f"bad{suffix}"
    place.write_bytes(COMPRESS[suffix](packed(files)))
    with pytest.raises(ValueError, match=message) as error:
        Source(place)
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)


def damaged(name: str) -> bytes:
    whole = packed(FILES)
    if name == "cut inside a file":
        return whole[:700]
    if name == "cut at a header":
        return whole[:1536]  # the first file and its padding, no end
    if name == "second header":
        return whole[:1536] + b"\xff" * 512 + whole[2048:]
    if name == "sparse":
        sparse = bytearray(packed({"a": bytes(512)}))
        sparse[156:157] = tarfile.GNUTYPE_SPARSE
        sparse[148:156] = b" " * 8
        sparse[148:156] = f"{sum(sparse[:512]):06o}\0 ".encode()
        return bytes(sparse)
    # a long name that claims to be of 60 GB
    header = entry("././@LongLink", 60 * 2**30, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    return header + whole


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize(
    "name", ["cut inside a file", "cut at a header", "second header", "sparse", "long name"]
)
def test_damaged_archives(tmp_path, suffix, name):
    place = tmp_path / f"bad{suffix}"
    place.write_bytes(COMPRESS[suffix](damaged(name)))
    expected = "is a link or no plain file" if name == "sparse" else "is no complete tar archive"
    with pytest.raises(ValueError, match=expected) as error:
        Source(place)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_damaged_compression(tmp_path, suffix):
    data = COMPRESS[suffix](packed({"a": np.random.default_rng(0).bytes(50_000)}))
    place = tmp_path / f"bad{suffix}"
    for wrong in (data[: len(data) // 2], data[:-9], data[:2000] + bytes(500) + data[2500:], data[:20]):
        place.write_bytes(wrong)
        with pytest.raises(ValueError, match="is no complete tar archive"):
            Source(place)


def test_an_archive_cannot_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_files, "MAX_UNPACKED_BYTES", 2**20)
    place = tmp_path / "bomb.tar.xz"
    place.write_bytes(lzma.compress(packed({"zeros": bytes(2**22)})))
    assert place.stat().st_size < 3000
    with pytest.raises(ValueError, match=r"bomb.tar.xz: unpacks to more than 1 MiB: unpack it into a folder"):
        Source(place)
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 1000)
    place.write_bytes(packed({"zeros": bytes(2**22)}))  # not compressed: indexed, whatever its length
    with Source(place) as source, pytest.raises(ValueError, match="zeros: is over 0 MiB"):
        source.read("zeros")


def test_other_files_are_no_archives(tmp_path):
    for name, data, message in (
        ("a.txt", b"hello", "is neither folder nor zip file nor tar file"),
        ("b.txt.gz", gzip.compress(b"hello" * 500), "is no complete tar archive"),
        ("empty", b"", "is neither folder nor zip file nor tar file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            Source(tmp_path / name)
