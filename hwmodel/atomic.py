"""Text files written whole or not at all."""

import os
import uuid
from pathlib import Path


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Puts UTF-8 text at `path`: beside the file first, then in its place, so nobody reads half of it.

    Raises:
        OSError: the folder is missing, or cannot be written to; then the old file is untouched.
    """
    target = Path(path)
    data = text.encode("utf-8")
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.new")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
