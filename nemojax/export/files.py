"""Exported files: written whole or not at all, read with one-line errors."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hwmodel import write_bytes


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Puts `data` at `path` in one step.

    Raises:
        ValueError: the folder is missing, or cannot be written to.
    """
    try:
        write_bytes(path, data)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror}): check the folder") from None


def write_together(files: Mapping[Path, Callable[[Path], None]]) -> None:
    """Writes files of one folder beside their places, and puts them there once all are written.

    Args:
        files: place -> what writes that file to the path it is given.

    Raises:
        ValueError: one cannot be written; then the files that were there are all untouched.
    """
    place = next(iter(files))
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{place.stem}.", dir=place.parent, ignore_cleanup_errors=True
        ) as beside:
            for place, write in files.items():
                write(Path(beside, place.name))
            _put(files, Path(beside))
    except OSError as error:
        place = error.filename2 or place  # where a renamed file should have gone
        raise ValueError(f"{place}: cannot be written ({error.strerror}): check the folder") from None


def _put(places: Iterable[Path], beside: Path) -> None:
    """Moves the file of each place from `beside` to it; where one cannot be, the old ones come back."""
    done: list[tuple[Path, Path | None]] = []  # place, and its old file
    try:
        for place in places:
            old = beside / f"{place.name}.old" if place.is_file() else None
            if old is not None:
                _keep(place, old)
            os.replace(beside / place.name, place)
            done.append((place, old))
    except BaseException:
        for place, old in done:
            if old is None:
                place.unlink()
            else:
                os.replace(old, place)
        raise
    if os.name == "posix":  # the renames are durable once their folder is on disk
        folder = os.open(beside.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _keep(place: Path, old: Path) -> None:
    """The file of `place` at `old`, too."""
    try:
        os.link(place, old)
    except OSError:  # a file system without hard links
        shutil.copy2(place, old)


def read_file(path: str | os.PathLike[str], writer: str) -> bytes:
    """The bytes of a file that `writer` wrote.

    Raises:
        ValueError: it is missing, or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): give a file of {writer}") from None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
