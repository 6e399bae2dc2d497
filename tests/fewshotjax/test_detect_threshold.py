"""The score from which on boxes are shown, with a finder that says what it is told."""

import jax
import numpy as np
import pytest

from fewshotjax.detection import threshold as threshold_module
from fewshotjax.detection.finder import Examples, Seen
from fewshotjax.detection.score import Found

KEY = jax.random.key(0)
KNOWN = np.zeros((1, 1)), np.zeros(1, np.int32)


class Scripted:
    """A finder that says what it is told, photograph by photograph."""

    kind, more = "windows", ()

    def look(self):
        """Not asked for."""

    study = fingerprint = look

    def __init__(self, seen):
        self.seen, self.learned = seen, []

    def learn(self, key, shown, keep, ways):
        self.learned.append(keep)

    def anchors(self, model, shown):
        raise AssertionError("known already: nearest examples decide nothing here")

    def judge(self, model, known, sight, size, ways):
        assert known is KNOWN
        return self.seen[int(sight)]


def seen(*found, failed=False):
    """Of (box, label, score), by descending score."""
    boxes, labels, scores = zip(*found, strict=True)
    none = np.zeros(len(found), np.float32)
    return Seen(
        Found(
            np.array(boxes, np.float32),
            np.array(scores, np.float32),
            np.array(labels, np.int32),
            none.astype(np.int32),
            none,
            np.ones(len(found), bool),
        ),
        none.astype(np.int32),
        none,
        np.array(failed),
    )


BOX, FAR, OTHER = [0, 0, 10, 10], [30, 30, 40, 40], [50, 50, 60, 60]


def test_the_threshold_has_the_best_f1_of_photographs_left_out():
    shown = Examples(
        np.zeros((4, 1), np.float32),
        np.array([BOX, FAR, BOX, BOX], np.float32),
        np.array([0, 0, 0, 1], np.int32),
        np.array([0, 0, 1, 1], np.int32),
        np.arange(2),
        np.full((2, 2), 64, np.float32),
    )
    finder = Scripted(
        [
            # The box twice (the second is wrong), the far box late; class 1 is in one photograph alone.
            seen((BOX, 0, 0.9), (BOX, 0, 0.8), (OTHER, 0, 0.4), (FAR, 0, 0.3)),
            seen((OTHER, 0, 0.7), (BOX, 0, 0.6), (BOX, 1, 0.2)),
        ]
    )
    out = threshold_module.leave_photographs_out(KEY, finder, KNOWN, shown, 2)
    assert (out.boxes, out.photographs) == (3, 2)
    order = np.argsort(-out.scores)
    np.testing.assert_allclose(out.scores[order], [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2])
    assert out.right[order].tolist() == [True, False, False, True, False, True, False]
    assert [keep.tolist() for keep in finder.learned] == [
        [False, False, True, True],
        [True, True, False, False],
    ]
    chosen = threshold_module.choose_threshold(KEY, finder, None, KNOWN, shown, 2)
    f1 = {
        least: 2 * out.right[out.scores >= least].sum() / ((out.scores >= least).sum() + 3)
        for least in out.scores.tolist()
    }
    best = max(f1, key=lambda least: (f1[least], least))
    assert best == pytest.approx(0.3)
    assert chosen.score == pytest.approx((0.3 + 0.2) / 2)  # half way to the next


def test_what_lies_on_a_crowd_is_neither_right_nor_false():
    crowd = np.zeros((2, 1, 4), np.float32)
    crowd[0, 0] = [28, 28, 64, 64]
    shown = Examples(
        np.zeros((2, 1), np.float32),
        np.array([BOX, BOX], np.float32),
        np.zeros(2, np.int32),
        np.arange(2, dtype=np.int32),
        np.arange(2),
        np.full((2, 2), 64, np.float32),
        crowd,
    )
    finder = Scripted([seen((BOX, 0, 0.9), (FAR, 0, 0.8)), seen((FAR, 0, 0.7), (BOX, 0, 0.6))])
    out = threshold_module.leave_photographs_out(KEY, finder, KNOWN, shown, 1)
    right = dict(zip(out.scores.round(1).tolist(), out.right.tolist(), strict=True))
    assert right == {0.9: True, 0.7: False, 0.6: True}


def test_the_threshold_of_one_photograph_is_above_all_beside_its_boxes():
    shown = Examples(
        np.zeros((1, 1), np.float32),
        np.array([BOX], np.float32),
        np.zeros(1, np.int32),
        np.zeros(1, np.int32),
        np.arange(1),
        np.full((1, 2), 64, np.float32),
    )
    finder = Scripted([seen((BOX, 0, 0.9), (FAR, 0, 0.75), (OTHER, 0, 0.1))])
    chosen = threshold_module.choose_threshold(KEY, finder, None, KNOWN, shown, 1)
    assert chosen.score == pytest.approx(0.75)
    assert chosen.score > np.float32(0.75)
    assert "the highest score beside the support boxes, a guess" in chosen.note
    finder = Scripted([seen((BOX, 0, 0.9), (FAR, 0, 0.25))])
    assert threshold_module.choose_threshold(KEY, finder, None, KNOWN, shown, 1).score == 0.5
    finder = Scripted([seen((BOX, 0, 0.9), failed=True)])
    with pytest.raises(ValueError, match="scores in support photograph 0 are NaN"):
        threshold_module.choose_threshold(KEY, finder, None, KNOWN, shown, 1)
