"""Targets of anchors and proposals, balanced sampling and hard examples, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.detection import (
    AnchorConfig,
    anchors,
    assign_anchors,
    assign_proposals,
    hardest,
    inside,
    sample_balanced,
    with_truth,
)


def iou_of(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def some_truth(seed):
    """Four places, of which some hold no box."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 24, (4, 2))
    truth = np.concatenate([low, low + rng.integers(6, 24, (4, 2))], axis=1).astype(np.float32)
    mask = np.array([True, seed % 2 == 0, True, False])
    return truth, mask if seed else np.zeros(4, bool)


def overlaps(boxes, truth, truth_mask, mask):
    return np.array(
        [
            [iou_of(b, t) if m and there else -1 for t, there in zip(truth, truth_mask, strict=True)]
            for b, m in zip(boxes, mask, strict=True)
        ]
    )


PLACES = np.asarray(anchors(32, 32, AnchorConfig(strides=(8, 16), scale=2.0)))
assign = jax.jit(assign_anchors, static_argnames=("foreground", "background", "best"))
propose = jax.jit(assign_proposals, static_argnames="background")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("best", [True, False])
def test_anchors_are_labelled_as_by_a_loop(seed, best):
    truth, truth_mask = some_truth(seed)
    mask = np.asarray(inside(jnp.asarray(PLACES), 32, 32, 4))
    iou = overlaps(PLACES, truth, truth_mask, mask)
    label = np.full(len(PLACES), -1)
    for a in range(len(PLACES)):
        if mask[a]:
            label[a] = 1 if iou[a].max() >= 0.6 else 0 if iou[a].max() < 0.3 else -1
    for g in range(4):
        if best and truth_mask[g] and iou[:, g].max() > 0:
            label[iou[:, g].argmax()] = 1
    found = assign(
        *map(jnp.asarray, (PLACES, truth, truth_mask)),
        foreground=0.6,
        background=0.3,
        best=best,
        mask=jnp.asarray(mask),
    )
    np.testing.assert_array_equal(found.label, label)
    np.testing.assert_array_equal(found.matched, iou.argmax(axis=1))
    np.testing.assert_allclose(found.iou, np.maximum(iou.max(axis=1), 0), rtol=1e-5)
    if seed == 0:
        np.testing.assert_array_equal(found.label, np.where(mask, 0, -1))


def test_worked_anchors():
    """IoU 0.8, 0.5, 0.2 and 0.4; the last is the second box's best, although below every threshold."""
    boxes = jnp.array([[0, 0, 8, 10], [0, 0, 5, 10], [0, 0, 2, 10], [20, 0, 24, 10]], jnp.float32)
    truth = jnp.array([[0, 0, 10, 10], [20, 0, 30, 10]], jnp.float32)
    found = assign(boxes, truth, jnp.ones(2, bool))
    np.testing.assert_array_equal(found.label, [1, -1, 0, 1])
    np.testing.assert_array_equal(found.matched, [0, 0, 0, 1])
    np.testing.assert_allclose(found.iou, [0.8, 0.5, 0.2, 0.4], rtol=1e-6)
    none = assign(boxes, jnp.zeros((0, 4)), jnp.zeros(0, bool))
    np.testing.assert_array_equal(none.label, [0] * 4)


def test_only_the_first_of_equally_good_anchors_is_the_best():
    boxes = jnp.array([[0, 0, 4, 4], [4, 0, 8, 4]], jnp.float32)
    found = assign(boxes, jnp.array([[2.0, 0.0, 6.0, 4.0]]), jnp.ones(1, bool))
    np.testing.assert_array_equal(found.label, [1, -1])


@pytest.mark.parametrize("seed", range(4))
def test_proposals_get_the_label_of_the_box_they_overlap_most(seed):
    truth, truth_mask = some_truth(seed)
    rng = np.random.default_rng(seed)
    boxes = (truth[rng.integers(0, 4, 20)] + rng.integers(-3, 4, (20, 4))).astype(np.float32)
    mask = rng.uniform(size=20) < 0.8
    labels = np.array([2, 0, 1, 2], np.int32)
    iou = overlaps(boxes, truth, truth_mask, mask)
    expected = np.where(iou.max(axis=1) >= 0.5, labels[iou.argmax(axis=1)], 3)
    found = propose(*map(jnp.asarray, (boxes, mask, truth, labels, truth_mask)), background=3)
    np.testing.assert_array_equal(found.label, np.where(mask, expected, -1))
    np.testing.assert_array_equal(found.matched, iou.argmax(axis=1))


def test_true_boxes_join_the_proposals():
    truth, truth_mask = map(jnp.asarray, some_truth(1))
    labels = jnp.array([2, 0, 1, 2])
    boxes, mask = with_truth(jnp.full((3, 4), 90.0), jnp.array([True, False, True]), truth, truth_mask)
    found = propose(boxes, mask, truth, labels, truth_mask, background=3)
    np.testing.assert_array_equal(found.label, [3, -1, 3, 2, -1, 1, -1])
    np.testing.assert_array_equal(found.matched[jnp.array([3, 5])], [0, 2])
    empty = propose(boxes[:3], mask[:3], truth[:0], labels[:0], truth_mask[:0], background=3)
    np.testing.assert_array_equal(empty.label, [3, -1, 3])


def test_images_at_once_are_the_same_as_one_by_one():
    truth, mask = (jnp.asarray(np.stack(parts)) for parts in zip(*map(some_truth, range(3)), strict=True))
    many = jax.vmap(assign, (None, 0, 0))(jnp.asarray(PLACES), truth, mask)
    for i in range(3):
        one = assign(jnp.asarray(PLACES), truth[i], mask[i])
        jax.tree.map(lambda m, o, i=i: np.testing.assert_array_equal(m[i], o), many, one)


# Sampling

draw = jax.jit(sample_balanced, static_argnums=(2, 3))


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [(20, 20, (4, 4)), (2, 20, (2, 6)), (0, 20, (0, 8)), (20, 3, (4, 3)), (1, 1, (1, 1)), (0, 0, (0, 0))],
)
def test_a_sample_has_its_share_of_foreground(positive, negative, expected):
    label = np.full(50, -1)
    places = np.random.default_rng(0).permutation(50)
    label[places[:positive]] = 1 + np.arange(positive) % 3
    label[places[positive : positive + negative]] = 0
    for seed in range(3):
        found = draw(jax.random.key(seed), jnp.asarray(label), 8, 0.5)
        index = np.asarray(found.indices)[np.asarray(found.valid)]
        assert len(set(index.tolist())) == len(index)
        assert ((label[index] > 0).sum(), (label[index] == 0).sum()) == expected
        assert (label[index] >= 0).all()
        np.testing.assert_array_equal(np.diff(np.asarray(found.valid).astype(int)) <= 0, True)
        np.testing.assert_array_equal(np.diff((label[index] > 0).astype(int)) <= 0, True)


def test_every_box_of_a_kind_is_drawn_equally_often():
    label = jnp.array([1, 0, 0, 1, -1, 0, 1, 0])
    keys = jax.random.split(jax.random.key(1), 4_000)
    member = jax.jit(jax.vmap(lambda key: sample_balanced(key, label, 4, 0.5).member(8)))(keys)
    share = np.asarray(member).mean(axis=0)
    np.testing.assert_allclose(share, [2 / 3, 0.5, 0.5, 2 / 3, 0, 0.5, 2 / 3, 0.5], atol=0.035)


def test_more_are_wanted_than_there_are():
    found = draw(jax.random.key(0), jnp.array([1, 0, -1]), 6, 0.5)
    np.testing.assert_array_equal(found.valid, [True, True, False, False, False, False])
    np.testing.assert_array_equal(found.indices[:2], [0, 1])


# Hard examples


mine = jax.jit(hardest, static_argnums=2)


@pytest.mark.parametrize("seed", range(3))
def test_the_hardest_are_those_of_a_sort(seed):
    rng = np.random.default_rng(seed)
    losses = rng.integers(0, 6, 30).astype(np.float32)  # ties
    mask = rng.uniform(size=30) < (0.7 if seed else 0.2)
    order = sorted(np.flatnonzero(mask), key=lambda i: (-losses[i], i))[:10]
    found = mine(jnp.asarray(losses), jnp.asarray(mask), 10)
    np.testing.assert_array_equal(np.asarray(found.indices)[np.asarray(found.valid)], order)
    np.testing.assert_array_equal(np.asarray(found.valid), np.arange(10) < mask.sum())


def test_ranking_has_no_gradient_and_what_is_ignored_gets_none():
    losses = jnp.array([3.0, 9.0, 1.0, 5.0])

    def mined(losses):
        found = mine(losses, jnp.array([True, False, True, True]), 2)
        return jnp.sum(jnp.where(found.valid, losses[found.indices], 0.0))

    value, slope = jax.value_and_grad(mined)(losses)
    assert float(value) == 8
    np.testing.assert_array_equal(slope, [1, 0, 0, 1])


def test_a_loss_of_nan_is_not_hidden():
    found = mine(jnp.array([3.0, jnp.nan, 5.0, jnp.nan]), jnp.array([True, True, True, False]), 2)
    np.testing.assert_array_equal(found.indices, [1, 2])
