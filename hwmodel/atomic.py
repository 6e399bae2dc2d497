"""Files written whole or not at all."""

import os
import uuid
from pathlib import Path


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Puts `data` at `path`, replacing what was there, in one step that survives a crash.

    It goes to a new file beside the target, is flushed to disk and then renamed, so a reader finds the old
    file or the new one.

    Raises:
        OSError: the folder is missing, or cannot be written to; then the old file is untouched.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.new")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself is durable once its folder is on disk
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))
