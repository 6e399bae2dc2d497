"""Non-maximum suppression against the greedy loop.

Coordinates are multiples of 1/8 pixel in images of 256, so that areas are exact in float32: only the
algorithms can differ. IoUs of exactly the threshold occur.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.detection import class_nms, nms


def some_boxes(rng, count, around=12):
    centres = rng.integers(0, 256, (around, 2))
    middle = centres[rng.integers(0, around, count)] + rng.integers(-32, 33, (count, 2)) / 8
    half = rng.integers(64, 129, (count, 2)) / 16
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    return (np.round(boxes * 8) / 8).astype(np.float32)


def greedy(boxes, scores, threshold, mask=None, unit=0):
    """One box after the other, as in the text books."""
    boxes = boxes.astype(np.float32)
    order = [i for i in np.argsort(-scores, kind="stable") if mask is None or mask[i]]
    kept = []
    for i in order:
        for j in kept:
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]) + np.float32(unit)
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]) + np.float32(unit)
            if w <= 0 or h <= 0:
                continue
            area_i, area_j = (np.prod(boxes[k, 2:] - boxes[k, :2] + np.float32(unit)) for k in (i, j))
            if w * h / (area_i + area_j - w * h) > np.float32(threshold):
                break
        else:
            kept.append(int(i))
    return kept


def indices(found):
    return np.asarray(found.indices)[np.asarray(found.valid)].tolist()


traces = []


@jax.jit
def suppress(boxes, scores, threshold, mask):
    traces.append(1)
    return nms(boxes, scores, threshold, 300, mask=mask)


@jax.jit
def suppress_few(boxes, scores, threshold, mask):
    return nms(boxes, scores, threshold, 4, mask=mask)


def few(boxes, scores, threshold, mask=None):
    """Up to four boxes, with one compilation for all."""
    short = 4 - len(boxes)
    mask = np.ones(len(boxes), bool) if mask is None else np.asarray(mask)
    boxes, scores = np.pad(boxes, ((0, short), (0, 0))), np.pad(scores, (0, short))
    found = suppress_few(
        jnp.asarray(boxes, jnp.float32),
        jnp.asarray(scores, jnp.float32),
        jnp.float32(threshold),
        jnp.asarray(np.pad(mask, (0, short))),
    )
    return indices(found)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_kept_are_those_of_the_greedy_loop(threshold):
    """300 boxes are five blocks; scores of few values tie."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        boxes = some_boxes(rng, 300)
        scores = (rng.integers(0, 40, 300) if seed % 2 else rng.uniform(size=300)).astype(np.float32)
        mask = rng.uniform(size=300) < (1.0 if seed < 2 else 0.6)
        found = suppress(*map(jnp.asarray, (boxes, scores, np.float32(threshold), mask)))
        expected = greedy(boxes, scores, threshold, mask)
        assert 5 < len(expected) < 0.9 * mask.sum()
        assert indices(found) == expected
    assert len(traces) == 1


def test_long_chains_within_a_block_and_across():
    """Each box overlaps the next one alone: greedy keeps every second."""
    x = 6.0 * np.arange(300)
    boxes = np.stack([x, 0 * x, x + 10, 0 * x + 10], axis=1).astype(np.float32)
    scores = -np.arange(300, dtype=np.float32)
    found = suppress(jnp.asarray(boxes), jnp.asarray(scores), jnp.float32(0.2), jnp.ones(300, bool))
    assert indices(found) == list(range(0, 300, 2))


def test_a_suppressed_box_suppresses_nothing():
    """IoU(1, 2) = IoU(2, 3) = 0.43, IoU(1, 3) = 0.11: 1 and 3 stay, also at 0.3."""
    boxes = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]
    assert few(boxes, [0.9, 0.8, 0.7], 0.3) == [0, 2]


def test_an_overlap_of_exactly_the_threshold_stays_and_ties_go_to_the_first():
    boxes = [[0, 0, 2, 1], [0, 0, 4, 1], [0, 0, 4, 1]]
    assert few(boxes, [1, 1, 1], 0.5) == [0, 1]
    assert few(boxes, [1, 1, 2], 0.5) == [2, 0]


def test_inclusive_pixels_overlap_more():
    boxes = np.array([[0, 0, 1, 1], [1, 0, 2, 1], [9, 9, 12, 12]], np.float32)
    scores = np.array([1, 2, 0], np.float32)
    for convention, unit in (("half_open", 0), ("inclusive", 1)):
        found = nms(jnp.asarray(boxes), jnp.asarray(scores), 0.3, 3, convention=convention)
        assert indices(found) == greedy(boxes, scores, 0.3, unit=unit)
    assert len(indices(found)) == 2


@pytest.mark.parametrize("count", [1, 20, 400])
def test_a_limit_takes_the_best_that_all_would_keep(count):
    rng = np.random.default_rng(7)
    boxes, scores = some_boxes(rng, 300), rng.uniform(size=300).astype(np.float32)
    found = jax.jit(nms, static_argnums=3)(jnp.asarray(boxes), jnp.asarray(scores), 0.5, count)
    assert found.indices.shape == found.valid.shape == (count,)
    assert indices(found) == greedy(boxes, scores, 0.5)[:count]


def test_what_has_no_score_does_not_exist():
    boxes, scores = [[0, 0, 4, 4]] * 4, [np.nan, -np.inf, -5, np.inf]
    assert few(boxes, scores, 0.5) == [3]
    assert few(boxes, scores, 0.5, [True, True, True, False]) == [2]
    assert few(boxes, scores, 0.5, [False] * 4) == []
    assert indices(nms(jnp.zeros((0, 4)), jnp.zeros(0), 0.5, 4)) == []


def test_a_loss_behind_it_has_gradients():
    """Of what it chose, and none through the choice."""
    boxes = jnp.array([[0, 0, 4, 4], [0, 0, 4, 5], [8, 8, 9, 9], [0, 0, 0, 0]], jnp.float32)
    mask = jnp.array([True, True, True, False])

    @jax.jit
    @jax.grad
    def slope(scores):
        found = suppress_few(boxes, scores, jnp.float32(0.5), mask)
        return jnp.sum(jnp.where(found.valid, scores[found.indices] ** 2, 0.0))

    np.testing.assert_array_equal(slope(jnp.array([1.0, 3.0, 2.0, 9.0])), [0, 6, 4, 0])


def test_boxes_of_padding_are_apart_from_all():
    """Boxes without area overlap nothing, not even each other: only a mask removes them."""
    assert few(np.zeros((3, 4)), [1, 1, 1], 0.3) == [0, 1, 2]


def test_images_and_classes_at_once_are_the_same_as_one_by_one():
    rng = np.random.default_rng(3)
    boxes = np.stack([some_boxes(rng, 40, 4) for _ in range(3)])
    scores = rng.integers(0, 9, (3, 40)).astype(np.float32)
    mask = rng.uniform(size=(3, 40)) < 0.8
    found = jax.jit(jax.vmap(lambda b, s, m: nms(b, s, 0.5, 10, mask=m)))(
        *map(jnp.asarray, (boxes, scores, mask))
    )
    for i in range(3):
        one = np.asarray(found.indices[i])[np.asarray(found.valid[i])].tolist()
        assert one == greedy(boxes[i], scores[i], 0.5, mask[i])[:10]
    each = jax.jit(lambda b, s, m: class_nms(b, s, 0.3, 40, mask=m))
    common = each(*map(jnp.asarray, (boxes[0], scores.T, mask[0])))
    own = each(*map(jnp.asarray, (boxes.transpose(1, 0, 2), scores.T, mask.T)))
    for c in range(3):
        kept = [np.asarray(k.indices[c])[np.asarray(k.valid[c])].tolist() for k in (common, own)]
        assert kept[0] == greedy(boxes[0], scores[c], 0.3, mask[0])
        assert kept[1] == greedy(boxes[c], scores[c], 0.3, mask[c])
