"""A folder, a zip or a tar archive of files, seen alike; nothing is extracted."""

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nemojax.tar_files import open_tar

MAX_FILE_BYTES = 64 * 2**20  # a larger file is refused after this many bytes
UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError)


class _Contents(NamedTuple):
    names: list[str]  # of files
    folders: list[str]  # of the first level
    read: Callable[[str, int], bytes]  # at most so many bytes of a file
    close: Callable[[], None]


class Source:
    """The files below a folder or in an archive; hidden files and folders are passed over.

    A compressed tar archive is unpacked into memory when it is opened. `read` may be called from threads.

    Raises:
        ValueError: `place` is none of these, or cannot be read, or is a tar archive with links in it.
    """

    def __init__(self, place: str | os.PathLike[str]):
        self.place = Path(place)
        try:
            if self.place.is_dir():
                contents = _open_folder(self.place)
            elif self.place.is_file():
                contents = _open_archive(self.place)
            else:
                raise ValueError(
                    f"{place}: no such folder or zip file or tar file: give a folder of pictures"
                )
        except OSError as error:
            raise ValueError(f"{place}: cannot be read ({error.strerror}): check its permissions") from None
        self._contents = contents
        self.names = sorted(filter(_visible, set(contents.names)))  # files, relative to the place
        self.folders = sorted(filter(_visible, set(contents.folders)))  # of the first level
        self._known = frozenset(self.names)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception) -> None:
        self._contents.close()

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def read(self, name: str) -> bytes:
        """The bytes of a file in `names`.

        Raises:
            ValueError: it is too large, damaged or unreadable; the message names place and file.
        """
        try:
            data = self._contents.read(name, MAX_FILE_BYTES + 1)
        except UNREADABLE as error:
            raise ValueError(f"{self.place / name}: cannot be read ({error}): replace or remove it") from None
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"{self.place / name}: is over {MAX_FILE_BYTES // 2**20} MiB: make it smaller")
        return data


def _open_folder(place: Path) -> _Contents:
    def read(name: str, limit: int) -> bytes:
        if not (place / name).is_file():  # to open a pipe would wait for ever
            raise OSError("it is no plain file, or a broken link")
        with open(place / name, "rb") as file:
            return file.read(limit)

    names, folders = _walk(place)
    return _Contents(names, folders, read, lambda: None)


def _open_archive(place: Path) -> _Contents:
    try:
        archive = zipfile.ZipFile(place)
    except zipfile.BadZipFile:
        tar = open_tar(place)
        if tar is None:
            hint = "give a folder of pictures"
            raise ValueError(f"{place}: is neither folder nor zip file nor tar file: {hint}") from None
        folders = [name.split("/")[0] for name in tar.names if "/" in name]
        return _Contents(tar.names, folders, tar.read, tar.close)
    except (NotImplementedError, ValueError) as error:
        raise ValueError(f"{place}: is no zip file that can be read ({error}): pack it anew") from None

    def read(name: str, limit: int) -> bytes:
        with archive.open(name) as file:
            return file.read(limit)

    everything = archive.namelist()
    names = [name for name in everything if not name.endswith("/")]
    folders = [name.split("/")[0] for name in everything if "/" in name]
    return _Contents(names, folders, read, archive.close)


def _walk(top: Path) -> tuple[list[str], list[str]]:
    """Files below `top` and folders in it, with '/'; links are followed, each folder is entered once."""

    def fail(error: OSError) -> None:
        raise error

    names, entered = [], set()
    for parent, folders, files in os.walk(top, onerror=fail, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        inside = Path(parent).relative_to(top).as_posix()
        names += files if inside == "." else [f"{inside}/{name}" for name in files]
    return names, [path.name for path in top.iterdir() if path.is_dir()]


def _visible(name: str) -> bool:
    parts = name.split("/")
    return not any(part.startswith(".") for part in parts) and parts[0] != "__MACOSX"
