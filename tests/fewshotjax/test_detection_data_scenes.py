"""Scenes of photographs, floors, and the real sets with boxes."""

import numpy as np
import pytest
from PIL import Image

from fewshotjax.detection.data import (
    BoxedImages,
    MosaicConfig,
    bccd,
    bccd_annotations,
    boxed,
    check_no_novel,
    floors,
    mosaic,
    query_scenes,
    tiny_imagenet_boxed,
    training_scenes,
)

SIDE = 32


def photographs(count, seed=0, classes=("a", "b", "c", "d"), tag=0):
    """Black, with a box in the colour of its number."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(8, 12, (count, 2))], axis=1)
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        images[i, y1:y2, x1:x2] = (200, tag, i)
    labels = [[i % len(classes)] for i in range(count)]
    return boxed(
        images, list(boxes[:, None].astype(np.float32)), labels, classes, [f"{i}" for i in range(count)]
    )


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_plain_mosaics_are_the_photographs_side_by_side(grid):
    given = photographs(grid**2)
    config = MosaicConfig(grid=grid, jitter=False, crop=False)
    scene = mosaic(np.random.default_rng(0), given.images, given.boxes[:, 0], config)
    rows = [np.concatenate(given.images[i * grid : (i + 1) * grid], axis=1) for i in range(grid)]
    np.testing.assert_array_equal(scene.image, np.concatenate(rows, axis=0))
    corner = np.array([[i % grid, i // grid, i % grid, i // grid] for i in range(grid**2)]) * SIDE
    np.testing.assert_array_equal(scene.boxes, given.boxes[:, 0] + corner)
    np.testing.assert_array_equal(scene.frames, corner + np.array([0, 0, SIDE, SIDE]))


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("crop", [False, True])
def test_boxes_move_exactly_with_their_photographs(jitter, crop):
    config = MosaicConfig(grid=2, jitter=jitter, crop=crop)
    frames = []
    for seed in range(20):
        given = photographs(4, seed)
        scene = mosaic(np.random.default_rng(seed), given.images, given.boxes[:, 0], config)
        again = mosaic(np.random.default_rng(seed), given.images, given.boxes[:, 0], config)
        for one, other in zip(scene, again, strict=True):
            np.testing.assert_array_equal(one, other)
        for i, (box, frame) in enumerate(zip(scene.boxes, scene.frames, strict=True)):
            cell = np.array([i % 2, i // 2, i % 2, i // 2]) * SIDE + np.array([0, 0, SIDE, SIDE])
            assert (frame[:2] >= cell[:2]).all()
            assert (frame[2:] <= cell[2:]).all()
            assert (box[:2] >= frame[:2]).all()
            assert (box[2:] <= frame[2:]).all()
            assert (frame == np.round(frame)).all()
            # In the photograph, pixels that are more than half of the box's colour are the box, to the pixel.
            x1, y1, x2, y2 = frame.astype(int)
            y, x = np.nonzero(scene.image[y1:y2, x1:x2, 0] > 100)
            seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) + np.array([x1, y1, x1, y1])
            assert np.abs(seen - box).max() <= (0.75 if jitter else 0)
            frames.append(frame - np.tile(cell[:2], 2))
            if not crop:
                scale = (frame[2:] - frame[:2]) / SIDE
                expected = given.boxes[i, 0] * np.tile(scale, 2) + np.tile(frame[:2], 2)
                np.testing.assert_allclose(box, expected, atol=1e-4)
    sizes = (np.array(frames)[:, 2:] - np.array(frames)[:, :2]) / SIDE
    if jitter and not crop:
        assert 0.58 < sizes.min() < 0.65
        assert 0.95 < sizes.max() <= 1
    assert (len(np.unique(np.array(frames)[:, :2], axis=0)) > 20) == (jitter or crop)


def test_the_rest_of_a_cell_has_the_mean_colour():
    images = np.arange(4 * 8 * 8 * 3, dtype=np.uint64).reshape(4, 8, 8, 3).astype(np.uint8)
    boxes = np.tile(np.array([2.0, 2, 6, 6], np.float32), (4, 1))
    scene = mosaic(np.random.default_rng(3), images, boxes, MosaicConfig(crop=False, least_scale=0.5))
    for i, frame in enumerate(scene.frames.astype(int)):
        cell = scene.image[i // 2 * 8 : i // 2 * 8 + 8, i % 2 * 8 : i % 2 * 8 + 8].copy()
        x1, y1, x2, y2 = frame - np.tile([i % 2 * 8, i // 2 * 8], 2)
        rest = np.ones((8, 8), bool)
        rest[y1:y2, x1:x2] = False
        np.testing.assert_array_equal(
            cell[rest], np.round(images[i].mean((0, 1)))[None].repeat(rest.sum(), 0)
        )
        patch = Image.fromarray(images[i]).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(cell[y1:y2, x1:x2], np.asarray(patch))


def test_mosaics_refuse():
    given = photographs(4)
    for grid in (0, 9):
        with pytest.raises(ValueError, match=f"grid must be 1-8 photographs a side, got {grid}"):
            MosaicConfig(grid=grid)
    with pytest.raises(ValueError, match=r"least_scale must be 0\.1-1, got 0\.0"):
        MosaicConfig(least_scale=0.0)
    with pytest.raises(ValueError, match="images are 4, a scene of grid 3 takes 9"):
        mosaic(np.random.default_rng(0), given.images, given.boxes[:, 0], MosaicConfig(grid=3))
    with pytest.raises(ValueError, match="boxes must be inside photographs of 32x32"):
        mosaic(np.random.default_rng(0), given.images, given.boxes[:, 0] + 25, MosaicConfig())


def test_training_scenes_show_each_photograph_once_and_no_novel_class():
    given = photographs(12)
    plain = MosaicConfig(grid=2, jitter=False, crop=False)
    scenes = training_scenes(np.random.default_rng(0), given, 40, plain, novel=("n",))
    assert scenes.images.images.shape == (40, 2 * SIDE, 2 * SIDE, 3)
    assert scenes.images.shown.all()
    assert scenes.images.classes == given.classes
    for image, boxes, labels in zip(
        scenes.images.images, scenes.images.boxes, scenes.images.labels, strict=True
    ):
        colours = [image[int(box[1]), int(box[0])] for box in boxes]
        assert len({int(colour[2]) for colour in colours}) == 4
        assert [int(colour[2]) % 4 for colour in colours] == labels.tolist()
    for novel in (("c",), ("x", "a")):
        with pytest.raises(ValueError, match="images show 1 novel classes, such as"):
            training_scenes(np.random.default_rng(0), given, 1, plain, novel=novel)
    check_no_novel(given.take([0, 1]), ("c",))  # a class without boxes is not shown
    with pytest.raises(ValueError, match="photographs are 3, a scene takes 4"):
        training_scenes(np.random.default_rng(0), given.take([0, 1, 2]), 1, plain, novel=())
    with pytest.raises(ValueError, match="count must be at least 1 scene, got 0"):
        training_scenes(np.random.default_rng(0), given, 0, plain, novel=())
    with pytest.raises(ValueError, match="photographs must be square and of one size"):
        training_scenes(np.random.default_rng(0), wide(), 1, plain, novel=())
    with pytest.raises(ValueError, match="photographs must have exactly one box each"):
        training_scenes(np.random.default_rng(0), scenes.images, 1, plain, novel=())


def wide():
    return BoxedImages(
        np.zeros((1, 4, 6, 3), np.uint8),
        np.array([[[0, 0, 1, 1]]], np.float32),
        np.ones((1, 1), bool),
        np.zeros((1, 1), np.int32),
        ("a",),
    )


def test_balanced_scenes_draw_classes_alike():
    labels = np.repeat([0, 1], [30, 10])
    images = np.zeros((40, 8, 8, 3), np.uint8)
    boxes = [np.array([[1, 1, 5, 5]])] * 40
    given = boxed(images, boxes, list(labels[:, None]), ["many", "few"])
    for balanced, share in ((True, 0.5), (False, 0.25)):
        rng = np.random.default_rng(0)
        scenes = training_scenes(rng, given, 1000, MosaicConfig(grid=1), novel=(), balanced=balanced)
        assert scenes.images.labels.mean() == pytest.approx(share, abs=0.05)


def test_query_scenes_have_the_query_others_and_distractors():
    queries = photographs(12, classes=("a", "b", "c"))
    distractors = photographs(20, 1, classes=("x", "a", "y"), tag=99)
    scenes = query_scenes(
        np.random.default_rng(0), queries, distractors, MosaicConfig(grid=2, jitter=False, crop=False)
    )
    images = scenes.images
    assert (len(images), images.classes) == (12, ("a", "b", "c"))
    cells, shares = [], []
    for i in range(12):
        x, y = scenes.frames[i, :, 0].astype(int), scenes.frames[i, :, 1].astype(int)
        found = [
            images.images[i][b : b + SIDE, a : a + SIDE].reshape(-1, 3).max(0)
            for a, b in zip(x, y, strict=True)
        ]
        assert [int(colour[1]) == 99 for colour in found] == (~images.shown[i]).tolist()
        own = [int(colour[2]) for colour in found if colour[1] == 0]
        assert i in own
        assert len(set(own)) == len(own)
        assert all(other % 3 != i % 3 for other in own if other != i)
        assert [number % 3 for number in own] == images.labels[i, images.shown[i]].tolist()
        assert all(int(colour[2]) % 3 != 1 for colour in found if colour[1] == 99)  # "a" is in the episode
        cells.append([int(colour[2]) if colour[1] == 0 else -1 for colour in found].index(i))
        shares.append(images.shown[i].sum() - 1)
    assert len(set(cells)) > 2
    assert 0.2 < np.mean(shares) / 3 < 0.8
    only = query_scenes(np.random.default_rng(0), queries, distractors, MosaicConfig(grid=2), others=0.0)
    assert (only.images.shown.sum(1) == 1).all()
    with pytest.raises(ValueError, match="distractors are 0, this scene takes"):
        query_scenes(np.random.default_rng(0), queries, queries, MosaicConfig(), others=0.0)
    with pytest.raises(ValueError, match="queries of another class are 0, this scene takes 3"):
        query_scenes(np.random.default_rng(0), queries.only(["a"]), distractors, MosaicConfig(), others=1.0)
    with pytest.raises(ValueError, match="others must be a probability, got 2"):
        query_scenes(np.random.default_rng(0), queries, distractors, MosaicConfig(), others=2.0)


def test_other_tiles_of_merged_classes_are_of_another_way():
    """Photographs of one brightness a class: 0 and 1 are one way, 2 and 3 the other."""
    tones = np.array([10, 60, 110, 160] * 4, np.uint8)
    images = np.broadcast_to(tones[:, None, None, None], (16, 8, 8, 3)).copy()
    queries = boxed(images, [np.array([[1, 1, 7, 7]])] * 16, [[i % 4] for i in range(16)], list("abcd"))
    config = MosaicConfig(jitter=False, crop=False)
    none = boxed(images[:4], [np.array([[1, 1, 7, 7]])] * 4, [[0]] * 4, ["z"])
    for parts, ways in ((2, lambda label: label // 2), (1, lambda label: label)):
        found = query_scenes(np.random.default_rng(0), queries, none, config, others=1.0, parts=parts).images
        own = [sorted(ways(found.labels[i]).tolist()).count(ways(i % 4)) for i in range(16)]
        assert own == [1] * 16  # the anchor alone
    assert (found.labels // 2 == np.arange(16)[:, None] % 4 // 2).sum() > 16  # else such are there


def test_floors_by_hand():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    boxes = [[0, 0, 8, 8], [0, 0, 8, 4], [1, 1, 7, 7], [0, 0, 2, 2]]
    given = boxed(images, [np.array([box]) for box in boxes], [[0]] * 4, ["a"])
    # IoU with all 64 pixels: 1, .5, .5625, .0625; with the centred 36: .5625, 18/50, 1, 1/39.
    found = floors(given)
    assert found.whole == {0.5: 0.75, 0.75: 0.25}
    assert found.centred == {0.5: 0.5, 0.75: 0.25}
    for jitter in (False, True):  # moving and shrinking change nothing but rounding
        config = MosaicConfig(grid=2, jitter=jitter, crop=False)
        scenes = training_scenes(np.random.default_rng(0), given, 5, config, novel=())
        assert floors(scenes, (0.45, 0.75)).whole == {0.45: 0.75, 0.75: 0.25}
    none = boxed(images[:1], [np.zeros((0, 4))], [[]], ["a"])
    with pytest.raises(ValueError, match="images show no boxes"):
        floors(none)


def test_real_cells(data_dir):
    """The counts of repmet.md, D1, taken by another program; its two degenerate boxes are left out."""
    parts = {part: bccd_annotations(data_dir, part) for part in ("train", "val", "test")}
    assert [len(one) for one in parts.values()] == [205, 87, 72]
    counts = sum(np.bincount(one.truth.labels, minlength=3) for one in parts.values())
    assert counts.tolist() == [4155 - 2, 372, 361]
    assert max(np.bincount(one.truth.image_index).max() for one in parts.values()) == 30
    with pytest.raises(ValueError, match="part must be one of train, val, test, got"):
        bccd_annotations(data_dir, "trainval")


@pytest.mark.long
def test_real_cells_with_pictures(data_dir):
    found = bccd(data_dir, "test")
    assert found.images.shape == (72, 480, 640, 3)
    assert found.classes == ("RBC", "WBC", "Platelets")
    row, slot = np.argwhere(found.shown & (found.labels == 1))[0]
    x1, y1, x2, y2 = found.boxes[row, slot].astype(int)
    # A stained white cell is bluer than its picture.
    cell, whole = (
        one.astype(float).mean((0, 1)) for one in (found.images[row][y1:y2, x1:x2], found.images[row])
    )
    assert cell[2] - cell[0] > whole[2] - whole[0]


def test_real_photographs_with_boxes(data_dir):
    wnids = ["n02099601", "n01774384"]
    every = tiny_imagenet_boxed(data_dir, "novel_val", classes=wnids, min_side=0.0)
    found = tiny_imagenet_boxed(data_dir, "novel_val", classes=wnids)
    assert (len(every), every.classes[0]) == (240, "n02099601 golden retriever")
    assert 200 < len(found) <= 240
    assert (found.boxes[:, 0, 2:] - found.boxes[:, 0, :2]).min() >= 8
    half = tiny_imagenet_boxed(data_dir, "novel_val", classes=wnids, pixels=32)
    np.testing.assert_array_equal(half.boxes, found.boxes / 2)
    assert half.files == found.files
    with pytest.raises(ValueError, match=r"min_side is 70\.0, which leaves no image of 'n02099601"):
        tiny_imagenet_boxed(data_dir, "novel_val", classes=wnids, min_side=70.0)


@pytest.mark.long
def test_floors_of_the_real_parts(data_dir):
    """The shares of repmet.md, D2, measured by another program, and the least class of each part."""
    shares = {"base_test": (53.9, 58.6, 15), "novel_val": (54.9, 61.9, 100), "novel_test": (47.1, 51.4, 70)}
    for part, (whole, centred, least) in shares.items():
        found = floors(tiny_imagenet_boxed(data_dir, part, min_side=0.0))
        assert (round(100 * found.whole[0.5], 1), round(100 * found.centred[0.5], 1)) == (whole, centred)
        assert tiny_imagenet_boxed(data_dir, part).counts().min() == least
