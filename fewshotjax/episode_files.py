"""A fixed list of episodes as a file, so that others run the very same tasks."""

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .episodes import Episode, overlapping
from .files import write_bytes

SCHEMA = "frugaljax.fewshot.episode_list/1"
_FIELDS = {"classes": 2, "support": 3, "shown": 3, "query": 3}
_MOST = 2**28  # bytes that are read


def save_episodes(path: str | os.PathLike[str], episodes: Episode) -> None:
    """JSON of rows: classes (E, W), support (E, W, S), shown (E, W, S), query (E, W, Q)."""
    arrays = {name: np.asarray(getattr(episodes, name)).astype(int).tolist() for name in _FIELDS}
    write_bytes(path, json.dumps({"schema": SCHEMA, **arrays}, separators=(",", ":")).encode())


def load_episodes(path: str | os.PathLike[str]) -> Episode:
    """What `save_episodes` wrote.

    Raises:
        ValueError: another kind of file, arrays that do not fit each other, an example twice in an episode.
    """
    if Path(path).stat().st_size > _MOST:
        raise ValueError(f"{path}: is over {_MOST // 2**20} MiB: split the list")
    try:
        record = json.loads(Path(path).read_text("utf-8"))
        known = record["schema"] == SCHEMA
        arrays = {name: _whole(record[name]) for name in _FIELDS}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ValueError(f"{path}: is no list of episodes: give a file that save_episodes wrote") from None
    if not known:
        raise ValueError(f"{path}: has schema {record['schema']!r}, this library reads {SCHEMA!r}")
    shapes = {name: array.shape for name, array in arrays.items()}
    fits = all(len(shapes[name]) == rank and 0 not in shapes[name] for name, rank in _FIELDS.items())
    if not fits or len({shape[:2] for shape in shapes.values()}) > 1 or shapes["shown"] != shapes["support"]:
        raise ValueError(f"{path}: its arrays do not fit each other, shapes are {shapes}")
    arrays["shown"] = arrays["shown"] != 0
    episodes = Episode(**{name: jnp.asarray(array) for name, array in arrays.items()})
    twice = overlapping(episodes)
    if twice.any():
        raise ValueError(f"{path}: episode {int(np.argmax(twice))} has an example twice")
    return episodes


def _whole(values: Any) -> np.ndarray:
    array = np.array(values)
    if array.dtype.kind != "i" or np.abs(array).max(initial=0) >= 2**31:
        raise ValueError("no whole numbers of 32 bits")
    return array.astype(np.int32)
