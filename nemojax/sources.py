"""A folder or a zip archive of pictures, seen alike; nothing is extracted."""

import os
import zipfile
import zlib
from pathlib import Path

MAX_FILE_BYTES = 64 * 2**20  # a larger file is refused after this many bytes
UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError)


class Source:
    """The files below a folder or in a zip archive; hidden files and folders are passed over.

    Raises:
        ValueError: `place` is neither, or cannot be read.
    """

    def __init__(self, place: str | os.PathLike[str]):
        self.place = Path(place)
        self._archive: zipfile.ZipFile | None = None
        try:
            if self.place.is_dir():
                names, folders = _walk(self.place)
            elif self.place.is_file():
                self._archive = zipfile.ZipFile(self.place)
                everything = self._archive.namelist()
                names = [name for name in everything if not name.endswith("/")]
                folders = [name.split("/")[0] for name in everything if "/" in name]
            else:
                raise ValueError(f"{place}: no such folder or zip file: give a folder of pictures")
        except zipfile.BadZipFile:
            raise ValueError(f"{place}: is neither folder nor zip file: give a folder of pictures") from None
        except OSError as error:
            raise ValueError(f"{place}: cannot be read ({error.strerror}): check its permissions") from None
        self.names = sorted(filter(_visible, set(names)))  # files, relative to the place
        self.folders = sorted(filter(_visible, set(folders)))  # of the first level
        self._known = frozenset(self.names)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception) -> None:
        if self._archive is not None:
            self._archive.close()

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def read(self, name: str) -> bytes:
        """The bytes of a file in `names`.

        Raises:
            ValueError: it is too large, damaged or unreadable; the message names place and file.
        """
        try:
            with self._archive.open(name) if self._archive else open(self.place / name, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except UNREADABLE as error:
            raise ValueError(f"{self.place / name}: cannot be read ({error}): replace or remove it") from None
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"{self.place / name}: is over {MAX_FILE_BYTES // 2**20} MiB: make it smaller")
        return data


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
        names += [Path(parent, name).relative_to(top).as_posix() for name in files]
    return names, [path.name for path in top.iterdir() if path.is_dir()]


def _visible(name: str) -> bool:
    parts = name.split("/")
    return not any(part.startswith(".") for part in parts) and parts[0] != "__MACOSX"
