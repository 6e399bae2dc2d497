"""Find new classes in photographs."""

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from ..classifier_fingerprint import image_digests
from .detector import Detector
from .detector_files import load_detector
from .finder import TOGETHER, Seen
from .found_objects import FoundObjects
from .metrics.records import Detections
from .new_classes import NewClasses
from .photos import Fit, Photos, fit_photos, photos as as_photos
from .pyramid_plugins import plugin_pyramid
from .regions import RegionsChunk
from .sliding import WindowConfig
from .user_support import NAMED
from .windows import Windows

PLUGIN = "efficientnet_lite0"  # of windows


def detector(
    weights: str | os.PathLike[str] | None = None,
    *,
    windows: WindowConfig | None = None,
    per_image: int | None = None,
) -> Detector | Windows:
    """A trained detector, or what stands in its place.

    Args:
        weights: file of `save_detector` or `fewshotjax train-detector`. None: sliding windows over features
            of EfficientNet-Lite0 (extra `pretrained`), which find something at once, though no proposals were
            trained.
        windows: how these are judged.
        per_image: boxes of a photograph at most; None: as the config has it, 100.

    Raises:
        FileNotFoundError: no such file.
        ValueError: per_image below 1; not such a file, or damaged; without weights, that the plugin is not
            installed.
    """
    if weights is None:
        config = windows or WindowConfig()
        return Windows(
            plugin_pyramid(PLUGIN),
            replace(config, per_image=config.per_image if per_image is None else per_image),
        )
    if windows is not None:
        raise ValueError("windows are for weights=None: a trained detector has its own proposals")
    found = load_detector(weights)
    if per_image is None:
        return found
    return replace(found, net=replace(found.net, config=replace(found.net.config, per_image=per_image)))


def detect(
    found: NewClasses,
    photos: Any,
    *,
    threshold: float | None = None,
    unreadable: str = "refuse",
    on_chunk: Callable[[RegionsChunk], Any] | None = None,
) -> FoundObjects:
    """Boxes of the classes in each photograph, in its own pixels, with score and nearest example.

    Photographs are brought to the working size of the classes, in a square, so that one compilation serves
    all shapes. They are read as they are needed.

    Args:
        photos: a folder, zip or tar file, a picture, a list of paths, arrays or PIL images; see `photos`.
        threshold: least score. None: that of the classes; 0: all that the detector gives, up to its
            `per_image`.
        unreadable: what is done with a file that is no picture or damaged: "refuse", or "skip", with a
            warning.
        on_chunk: told of the photographs done.

    Raises:
        ValueError: nothing to read, a damaged file where it is refused; a threshold that is no score;
            scores that are NaN.

    Warns:
        UserWarning: a photograph that is one of the support's, where finding is no test; files skipped.
    """
    least = found.threshold if threshold is None else float(threshold)
    if not 0 <= least <= 1:
        raise ValueError(f"threshold must be a score, 0 to 1, got {threshold}")
    if unreadable not in ("refuse", "skip"):
        raise ValueError(f"unreadable must be 'refuse' or 'skip', got {unreadable!r}")
    given = as_photos(photos)
    known = set(found.digests)
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    rows: list[int] = []
    skipped: list[str] = []
    twins: list[str] = []
    parts: list[tuple[int, Seen, np.ndarray]] = []
    for start in range(0, len(given), TOGETHER):
        began, images = time.monotonic(), []
        for row in range(start, min(start + TOGETHER, len(given))):
            try:
                image = given.read(row)
            except ValueError as error:
                if unreadable == "refuse":
                    raise
                skipped.append(str(error))
                continue
            images.append(image)
            names.append(given.files[row])
            sizes.append((image.shape[0], image.shape[1]))
            rows.append(row)
            if image_digests(image[None])[0] in known:
                twins.append(given.files[row])
        if images:
            fit = fit_photos(images, found.pixels)
            parts += _seen(found, fit, len(names) - len(images))
        if on_chunk is not None:
            done = min(start + TOGETHER, len(given))
            on_chunk(RegionsChunk(done, len(given), time.monotonic() - began))
    if skipped:
        _warn(f"{len(skipped)} files were skipped, the first {skipped[0]}")
    if twins:
        more = f" and {len(twins) - NAMED} more" if len(twins) > NAMED else ""
        some = ", ".join(twins[:NAMED])
        _warn(f"{len(twins)} photographs are of the support, where they are no test: {some}{more}")
    if not names:
        raise ValueError(f"photos has no picture that can be read, the first: {skipped[0]}")
    kept = Photos(tuple(names), lambda row: given.read(rows[row]))
    return _gathered(found, kept, np.array(sizes, np.int64), parts, least)


def _seen(found: NewClasses, fit: Fit, first: int) -> list[tuple[int, Seen, np.ndarray]]:
    sights = found.finder.look(fit.images)
    known = found.embeddings, found.owner
    out = []
    for row in range(len(fit.images)):
        sight = jax.tree.map(lambda leaf, row=row: leaf[row], sights)
        seen = found.finder.judge(found.model, known, sight, fit.sizes[row], found.ways)
        out.append((first + row, jax.device_get(seen), fit.scales[row]))
    return out


def _gathered(
    found: NewClasses,
    photos: Photos,
    sizes: np.ndarray,
    parts: list[tuple[int, Seen, np.ndarray]],
    least: float,
) -> FoundObjects:
    columns: list[list[np.ndarray]] = [[] for _ in range(7)]
    full: list[str] = []
    for row, seen, scale in parts:
        one = seen.found
        keep = one.valid & (one.scores >= least)
        if keep.all():
            full.append(photos.files[row])
        if seen.failed:
            raise ValueError(f"{photos.files[row]}: scores are NaN: use another method or detector")
        limit = np.array([*sizes[row, ::-1], *sizes[row, ::-1]], np.float64)
        boxes = np.minimum(one.boxes[keep].astype(np.float64) / np.concatenate([scale, scale]), limit)
        none = np.full(len(keep), np.nan, np.float32) if one.background is None else one.background
        nearest = np.where(one.labels < found.ways, seen.nearest, -1)
        values = (
            np.full(int(keep.sum()), row),
            one.labels[keep],
            one.scores[keep],
            boxes,
            none[keep],
            nearest[keep],
            seen.distance[keep],
        )
        for column, value in zip(columns, values, strict=True):
            column.append(np.asarray(value))
    if full and least > 0:  # all that there is was asked for otherwise
        _warn(
            f"{len(full)} photographs have {len(keep)} boxes, the most that are kept, the first {full[0]}: "
            "there may be more; raise per_image (detector(per_image=...), --per-image)"
        )
    image, labels, scores, boxes, none, nearest, distance = (np.concatenate(one) for one in columns)
    return FoundObjects(
        found.classes,
        found.category_ids,
        photos.files,
        sizes,
        Detections(image.astype(np.int64), labels.astype(np.int64), scores.astype(np.float64), boxes),
        none.astype(np.float32),
        nearest.astype(np.int32),
        distance.astype(np.float32),
        found.support,
        least,
        photos,
    )


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)
