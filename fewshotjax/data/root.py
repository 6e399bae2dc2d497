"""Where the data sets lie: a folder that is given, or that the environment variable names."""

import os
from pathlib import Path

VARIABLE = "FRUGALJAX_DATA"


def data_file(root: str | os.PathLike[str] | None, *parts: str) -> Path:
    """root/part/...; with root None, the folder that FRUGALJAX_DATA names.

    Raises:
        ValueError: neither is given, or there is no such file.
    """
    place = os.environ.get(VARIABLE) if root is None else root
    if not place:
        inside = "/".join(parts)
        raise ValueError(f"root is None and {VARIABLE} is not set: give the folder that holds {inside}")
    path = Path(place, *parts)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: put it there, or give another root than {place}")
    return path
