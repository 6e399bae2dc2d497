"""Tar archives read in place: no file is written, no link followed, and memory has a limit.

A plain archive is indexed and its files are read where they lie; a compressed one (.gz, .bz2, .xz) can only
be read from front to back, so its files are unpacked into memory.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

MAX_UNPACKED_BYTES = 2**30  # of a compressed archive
MAX_READ_BYTES = 2**26  # in one go, such as a header that claims to be long
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\xfd7zXZ\x00": lzma.open,
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
}
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, UnicodeError)


class TarFiles:
    """The files of a tar archive by name."""

    def __init__(self, files: dict[str, Any], read: Callable[[Any, int], bytes]):
        self._files, self._read = files, read
        self.names = list(files)

    def read(self, name: str, limit: int) -> bytes:
        """At most `limit` bytes of a file."""
        return self._read(self._files[name], limit)

    def close(self) -> None:
        self._files = {}


def open_tar(path: Path) -> TarFiles | None:
    """None where the file is no tar archive.

    Raises:
        ValueError: it is damaged, unpacks to more than `MAX_UNPACKED_BYTES`, or holds links, devices,
            sparse files, a file twice, or a name that leaves the archive.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(512)
        file.seek(0)
        opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
        if opener is None and start[257:262] != b"ustar":
            return None
        try:
            if opener is None:
                return _indexed(path, file)
            with opener(file) as unpacked:
                return _unpacked(path, unpacked)
        except _DAMAGED as error:
            reason = str(error)
        except OSError as error:
            if error.errno is not None:
                raise
            reason = str(error)  # of a decompressor
    raise ValueError(f"{path}: is no complete tar archive ({reason}): get it again") from None


def _indexed(path: Path, file: Any) -> TarFiles:
    places: dict[str, tuple[int, int]] = {}
    bounded: Any = _Bounded(path, file, None)
    with tarfile.open(fileobj=bounded, mode="r:", tarinfo=_Strict) as archive:
        for name, member in _members(path, archive, places):
            places[name] = member.offset_data, member.size

    def read(place: tuple[int, int], limit: int) -> bytes:
        with open(path, "rb") as own:  # several threads may read
            own.seek(place[0])
            return own.read(min(place[1], limit))

    return TarFiles(places, read)


def _unpacked(path: Path, file: Any) -> TarFiles:
    contents: dict[str, bytes] = {}
    bounded: Any = _Bounded(path, file, MAX_UNPACKED_BYTES)
    with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Strict) as archive:
        for name, member in _members(path, archive, contents):
            data = archive.extractfile(member)
            contents[name] = data.read() if data else b""
    while bounded.read(2**20):  # to the end, where the checksum stands
        pass
    return TarFiles(contents, lambda data, limit: data[:limit])


def _members(
    path: Path, archive: tarfile.TarFile, known: Container[str]
) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Files with their checked names, in the order of the archive."""
    for member in archive:
        inside = PurePosixPath(member.name)
        if inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{path}: holds {member.name!r}, which leaves the archive: do not trust it")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise ValueError(f"{path}: {member.name!r} is a link or no plain file: pack plain files alone")
        name = inside.as_posix()
        if name in known:
            raise ValueError(f"{path}: holds {name!r} twice: pack it anew")
        yield name, member


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
    """A file of which one read, and all together, cannot fill the memory."""

    def __init__(self, path: Path, file: Any, limit: int | None):
        self._path, self._file, self._limit = path, file, limit
        self.seek, self.tell = file.seek, file.tell
        self._total = 0

    def read(self, size: int) -> bytes:
        if size > MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._file.read(size)
        self._total += len(data)
        if self._limit is not None and self._total > self._limit:
            limit = f"{self._limit / 2**20:.0f} MiB"
            raise ValueError(f"{self._path}: unpacks to more than {limit}: unpack it into a folder first")
        return data
