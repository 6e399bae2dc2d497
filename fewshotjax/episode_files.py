"""A fixed list of episodes as a file, so that others run the very same tasks."""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from .episodes import Episode
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
        ValueError: another kind of file, arrays that do not fit each other, an example that is both in the
            support and a query of its episode.
    """
    if Path(path).stat().st_size > _MOST:
        raise ValueError(f"{path}: is over {_MOST // 2**20} MiB: split the list")
    try:
        record = json.loads(Path(path).read_text("utf-8"))
        known = record["schema"] == SCHEMA
        arrays = {name: np.array(record[name], np.int32) for name in _FIELDS}
    except (ValueError, KeyError, TypeError, OverflowError):
        raise ValueError(f"{path}: is no list of episodes: give a file that save_episodes wrote") from None
    if not known:
        raise ValueError(f"{path}: has schema {record['schema']!r}, this library reads {SCHEMA!r}")
    shapes = {name: array.shape for name, array in arrays.items()}
    fits = all(len(shapes[name]) == rank and 0 not in shapes[name] for name, rank in _FIELDS.items())
    if not fits or len({shape[:2] for shape in shapes.values()}) > 1 or shapes["shown"] != shapes["support"]:
        raise ValueError(f"{path}: its arrays do not fit each other, shapes are {shapes}")
    support, query = (arrays[name].reshape(len(arrays["classes"]), -1) for name in ("support", "query"))
    shown = arrays["shown"].reshape(support.shape) != 0
    both = ((support[:, :, None] == query[:, None, :]) & shown[:, :, None]).any(axis=(1, 2))
    if both.any():
        raise ValueError(f"{path}: episode {int(np.argmax(both))} has an example in support and queries")
    arrays["shown"] = arrays["shown"] != 0
    return Episode(**{name: jnp.asarray(array) for name, array in arrays.items()})
