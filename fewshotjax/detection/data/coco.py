"""COCO's JSON: annotations and detections, read with checks and written so that they come back the same.

Boxes are [x, y, width, height] there. Reading what was written gives the same boxes for all with x1, y1 ≥ 0,
and for all that are float32 numbers, as a detector's are.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewshotjax.detection.data.annotations import Annotations, Faulty, repaired
from fewshotjax.detection.metrics.records import Detections, GroundTruth
from fewshotjax.files import write_bytes

MAX_BYTES = 2**30


def read_coco(path: str | os.PathLike[str], *, faulty: Faulty = "refuse") -> Annotations:
    """Images in the order of the file, classes in the order of their numbers, masks left aside.

    Args:
        faulty: see `repaired`: boxes outside of their image or without a side.

    Raises:
        ValueError: no such JSON, a number twice, an annotation of an image or category that is not there, a
            box that is no box; where it stands is named.
    """
    record = _json(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path}: is no COCO annotation file, which is an object: give one")
    images = _rows(path, record, "images")
    categories = sorted(_rows(path, record, "categories"), key=lambda row: _whole(path, row, "id"))
    image_place = _places(path, images, "images")
    categories = _told_apart(categories, _rows(path, record, "annotations"))
    category_place = _places(path, categories, "categories")
    sizes = [[_whole(path, row, "height", 1), _whole(path, row, "width", 1)] for row in images]
    size = np.array(sizes, np.int64).reshape(-1, 2)
    where, boxes, image, label, crowd, area = [], [], [], [], [], []
    for i, row in enumerate(_rows(path, record, "annotations")):
        here = f"{path}: annotation {row.get('id', i)!r}"
        where.append(here)
        image.append(_known(here, row, "image_id", image_place))
        label.append(_known(here, row, "category_id", category_place))
        boxes.append(_box(here, row))
        crowd.append(bool(_number(here, row.get("iscrowd", 0), "iscrowd")))
        width, height = boxes[-1][2] - boxes[-1][0], boxes[-1][3] - boxes[-1][1]
        area.append(_number(here, row.get("area", width * height), "area"))
    index = np.array(image, np.int64)
    inside, kept = repaired(np.array(boxes, np.float64).reshape(-1, 4), size[index], where, faulty)
    columns = (np.array(column) for column in (crowd, area))
    crowds, areas = (column[kept] if len(column) else None for column in columns)
    truth = GroundTruth(index[kept], np.array(label, np.int64)[kept], inside, None, crowds, areas)
    files, classes = (
        tuple(_text(path, row, name) for row in rows)
        for rows, name in ((images, "file_name"), (categories, "name"))
    )
    return Annotations(files, size, classes, truth, tuple(image_place), tuple(category_place))


def _told_apart(categories: list[Any], annotations: Any) -> list[Any]:
    """Without categories of no annotation that have the name of another, as some tools write for a parent."""
    used = {str(row.get("category_id")) for row in annotations}
    names = Counter(str(row.get("name")) for row in categories)
    return [row for row in categories if str(row.get("id")) in used or names[str(row.get("name"))] < 2]


def write_coco(path: str | os.PathLike[str], annotations: Annotations) -> None:
    """What `read_coco` reads, whole or not at all. `difficult` boxes are written as crowds: COCO has no other
    way to leave an object out of account.
    """
    truth = annotations.truth
    crowd = np.asarray(truth.crowd) | np.asarray(truth.difficult)
    record = {
        "images": [
            {"id": number, "file_name": file, "height": height, "width": width}
            for number, file, (height, width) in zip(
                annotations.image_ids, annotations.files, annotations.sizes.tolist(), strict=True
            )
        ],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(annotations.category_ids, annotations.classes, strict=True)
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": annotations.image_ids[truth.image_index[i]],
                "category_id": annotations.category_ids[truth.labels[i]],
                "bbox": _xywh(truth.boxes[i].tolist()),
                "area": float(np.asarray(truth.areas)[i]),
                "iscrowd": int(crowd[i]),
            }
            for i in range(len(truth))
        ],
    }
    write_bytes(path, json.dumps(record).encode())


def read_coco_detections(path: str | os.PathLike[str], annotations: Annotations) -> Detections:
    """A list of {"image_id", "category_id", "bbox", "score"}; boxes may reach outside of their image.

    Raises:
        ValueError: no such list, or an entry of an image or category that `annotations` lacks.
    """
    rows = _json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: is no list of COCO detections: give one")
    image_place = {number: i for i, number in enumerate(annotations.image_ids)}
    category_place = {number: i for i, number in enumerate(annotations.category_ids)}
    image, label, score, boxes = [], [], [], []
    for i, row in enumerate(rows):
        here = f"{path}: detection {i}"
        image.append(_known(here, row, "image_id", image_place))
        label.append(_known(here, row, "category_id", category_place))
        score.append(_number(here, row.get("score"), "score"))
        boxes.append(_box(here, row))
    columns = (np.array(image, np.int64), np.array(label, np.int64), np.array(score, np.float64))
    return Detections(*columns, np.array(boxes, np.float64).reshape(-1, 4))


def write_coco_detections(
    path: str | os.PathLike[str], detections: Detections, annotations: Annotations
) -> None:
    """What pycocotools' loadRes and `read_coco_detections` read.

    Raises:
        ValueError: an image or class that `annotations` lacks.
    """
    for name, ids in (("image_index", annotations.image_ids), ("labels", annotations.category_ids)):
        column = getattr(detections, name)
        if len(column) and column.max() >= len(ids):
            raise ValueError(f"detections: {name} has {column.max()}, the annotations have {len(ids)}")
    rows = [
        {
            "image_id": annotations.image_ids[image],
            "category_id": annotations.category_ids[label],
            "bbox": _xywh(box),
            "score": score,
        }
        for image, label, score, box in zip(
            *(getattr(detections, name).tolist() for name in ("image_index", "labels", "scores", "boxes")),
            strict=True,
        )
    ]
    write_bytes(path, json.dumps(rows).encode())


def _json(path: str | os.PathLike[str]) -> Any:
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise ValueError(f"{path}: is over {MAX_BYTES // 2**20} MiB: split it")
        return json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): give a JSON file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({error}): save it as COCO's JSON") from None


def _rows(path: Any, record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = record.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: {name} must be a list of objects: is this a COCO annotation file?")
    return rows


def _places(path: Any, rows: Sequence[Mapping[str, Any]], name: str) -> dict[int, int]:
    places: dict[int, int] = {}
    for row in rows:
        number = _whole(path, row, "id")
        if number in places:
            raise ValueError(f"{path}: {name} has id {number} twice: number them anew")
        places[number] = len(places)
    return places


def _known(here: str, row: Mapping[str, Any], name: str, places: Mapping[int, int]) -> int:
    number = row.get(name)
    if not isinstance(number, int) or number not in places:
        some = ", ".join(map(str, list(places)[:5]))
        raise ValueError(f"{here}: {name} {number!r} is unknown, known are {some}, ...: correct it")
    return places[number]


def _whole(path: Any, row: Mapping[str, Any], name: str, least: int | None = None) -> int:
    number = row.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or (least is not None and number < least):
        raise ValueError(f"{path}: {name} must be a whole number, got {number!r} in {str(dict(row))[:80]}")
    return number


def _text(path: Any, row: Mapping[str, Any], name: str) -> str:
    text = row.get(name)
    if not isinstance(text, str) or not text:
        raise ValueError(f"{path}: {name} must be a name, got {text!r} in {str(dict(row))[:80]}")
    return text


def _number(here: str, number: Any, name: str) -> float:
    if isinstance(number, bool | int | float) and math.isfinite(number):
        return float(number)
    raise ValueError(f"{here}: {name} must be a number, got {number!r}")


def _box(here: str, row: Mapping[str, Any]) -> list[float]:
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"{here}: bbox must be [x, y, width, height], got {str(box)[:60]}")
    x, y, width, height = (_number(here, number, "bbox") for number in box)
    if width < 0 or height < 0:
        raise ValueError(f"{here}: bbox {box} has a negative side: is it x1, y1, x2, y2?")
    return [x, y, x + width, y + height]


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, _side(x1, x2), _side(y1, y2)]


def _side(low: float, high: float) -> float:
    """A side with low + side == high in floating point, where there is one."""
    side = high - low
    for near in (side, math.nextafter(side, 0), math.nextafter(side, math.inf)):
        if low + near == high:
            return near
    return side
