"""Zip archives held in memory: members are read one by one, uncompressed, and nothing is put on a disk."""

import io
import zipfile

from nemojax.weights.opcodes import damaged, shorten


def open_archive(data: bytes) -> zipfile.ZipFile:
    """The archive in `data`; ValueError where it is none."""
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise damaged(f"as a zip archive: {error}") from None


def read_member(archive: zipfile.ZipFile, name: str, program: str) -> bytes:
    """A member as it was stored, never larger than the archive; compressed ones are refused.

    Args:
        archive: the archive.
        name: of the member.
        program: that should write the archive again, for messages.
    """
    try:
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"its member {shorten(name)} is compressed: save it again with {program}")
        return archive.read(info)
    except KeyError:
        raise damaged(f"its member {shorten(name)} is missing") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise damaged(f"member {shorten(name)}: {error}") from None
