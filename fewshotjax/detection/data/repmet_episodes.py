"""The episode lists of RepMet's authors (github.com/jshtok/RepMet, few_shot_benchmark.py), as ours.

Theirs is a Python pickle, which can execute anything, so it is not read here: whoever trusts one loads it and
gives the list, or writes it as JSON, with whole numbers for NumPy's.

Known is per episode: epi_cats (class numbers), epi_cats_names, train_nImg and query_images (for each class
number a list of image numbers). Image numbers index their `roidb`, class numbers its list of classes.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from fewshotjax.detection.data.annotations import Annotations
from fewshotjax.detection.data.episode_files import DetectionEpisode, SupportBox, read_json

FIELDS = {"epi_cats", "train_nImg", "query_images", "epi_cats_names"}


def repmet_episodes(
    episodes: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
    annotations: Annotations,
    class_names: Sequence[str],
    *,
    shots: int,
) -> tuple[DetectionEpisode, ...]:
    """Support boxes in the authors' order: by class, its support images, their boxes of any episode class,
    until a class has `shots`. A box that two classes' images bring up twice is taken once (theirs: twice).

    Args:
        episodes: their list, or a JSON file of it.
        annotations: in the order of their roidb, whose boxes are inclusive: add 1 to x2 and y2.
        class_names: of their class numbers, from 0; each that an episode uses must be in `annotations`.
        shots: boxes of a class at most (their Nshot with exactNshot).

    Returns:
        Queries stand once for each class's list that they are in: they count twice in two. Images that are
        support of one class and query of another are kept, `shared`: the authors draw them apart per class.

    Raises:
        ValueError: a field that is not known or missing, a class or image number that is not there, a class
            without a usable support box; the episode is named.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    if isinstance(episodes, str | os.PathLike):
        if not str(episodes).endswith(".json"):
            raise ValueError(f"{episodes}: is no .json; a pickle is not read: load it and give the list")
        records: Any = read_json(episodes)
    else:
        records = episodes
    if not isinstance(records, Sequence) or not all(isinstance(one, Mapping) for one in records):
        raise ValueError("episodes must be a list of the authors' records, one an episode")
    boxes: dict[int, list[int]] = {}
    for row, image in enumerate(annotations.truth.image_index.tolist()):
        boxes.setdefault(image, []).append(row)
    return tuple(
        _one(f"episode {i}", one, annotations, class_names, boxes, shots) for i, one in enumerate(records)
    )


def _one(
    where: str,
    record: Mapping[str, Any],
    annotations: Annotations,
    class_names: Sequence[str],
    boxes: Mapping[int, list[int]],
    shots: int,
) -> DetectionEpisode:
    unknown, missing = set(record) - FIELDS, FIELDS - {"epi_cats_names"} - set(record)
    if unknown or missing:
        raise ValueError(f"{where}: unknown fields {sorted(unknown)}, missing {sorted(missing)}")
    numbers = [_number(f"{where}: epi_cats", n, len(class_names)) for n in record["epi_cats"]]
    classes = tuple(class_names[n] for n in numbers)
    strange = [name for name in classes if name not in annotations.classes]
    if strange:
        raise ValueError(f"{where}: class {strange[0]!r} is not in the annotations")
    given = record.get("epi_cats_names")
    if given is not None and list(given) != list(classes):
        raise ValueError(f"{where}: epi_cats_names are {list(given)}, class_names give {list(classes)}")
    shown, queries = (
        [_images(f"{where}: {field}", record[field], n, len(annotations)) for n in numbers]
        for field in ("train_nImg", "query_images")
    )
    truth, support, taken = annotations.truth, [], set()
    counts = dict.fromkeys(classes, 0)
    for image in [image for images in shown for image in images]:
        for row in boxes.get(image, []):
            name = annotations.classes[truth.labels[row]]
            if row in taken or counts.get(name, shots) >= shots:
                continue
            taken.add(row)
            counts[name] += 1
            x1, y1, x2, y2 = truth.boxes[row].tolist()
            support.append(SupportBox(annotations.files[image], name, (x1, y1, x2, y2)))
    files = tuple(annotations.files[image] for images in queries for image in images)
    shared = not {box.file for box in support}.isdisjoint(files)
    try:
        return DetectionEpisode(classes, tuple(support), files, shared)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _images(where: str, lists: Any, number: int, count: int) -> list[int]:
    """A class's image numbers; JSON has made the class numbers text."""
    found = None
    if isinstance(lists, Mapping):
        found = lists.get(number, lists.get(str(number)))
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ValueError(f"{where}: has no list for class number {number}")
    return [_number(where, image, count) for image in found]


def _number(where: str, number: Any, count: int) -> int:
    try:
        value = int(number)
    except (TypeError, ValueError):
        value = -1
    if isinstance(number, str | float | bool) or not 0 <= value < count:
        raise ValueError(f"{where}: {number!r} is no number from 0 to {count - 1}")
    return value
