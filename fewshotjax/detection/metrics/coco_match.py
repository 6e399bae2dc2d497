"""COCO's assignment of detections to objects, for all images, classes, thresholds and sizes at once."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from fewshotjax.detection.metrics.overlap import paired_iou, pairs
from fewshotjax.detection.metrics.records import Detections, GroundTruth, areas

IOUS = np.linspace(0.5, 0.95, 10)
SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MOST = 100  # detections of an image and class that are looked at


class Matches(NamedTuple):
    """S sizes, T thresholds; D detections that are looked at, C of them over the least IoU with something."""

    rows: Int[np.ndarray, " D"]  # into the detections: by class, falling score, image
    rank: Int[np.ndarray, " D"]  # 0 for the surest of its image and class
    candidate: Int[np.ndarray, " D"]  # row of `matched`; -1: matches nothing
    matched: Bool[np.ndarray, "C S T"]  # to some object
    ignored: Bool[np.ndarray, "C S T"]  # the object is a crowd, or not of the size
    outside: Bool[np.ndarray, "D S"]  # not of the size: no false positive where it is unmatched
    counted: Bool[np.ndarray, "M S"]  # objects to be found


def coco_match(detections: Detections, truth: GroundTruth) -> Matches:
    """By falling score, each detection takes the free object of its image and class that it overlaps most;
    objects that count before those that are ignored, the last of equals. A crowd is always free.
    """
    limits = np.array(list(SIZES.values()))
    crowd = np.asarray(truth.crowd)
    size = np.asarray(truth.areas)[:, None]
    counted = (size >= limits[:, 0]) & (size <= limits[:, 1]) & ~crowd[:, None]

    by_score = np.lexsort((-detections.scores, detections.labels, detections.image_index))
    group = _numbered(detections.image_index[by_score], detections.labels[by_score])
    rank = _rank(group)
    rows, rank = by_score[rank < MOST], rank[rank < MOST]
    # COCO sorts all images' detections of a class by score, keeping the images' order among equal ones.
    kept = detections.take(rows)
    order = np.lexsort((rank, kept.image_index, -kept.scores, kept.labels))
    rows, rank = rows[order], rank[order]
    own = areas(detections.boxes[rows])[:, None]
    outside = (own < limits[:, 0]) | (own > limits[:, 1])

    labels = max((int(one.labels.max()) for one in (detections, truth) if len(one)), default=0) + 1
    keys = (one.image_index * labels + one.labels for one in (detections.take(rows), truth))
    pair = pairs(*keys)
    overlap = paired_iou(
        detections.boxes[rows][pair.detection], truth.boxes[pair.truth], crowd=crowd[pair.truth]
    )
    near = overlap >= _least(IOUS)[0]
    candidates = np.unique(pair.detection[near])
    candidate = np.full(len(rows), -1)
    candidate[candidates] = np.arange(len(candidates))
    pair_rows = candidate[pair.detection]
    some = pair_rows >= 0
    matched, ignored = _greedy(
        pair_rows[some], pair.truth[some], overlap[some], rank[candidates], counted, crowd
    )
    return Matches(rows, rank, candidate, matched, ignored, outside, counted)


def _greedy(
    detection: Int[np.ndarray, " P"],
    truth: Int[np.ndarray, " P"],
    overlap: Float[np.ndarray, " P"],
    rank: Int[np.ndarray, " C"],
    counted: Bool[np.ndarray, "M S"],
    crowd: Bool[np.ndarray, " M"],
) -> tuple[Bool[np.ndarray, "C S T"], Bool[np.ndarray, "C S T"]]:
    """Step r matches the detections of rank r of all images and classes: they share no object."""
    shape = (len(rank), len(SIZES), len(IOUS))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    taken = np.zeros((len(crowd), *shape[1:]), bool)
    step = rank[detection]
    for r in np.unique(step):
        at = np.flatnonzero(step == r)
        rows, local = np.unique(detection[at], return_inverse=True)
        slot = _rank(local)  # pairs are ordered by detection
        pair = np.full((len(rows), int(slot.max()) + 1), -1)
        pair[local, slot] = at
        there = pair >= 0
        objects = truth[pair]
        iou = np.where(there, overlap[pair], -1.0)[:, :, None, None]  # (n, G, 1, 1)
        free = (there & crowd[objects])[:, :, None, None] | ~taken[objects]
        able = free & (iou >= _least(IOUS))
        counts = counted[objects][..., None]
        found = np.zeros((len(rows), *shape[1:]), bool)
        chosen = np.zeros(found.shape, np.int64)
        for kind in (counts, ~counts):
            # From the end: argmax returns the first of equals.
            value = np.where(able & kind, iou, -1.0)[:, ::-1]
            slots = iou.shape[1] - 1 - value.argmax(axis=1)
            new = ~found & (value.max(axis=1) > 0)
            chosen = np.where(new, slots, chosen)
            found |= new
        target = objects[np.arange(len(rows))[:, None, None], chosen]
        sizes, thresholds = np.arange(shape[1])[:, None], np.arange(shape[2])
        matched[rows] = found
        ignored[rows] = found & ~counted[target, sizes]
        taken[target, sizes, thresholds] |= found
    return matched, ignored


def _least(ious: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """COCO's allowance for rounding at a threshold of 1."""
    return np.minimum(ious, 1 - 1e-10)


def _numbered(*columns: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Numbers runs of equal rows of sorted columns."""
    new = np.zeros(len(columns[0]), bool)
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.cumsum(new)


def _rank(group: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Place within its run, of sorted groups."""
    if not len(group):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    return np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
