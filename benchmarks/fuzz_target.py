"""What is fuzzed: targets by name, each of which draws cases from a generator."""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.fuzz_formats import mutated


class Seed(NamedTuple):
    """A file that its reader takes."""

    suffix: str  # ".json": decides its mutations; ".tree" is a folder told in JSON, see `plant`
    data: bytes


class Case(NamedTuple):
    """One input, and what it is given to."""

    run: Callable[[], Any]
    data: bytes | Callable[[], bytes]  # what is kept of it if it fails
    suffix: str


Draw = Callable[[np.random.Generator, int], Case]  # (rng, number of the case) -> case


class Target(NamedTuple):
    """A reader or a constructor."""

    name: str
    covers: tuple[str, ...]  # public names, "hwmodel.load_chip"
    prepare: Callable[[Path], Draw]  # with a folder of its own
    errors: tuple[type[BaseException], ...] = (ValueError,)  # documented; all others are crashes
    one_line: bool = True  # whether messages promise to be


TARGETS: dict[str, Target] = {}
Made = tuple[Sequence[Seed], Callable[[Path], Any]]


def reader(*covers: str, errors: tuple[type[BaseException], ...] = (ValueError,)) -> Any:
    """Registers a function folder -> (seeds, read). The first cases are the seeds, which must be taken."""

    def register(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
        name = make.__name__

        def prepare(folder: Path) -> Draw:
            seeds, read = make(folder)
            return lambda rng, number: _file_case(rng, number, folder, seeds, read)

        assert name not in TARGETS, name
        TARGETS[name] = Target(name, covers, prepare, errors)
        return make

    return register


def _file_case(
    rng: np.random.Generator, number: int, folder: Path, seeds: Sequence[Seed], read: Callable[[Path], Any]
) -> Case:
    seed = seeds[number] if number < len(seeds) else seeds[int(rng.integers(len(seeds)))]
    alike = [one.data for one in seeds if one.suffix == seed.suffix]
    data = seed.data if number < len(seeds) else mutated(rng, seed.suffix, seed.data, alike)
    path = folder / f"case{seed.suffix}"

    def run() -> None:
        if seed.suffix == ".tree":
            place = plant(folder / "tree", data)
        else:
            place = path
            path.write_bytes(data)
        try:
            read(place)
        except Exception as error:
            if number < len(seeds):
                raise SeedRefused(str(error)) from error
            raise

    return Case(run, data, seed.suffix)


class SeedRefused(Exception):
    """A valid file was not taken: damage to it would then show nothing."""


def png(width: int = 4, height: int = 4, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """A picture of one colour."""
    rows = b"".join(b"\0" + bytes(colour) * width for _ in range(height))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    whole = [len(b).to_bytes(4, "big") + k + b + zlib.crc32(k + b).to_bytes(4, "big") for k, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def picture(kind: str, mode: str = "RGB", side: int = 6) -> bytes:
    """A small picture in one of Pillow's formats."""
    from PIL import Image

    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    """A plain tar archive."""
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def archives(members: dict[str, bytes]) -> list[Seed]:
    """The same files as zip, tar, tar.gz and folder."""
    import gzip

    tree = [[name, "file", data.decode("latin-1")] for name, data in members.items()]
    return [
        Seed(".zip", zipped(members)),
        Seed(".tar", tarred(members)),
        Seed(".tar", gzip.compress(tarred(members))),
        Seed(".tree", json.dumps(tree).encode()),
    ]


LINKS = ("/etc/hostname", "/dev/zero", "/nonexistent", ".", "..", "/dev/null")


def plant(folder: Path, data: bytes) -> Path:
    """Makes the folder that JSON tells: rows of (name, "file", "link", "fifo" or "folder", content).

    Names are kept below the folder, whatever they say; a number as content is a link of `LINKS`.
    """
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        rows = []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, list) or len(row) != 3 or not isinstance(row[0], str):
            continue
        parts = [part[:100] for part in row[0].split("/") if part not in ("", ".", "..") and "\0" not in part]
        place = folder.joinpath(*parts[:8])
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if row[1] == "file" and isinstance(row[2], str):
                place.write_bytes(row[2].encode("latin-1", "replace"))
            elif row[1] == "folder" or row[2] == []:
                place.mkdir(exist_ok=True)
            elif row[1] == "fifo" or row[2] is None:
                os.mkfifo(place)
            else:
                place.symlink_to(LINKS[hash(str(row[2])) % len(LINKS)])
        except (OSError, ValueError):
            continue
    return folder
