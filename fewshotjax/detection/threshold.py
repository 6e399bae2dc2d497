"""From which score on a box is shown to people: each support photograph is looked at by the others' classes.

A few examples calibrate nothing. But what classes learned without a photograph find in it tells which scores
true boxes get, and which false ones. In NumPy, as it is done once for some classes.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from .finder import Examples, Finder, Seen
from .metrics.overlap import on_crowds, table_iou

IOU = 0.5  # from which on a detection has found a box
CLEAR = 0.3  # IoU up to which a detection overlaps with no support box, of whatever class
EVEN = 0.5  # score of what is as likely of the class as not
MOST = 20  # photographs that are left out in turn at most, evenly spread

Known = tuple[np.ndarray, np.ndarray]  # of `Finder.anchors`


class LeftOut(NamedTuple):
    """Detections in photographs that were left out."""

    scores: Float[np.ndarray, " D"]
    right: Bool[np.ndarray, " D"]
    boxes: int  # that could be found
    photographs: int


class Threshold(NamedTuple):
    """A score and what was assumed."""

    score: float
    note: str


def leave_photographs_out(
    key: PRNGKeyArray, finder: Finder, known: Known, shown: Examples, ways: int
) -> LeftOut:
    """Of photographs that show a class which another one shows, too.

    A detection is right where it is the surest on a box of its class that no other has found.
    """
    counts = np.zeros((len(shown.sizes), ways), int)
    np.add.at(counts, (shown.image, shown.labels), 1)
    elsewhere = counts.sum(axis=0)[None] - counts > 0
    rows = np.flatnonzero(((counts > 0) & elsewhere).any(axis=1))
    if len(rows) > MOST:
        rows = rows[np.linspace(0, len(rows) - 1, MOST).astype(int)]
    scores: list[float] = []
    right: list[bool] = []
    boxes = 0
    for row in rows.tolist():
        keep = shown.image != row
        model = finder.learn(key, shown, keep, ways)
        seen = _seen(finder, model, known, shown, row, ways)
        here = (shown.image == row) & elsewhere[row][shown.labels]
        boxes += int(here.sum())
        hit = _matched(seen, shown.boxes[here], shown.labels[here])
        # A class that no other photograph shows cannot be found, and one not shown here may well be there.
        counted = np.asarray(seen.found.valid) & (np.asarray(seen.found.labels) < ways)
        counted &= hit | ~_on_crowds(seen, shown, row)  # what lies on a crowd is neither right nor false
        scores += np.asarray(seen.found.scores)[counted].tolist()
        right += hit[counted].tolist()
    return LeftOut(np.array(scores, np.float64), np.array(right, bool), boxes, len(rows))


def choose_threshold(
    key: PRNGKeyArray, finder: Finder, model: object, known: Known, shown: Examples, ways: int
) -> Threshold:
    """The score from which on F1 = 2 TP / (found + boxes) is the largest, of photographs left out, half way
    to the next lower one. Where none can be: 0.5, or more where something beside the support boxes of a
    photograph has more.

    Args:
        known: `anchors` of the model. What is the nearest example decides nothing here, so that they need not
            be those of each model without a photograph.

    Raises:
        ValueError: scores that are NaN.
    """
    out = leave_photographs_out(key, finder, known, shown, ways)
    if out.right.any():
        order = np.argsort(-out.scores, kind="stable")
        f1 = 2 * np.cumsum(out.right[order]) / (np.arange(1, len(order) + 1) + out.boxes)
        best = int(np.argmax(f1))
        falling = np.append(out.scores[order], 0.0)
        score = float(falling[best] + falling[best + 1]) / 2  # so that a little less sure ones are in, too
        return Threshold(
            score,
            f"threshold {score:.3g}: best F1 ({f1[best]:.2f}) on {out.photographs} support photographs, "
            f"{out.boxes} boxes, each looked at by classes of the others; this takes for granted that all "
            "that belongs to the classes has a box there",
        )
    beside = [0.0]  # they are examples of these classes, so that little beside them looks like one
    for row in range(len(shown.sizes)):
        seen = _seen(finder, model, known, shown, row, ways)
        boxes = shown.boxes[shown.image == row]
        clear = table_iou(np.asarray(seen.found.boxes), boxes).max(axis=1, initial=0.0) <= CLEAR
        clear &= np.asarray(seen.found.valid) & ~_on_crowds(seen, shown, row)
        beside += np.asarray(seen.found.scores)[clear].tolist()
    highest = max(beside)
    score = EVEN if highest < EVEN else min(float(np.nextafter(np.float32(highest), np.float32(np.inf))), 1.0)
    reason = "no class is in two photographs" if not out.photographs else "nothing left out was found again"
    how = "as likely as not" if score == EVEN else "the highest score beside the support boxes"
    return Threshold(score, f"threshold {score:.3g}, {how}, a guess: {reason}")


def _seen(finder: Finder, model: object, known: Known, shown: Examples, row: int, ways: int) -> Seen:
    sight = jax.tree.map(lambda leaf: leaf[row], shown.sights)
    seen = finder.judge(model, known, sight, shown.sizes[row], ways)
    if seen.failed:
        raise ValueError(
            f"scores in support photograph {row} are NaN: use another method, tuning or detector"
        )
    return seen


def _on_crowds(seen: Seen, shown: Examples, row: int) -> Bool[np.ndarray, " K"]:
    return on_crowds(np.asarray(seen.found.boxes), shown.ignored_in(row), inside=IOU, iou=IOU)


def _matched(seen: Seen, boxes: Float[np.ndarray, "G 4"], labels: np.ndarray) -> Bool[np.ndarray, " K"]:
    """Which detections are the first on a box of their class; they come by descending score."""
    iou = table_iou(np.asarray(seen.found.boxes), boxes)
    iou[np.asarray(seen.found.labels)[:, None] != labels[None]] = 0
    hit, free = np.zeros(len(iou), bool), np.ones(len(boxes), bool)
    for row in np.flatnonzero(np.asarray(seen.found.valid)).tolist():
        over = np.where(free, iou[row], 0)
        if len(over) and over.max() >= IOU:
            hit[row], free[int(over.argmax())] = True, False
    return hit
