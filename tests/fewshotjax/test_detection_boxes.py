"""Boxes, their codes and anchors against plain loops and worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fewshotjax.detection import (
    AnchorConfig,
    Chosen,
    anchors,
    areas,
    check_boxes,
    choose,
    clip,
    decode,
    encode,
    inside,
    level_shapes,
    pairwise_iou,
    sides,
    usable,
)

CONVENTIONS = ("half_open", "inclusive")


def some_boxes(seed, count):
    """On whole pixels, so that many touch; the last is padding, the one before it inside out."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-2, 8, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 6, (count, 2))], axis=1).astype(np.float32)
    boxes[-2] = [5, 5, 2, 9]
    boxes[-1] = 0
    return boxes


def iou_of(a, b, unit):
    def area(box):
        return max(box[2] - box[0] + unit, 0) * max(box[3] - box[1] + unit, 0)

    both = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area(a) + area(b) - both
    return both / union if union > 0 else 0.0


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_overlaps_are_those_of_a_loop(convention):
    a, b = some_boxes(0, 12), some_boxes(1, 9)
    unit = 1 if convention == "inclusive" else 0
    expected = [[iou_of(x.tolist(), y.tolist(), unit) for y in b] for x in a]
    np.testing.assert_allclose(pairwise_iou(jnp.asarray(a), jnp.asarray(b), convention), expected, rtol=1e-6)


def test_worked_overlaps():
    a, b = jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 1.0, 3.0, 3.0]])
    assert float(pairwise_iou(a, b)[0, 0]) == pytest.approx(1 / 7)
    assert float(pairwise_iou(a, b, "inclusive")[0, 0]) == pytest.approx(4 / 14)
    np.testing.assert_array_equal(areas(jnp.concatenate([a, jnp.zeros((1, 4))])), [4, 0])
    np.testing.assert_array_equal(areas(a, "inclusive"), [9])
    np.testing.assert_array_equal(sides(jnp.array([[5.0, 1.0, 2.0, 3.0]])), [[-3], [2]])


def test_a_worked_code():
    """A box twice as wide as its anchor and moved by a quarter of its side."""
    anchor, box = jnp.array([[0.0, 0.0, 8.0, 8.0]]), jnp.array([[-2.0, 2.0, 14.0, 10.0]])
    np.testing.assert_allclose(encode(box, anchor)[0], [0.25, 0.25, np.log(2), 0], rtol=1e-6)
    scaled = encode(box, anchor, (0.1, 0.1, 0.2, 0.2))[0]
    np.testing.assert_allclose(scaled, [2.5, 2.5, 5 * np.log(2), 0], rtol=1e-6)
    # Inclusive pixels 0..7 and -2..13, 2..9 are the very same boxes.
    inclusive = [x - jnp.array([[0.0, 0.0, 1.0, 1.0]]) for x in (box, anchor)]
    np.testing.assert_allclose(encode(*inclusive, convention="inclusive"), encode(box, anchor), rtol=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_decoding_undoes_encoding(convention):
    boxes, around = (jnp.asarray(some_boxes(seed, 9)[:-2]) for seed in (0, 1))
    stds = (0.1, 0.1, 0.2, 0.2)
    codes = encode(boxes, around, stds, convention)
    np.testing.assert_allclose(decode(codes, around, stds, convention), boxes, atol=2e-5)


def test_a_decoded_side_has_a_limit():
    anchor = jnp.array([[0.0, 0.0, 16.0, 16.0]])
    found = decode(jnp.array([[0.0, 0.0, 1e9, -1e9]]), anchor)
    np.testing.assert_allclose(found, [[8 - 500, 8, 8 + 500, 8]], rtol=1e-5)


def test_padding_has_finite_codes_and_gradients():
    boxes = jnp.asarray(some_boxes(0, 5))

    def total(boxes, around):
        codes = encode(boxes, around)
        overlap = pairwise_iou(boxes, around).sum()
        return codes.sum() + decode(codes, around).sum() + overlap + areas(boxes).sum()

    run = jax.jit(jax.value_and_grad(total, (0, 1)))
    for around in (jnp.zeros((5, 4)), boxes):
        value, slopes = run(boxes, around)
        assert np.isfinite(value)
        assert all(np.isfinite(slope).all() for slope in slopes)


def test_cut_to_the_image_and_told_apart():
    boxes = jnp.array([[-3.0, 2.0, 5.0, 30.0], [30.0, 30.0, 40.0, 40.0], [1.0, 1.0, 4.0, 3.0]])
    cut = clip(boxes, 10, 20)
    np.testing.assert_array_equal(cut, [[0, 2, 5, 10], [20, 10, 20, 10], [1, 1, 4, 3]])
    np.testing.assert_array_equal(clip(boxes, 10, 20, "inclusive")[1], [19, 9, 19, 9])
    np.testing.assert_array_equal(usable(cut), [True, False, True])
    np.testing.assert_array_equal(usable(cut, 3), [True, False, False])
    np.testing.assert_array_equal(usable(cut, 3, "inclusive"), [True, False, True])
    np.testing.assert_array_equal(usable(jnp.array([[0.0, 0.0, jnp.nan, 1.0]])), [False])
    np.testing.assert_array_equal(inside(boxes, 10, 20), [False, False, True])
    np.testing.assert_array_equal(inside(boxes, 10, 20, 20), [True, False, True])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 0, np.nan, 3], "truth.csv must be finite, got .* in row 1"),
        ([3, 0, 3, 3], r"truth.csv must have x1 < x2 and y1 < y2 .* got \[3.0, 0.0, 3.0, 3.0\] in row 1"),
        ([0, 5, 3, 4], "truth.csv must have x1 < x2 and y1 < y2"),
        ([0, 0, 21, 3], "truth.csv must lie within the image's width of 20"),
        ([0, -1, 9, 3], "truth.csv must lie within the image's height of 10"),
    ],
)
def test_wrong_boxes_are_refused_where_they_enter(row, message):
    boxes = np.array([[0, 0, 20, 10], row], np.float64)
    with pytest.raises(ValueError, match=message):
        check_boxes(boxes, 10, 20, "truth.csv")
    check_boxes(boxes[:1], 10, 20)
    check_boxes(np.array([[-5.0, 0.0, 1.0, 1.0]]))


def test_what_is_no_boxes_is_refused():
    with pytest.raises(ValueError, match=r"boxes must have the shape \(N, 4\) .* got \(4,\)"):
        check_boxes(np.zeros(4))
    with pytest.raises(ValueError, match="boxes must be numbers, got <U1"):
        check_boxes(np.array([list("1234")]))


def test_conventions_are_named(as_users_have_it):
    with pytest.raises(ValueError, match="convention must be half_open or inclusive, got 'pixels'"):
        areas(jnp.zeros((1, 4)), "pixels")


# Anchors


def test_anchors_are_those_of_a_loop():
    config = AnchorConfig(strides=(4, 8), scale=3.0, ratios=(0.5, 1.0, 2.0))
    expected = []
    for stride in (4, 8):
        for y in range(-(-10 // stride)):
            for x in range(-(-17 // stride)):
                for ratio in (0.5, 1.0, 2.0):
                    w, h = 3 * stride / ratio**0.5, 3 * stride * ratio**0.5
                    cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                    expected.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    found = anchors(10, 17, config)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert level_shapes(10, 17, config) == ((3, 5), (2, 3))
    np.testing.assert_allclose(areas(found)[:3], 144, rtol=1e-5)


def test_default_anchors_have_sides_of_16_to_128():
    found = np.asarray(anchors(64, 64))
    assert found.shape == (3 * (256 + 64 + 16 + 4), 4)
    squares = found[1::3]
    assert sorted(set(np.round(squares[:, 2] - squares[:, 0]).tolist())) == [16, 32, 64, 128]
    np.testing.assert_allclose(squares[0], [-6, -6, 10, 10])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strides": (0,)}, r"strides must be .* at least 1, got \(0,\)"),
        ({"scale": 0.0}, "scale must be above 0, got 0.0"),
        ({"ratios": ()}, r"ratios must be .* above 0, got \(\)"),
        ({"ratios": (-1.0,)}, "ratios must be"),
    ],
)
def test_impossible_anchors_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AnchorConfig(**wrong)


# Chosen


def test_the_best_come_first_and_ties_by_index():
    scores = jnp.array([1.0, 3.0, 3.0, 9.0, 2.0])
    mask = jnp.array([True, True, True, False, True])
    found = choose(scores, mask, 3)
    np.testing.assert_array_equal(found.indices, [1, 2, 4])
    assert np.asarray(found.valid).all()
    more = choose(scores, mask, 7)
    np.testing.assert_array_equal(more.valid, [True] * 4 + [False] * 3)
    np.testing.assert_array_equal(more.indices[:4], [1, 2, 4, 0])
    np.testing.assert_array_equal(more.member(5), mask)


def test_members_of_several_at_once():
    many = Chosen(jnp.array([[0, 2], [1, 1]]), jnp.array([[True, True], [False, True]]))
    np.testing.assert_array_equal(many.member(3), [[True, False, True], [False, True, False]])
