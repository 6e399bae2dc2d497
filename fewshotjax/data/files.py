"""The files of a folder, a zip or a tar archive, seen alike; nothing is extracted, nothing written."""

import bz2
import gzip
import lzma
import os
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

MAX_FILE_BYTES = 64 * 2**20  # a larger file is refused, whatever size its archive declares
MAX_UNPACKED_BYTES = 2**30  # of a tar archive, which is read into memory
HINT = "give a folder, or a zip or tar file"
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\xfd7zXZ": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    UnicodeError,
    OverflowError,
    NotImplementedError,
)
_OF_THE_SYSTEM = ("__MACOSX", "Thumbs.db", "desktop.ini")


class File(NamedTuple):
    """One file; as text, where it lies."""

    source: "Files"
    name: str

    def read(self) -> bytes:
        return self.source.read(self.name)

    def __str__(self) -> str:
        return str(self.source.place / self.name)


class Files:
    """`names` of files and `folders`, sorted, relative to the place, with '/'; `read` from any thread.

    Hidden files and those that macOS and Windows add are passed over. Of a folder, `only` these names are
    looked for, and the folder is not searched.

    Raises:
        ValueError: the place is none of these, damaged, or an archive with a name that leaves it, a name
            twice, or (tar) links, or more than `MAX_UNPACKED_BYTES`.
    """

    def __init__(self, place: str | os.PathLike[str], only: Sequence[str] | None = None):
        self.place = Path(place)
        self._zip: zipfile.ZipFile | None = None
        try:
            if self.place.is_dir() and only is not None:
                files: dict[str, Any] = {n: self.place / n for n in only if (self.place / n).is_file()}
                folders: set[str] = set()
            elif self.place.is_dir():
                files, folders = _walk(self.place)
            elif self.place.is_file():
                files, folders = self._archive()
            else:
                raise ValueError(f"{place}: there is no such file or folder: {HINT}")
        except _DAMAGED as error:
            raise ValueError(f"{place}: is no whole archive ({error}): get it again") from None
        except OSError as error:
            raise ValueError(f"{place}: cannot be read ({error.strerror or error}): check it") from None
        self._files = {name: files[name] for name in sorted(files) if only is not None or _visible(name)}
        self.names = tuple(self._files)
        parents = {name.rpartition("/")[0] for name in self.names}
        parents |= {str(above) for parent in parents for above in PurePosixPath(parent).parents}
        self.folders = tuple(sorted(filter(_visible, (folders | parents) - {"", "."})))

    def __enter__(self) -> "Files":
        return self

    def __exit__(self, *exception) -> None:
        if self._zip is not None:
            self._zip.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> bytes:
        """The bytes of a file in `names`.

        Raises:
            ValueError: it is over `MAX_FILE_BYTES`, damaged, encrypted or unreadable; it is named.
        """
        what = self._files[name]
        try:
            if isinstance(what, bytes):
                return what
            if isinstance(what, zipfile.ZipInfo):
                assert self._zip is not None
                with self._zip.open(what) as file:
                    data = file.read(MAX_FILE_BYTES + 1) if what.file_size <= MAX_FILE_BYTES else None
            elif not what.is_file():
                raise ValueError(f"{what}: is no plain file, or a broken link: remove it")
            else:
                with open(what, "rb") as file:
                    data = file.read(MAX_FILE_BYTES + 1)
        except (*_DAMAGED, OSError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"{self.place / name}: cannot be read ({error}): replace or remove it") from None
        if data is None or len(data) > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES / 2**20:.0f} MiB"
            raise ValueError(f"{self.place / name}: is over {limit}: make it smaller, or remove it")
        return data

    def checksum(self, name: str) -> tuple[int, int]:
        """(CRC-32, bytes) from a zip's directory: equal where the files are, rarely otherwise."""
        info = self._files[name]
        if not isinstance(info, zipfile.ZipInfo):
            raise ValueError(f"{self.place}: is no zip file: pack it as one")
        return info.CRC, info.file_size

    def _archive(self) -> tuple[dict[str, Any], set[str]]:
        with open(self.place, "rb") as file:
            start = file.read(512)
        if start.startswith(b"PK"):
            self._zip = zipfile.ZipFile(self.place)
            entries: Any = (
                (info.filename, info.filename.endswith("/"), info) for info in self._zip.infolist()
            )
            return _collected(self.place, entries)
        opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
        if opener is None and start[257:262] != b"ustar":
            raise ValueError(f"{self.place}: is neither zip nor tar file: {HINT}")
        with (opener or open)(self.place, "rb") as file:
            bounded: Any = _Bounded(self.place, file)
            with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Strict) as archive:
                members = ((m.name, m.isdir(), _unpacked(self, archive, m)) for m in archive)
                found = _collected(self.place, members)
            while opener and bounded.read(2**20):  # to the end, where the checksum stands
                pass
        return found


def _collected(place: Path, entries: Any) -> tuple[dict[str, Any], set[str]]:
    """Files by name and folders of an archive, the names checked."""
    files: dict[str, Any] = {}
    folders = set()
    for given, is_folder, what in entries:
        if leaves(given):
            raise ValueError(f"{place}: holds {given!r}, which leaves the archive: do not trust it")
        name = posixpath.normpath(given.replace("\\", "/"))
        if is_folder:
            folders.add(name)
        elif name in files:
            raise ValueError(f"{place}: holds {given!r} twice: pack it anew")
        else:
            files[name] = what
    return files, folders


def leaves(name: str) -> bool:
    """Whether a relative name points outside of where it starts, on any system."""
    name = name.replace("\\", "/")
    return name.startswith("/") or ".." in name.split("/") or (name[:1].isalpha() and name[1:2] == ":")


def _unpacked(files: Files, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        raise ValueError(f"{files.place}: {member.name!r} is a link or no plain file: pack plain files alone")
    if member.size > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES / 2**20:.0f} MiB"
        raise ValueError(f"{files.place / member.name}: is over {limit}: leave it out")
    data = archive.extractfile(member)
    return data.read() if data else b""


def _walk(top: Path) -> tuple[dict[str, Any], set[str]]:
    """Files and folders below `top`; links are followed, each folder is entered once."""

    def fail(error: OSError) -> None:
        raise error

    files: dict[str, Any] = {}
    folders, entered = set(), set()
    for parent, below, names in os.walk(top, onerror=fail, followlinks=True):
        below[:] = [name for name in below if _visible(name)]
        real = os.path.realpath(parent)
        if real in entered:
            below.clear()
            continue
        entered.add(real)
        inside = Path(parent).relative_to(top)
        files |= {(inside / name).as_posix(): Path(parent, name) for name in names}
        folders |= {(inside / name).as_posix() for name in below}
    return files, folders


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part in _OF_THE_SYSTEM for part in name.split("/"))


class _Strict(tarfile.TarInfo):
    """A damaged header is an error wherever it stands; tarfile takes all but the first for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: Any) -> Any:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


class _Bounded:
    """A file of which neither one read nor all together can fill the memory."""

    def __init__(self, place: Path, file: Any):
        self._place, self._file, self._total = place, file, 0

    def read(self, size: int) -> bytes:
        if size > MAX_FILE_BYTES + 512:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._file.read(size)
        self._total += len(data)
        if self._total > MAX_UNPACKED_BYTES:
            limit = f"{MAX_UNPACKED_BYTES / 2**20:.0f} MiB"
            raise ValueError(f"{self._place}: unpacks to more than {limit}: unpack it into a folder first")
        return data
