"""Exported files: written whole or not at all, read with one-line errors."""

import hashlib
import os
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
