"""Episodes of few-shot detection as a JSON file, so that others run the very same tasks.

{"schema": "frugaljax.fewshot.detection_episodes/1",
 "episodes": [{"classes": ["cat", "dog"],
               "support": [{"file": "a.jpg", "class": "cat", "box": [x1, y1, x2, y2]}, ...],
               "queries": ["b.jpg", ...]}, ...]}

Boxes are half-open pixels. A query named twice counts twice, as in the RepMet authors' protocol; its true
boxes are in the annotations, of which only the episode's classes count.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fewshotjax.fields import check_fields
from fewshotjax.files import write_bytes

SCHEMA = "frugaljax.fewshot.detection_episodes/1"
_MOST = 2**28  # bytes that are read


class SupportBox(NamedTuple):
    """One example of a class."""

    file: str
    label: str
    box: tuple[float, float, float, float]  # x1, y1, x2, y2, half-open pixels


@dataclass(frozen=True)
class DetectionEpisode:
    """One task: what is shown of each class, and the images to find them in.

    Raises:
        ValueError: a class named twice or without support, a support box of another class or without a
            side, an image that is both support and query.
    """

    classes: tuple[str, ...]
    support: tuple[SupportBox, ...]
    queries: tuple[str, ...]
    shared: bool = False  # an image may be both: the authors' episodes have such

    def __post_init__(self):
        check_fields(self)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must name each once, and at least one, got {list(self.classes)}")
        for file, label, box in self.support:
            if label not in self.classes:
                raise ValueError(f"support: {file} is of {label!r}, none of {', '.join(self.classes)}")
            x1, y1, x2, y2 = box
            if not (all(map(math.isfinite, box)) and x1 < x2 and y1 < y2):
                raise ValueError(f"support: {file} has box {list(box)}: x1 < x2 and y1 < y2 must hold")
        missing = [name for name in self.classes if name not in {label for _, label, _ in self.support}]
        if missing:
            raise ValueError(f"support has no box of {missing[0]!r}: show one, or leave the class out")
        both = {file for file, _, _ in self.support} & set(self.queries)
        if both and not self.shared:
            raise ValueError(f"queries has {sorted(both)[0]!r}, which is in the support: it would be no test")


def save_detection_episodes(path: str | os.PathLike[str], episodes: Sequence[DetectionEpisode]) -> None:
    """Written whole or not at all."""
    record = {
        "schema": SCHEMA,
        "episodes": [
            {
                "classes": one.classes,
                "support": [{"file": file, "class": label, "box": box} for file, label, box in one.support],
                "queries": one.queries,
                **({"shared": True} if one.shared else {}),
            }
            for one in episodes
        ],
    }
    write_bytes(path, json.dumps(record).encode())


def load_detection_episodes(path: str | os.PathLike[str]) -> tuple[DetectionEpisode, ...]:
    """What `save_detection_episodes` wrote.

    Raises:
        ValueError: another kind of file, or an episode that is refused; its number is named.
    """
    record = read_json(path)
    if not isinstance(record, dict) or not str(record.get("schema", "")).startswith(SCHEMA[:-1]):
        raise ValueError(f"{path}: is no list of detection episodes: give what save_detection_episodes wrote")
    if record["schema"] != SCHEMA:
        raise ValueError(f"{path}: has schema {record['schema']!r}, this library reads {SCHEMA!r}")
    if not isinstance(record.get("episodes"), list) or not record["episodes"]:
        raise ValueError(f"{path}: has no episodes")
    return tuple(_episode(f"{path}: episode {i}", row) for i, row in enumerate(record["episodes"]))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Raises ValueError: too large, unreadable, no JSON."""
    try:
        if Path(path).stat().st_size > _MOST:
            raise ValueError(f"{path}: is over {_MOST // 2**20} MiB: split it")
        return json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): give a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({error})") from None


def _episode(where: str, row: Any) -> DetectionEpisode:
    fields = {"classes", "support", "queries", "shared"}
    if not isinstance(row, dict) or not set(row) <= fields or not fields - {"shared"} <= set(row):
        raise ValueError(f"{where}: must have classes, support and queries, got {str(row)[:60]}")
    support = []
    for shown in row["support"] if isinstance(row["support"], list) else [None]:
        if not isinstance(shown, dict) or set(shown) != {"file", "class", "box"}:
            raise ValueError(f"{where}: support must be a list of file, class and box, got {str(shown)[:60]}")
        box = shown["box"]
        if not isinstance(box, list) or len(box) != 4 or not all(type(x) in (int, float) for x in box):
            raise ValueError(f"{where}: box must be four numbers, got {str(box)[:60]}")
        x1, y1, x2, y2 = map(float, box)
        support.append(SupportBox(shown["file"], shown["class"], (x1, y1, x2, y2)))
    names = [row["classes"], row["queries"], [s.file for s in support], [s.label for s in support]]
    if not all(isinstance(some, list) and all(isinstance(name, str) for name in some) for some in names):
        raise ValueError(f"{where}: classes, queries, file and class must be names")
    try:
        return DetectionEpisode(
            tuple(row["classes"]), tuple(support), tuple(row["queries"]), bool(row.get("shared", False))
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
