"""Images with boxes, files of COCO and VOC, lists of episodes: round trips, refusals, pycocotools."""

import contextlib
import io
import json
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from fewshotjax.detection.data import (
    Annotations,
    BoxedImages,
    DetectionEpisode,
    SupportBox,
    boxed,
    fitted,
    load_detection_episodes,
    read_coco,
    read_coco_detections,
    read_images,
    read_voc,
    repmet_episodes,
    save_detection_episodes,
    with_images,
    write_coco,
    write_coco_detections,
)
from fewshotjax.detection.data.annotations import repaired
from fewshotjax.detection.metrics import Detections, GroundTruth, coco_ap


def random_annotations(seed=0, images=5, kind=np.float32):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(40, 90, (images, 2))
    image = np.sort(rng.integers(0, images, 12))
    low = rng.uniform(0, 20, (12, 2)).astype(kind)
    boxes = np.concatenate([low, low + rng.uniform(1, 20, (12, 2)).astype(kind)], axis=1)
    flags = rng.random(12) < 0.3
    truth = GroundTruth(image, rng.integers(0, 3, 12), boxes, None, flags, rng.uniform(1, 100, 12))
    names = tuple(f"{i}.png" for i in range(images))
    return Annotations(
        names, sizes, ("a", "b", "ç"), truth, tuple(7 * i + 3 for i in range(images)), (2, 5, 9)
    )


def same(a, b, fields):
    for name in fields:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_coco_annotations_come_back_the_same(tmp_path, kind):
    for seed in range(5):
        given = random_annotations(seed, kind=kind)
        write_coco(tmp_path / "a.json", given)
        found = read_coco(tmp_path / "a.json")
        same(found, given, ("files", "sizes", "classes", "image_ids", "category_ids"))
        same(found.truth, given.truth, ("image_index", "labels", "boxes", "crowd", "areas", "difficult"))
        first = (tmp_path / "a.json").read_bytes()
        write_coco(tmp_path / "a.json", found)
        assert (tmp_path / "a.json").read_bytes() == first
    assert len(found.only([2, 0]).truth) == np.isin(found.truth.image_index, [0, 2]).sum()
    assert found.only([2, 0]).files == ("2.png", "0.png")


def random_detections(given):
    """Moved objects, some of them outside of their image."""
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 12, 40)
    moved = given.truth.boxes[rows] + rng.uniform(-2, 2, (40, 4))
    boxes = np.sort(moved.reshape(40, 2, 2), axis=1).reshape(40, 4).astype(np.float32)
    truth = given.truth.take(rows)
    return Detections(truth.image_index, truth.labels, rng.random(40), boxes)


def test_coco_detections_come_back_the_same(tmp_path):
    given = random_annotations(1)
    found = random_detections(given)
    write_coco_detections(tmp_path / "d.json", found, given)
    again = read_coco_detections(tmp_path / "d.json", given)
    same(again, found, ("image_index", "labels", "scores", "boxes"))
    with pytest.raises(ValueError, match="image_index has 4, the annotations have 1"):
        write_coco_detections(tmp_path / "d.json", found, given.only([0]))


@pytest.mark.slow
def test_what_is_written_scores_the_same_in_pycocotools(tmp_path):
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    given = random_annotations(1)
    found = random_detections(given)
    write_coco(tmp_path / "a.json", given)
    write_coco_detections(tmp_path / "d.json", found, given)
    ours = np.array(list(coco_ap(found, given.truth).numbers.values()))
    assert ours[0] > 0.1
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = coco.COCO(str(tmp_path / "a.json"))
        run = evaluation.COCOeval(there, there.loadRes(str(tmp_path / "d.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    np.testing.assert_allclose(ours, np.where(run.stats == -1, np.nan, run.stats), rtol=0, atol=1e-9)


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
    "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}],
    "annotations": [{"id": 5, "image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4]}],
}


def test_coco_in_the_order_of_category_numbers(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(COCO))
    found = read_coco(tmp_path / "a.json")
    assert (found.classes, found.category_ids, found.truth.labels.tolist()) == (("dog", "cat"), (4, 9), [1])
    np.testing.assert_array_equal(found.truth.boxes, [[1, 2, 4, 6]])
    assert found.truth.areas.tolist() == [12]
    (tmp_path / "a.json").write_text(json.dumps(COCO | {"annotations": []}))  # an empty set is one
    empty = read_coco(tmp_path / "a.json")
    assert (len(empty), len(empty.truth)) == (1, 0)
    assert not with_images(empty, np.zeros((1, 20, 30, 3), np.uint8)).shown.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bbox": [1, 2, 0, 4]},
            r"annotation 5: box \[1.0, .*, 6.0\] of 30x20 is outside of it or has",
        ),
        ({"bbox": [28, 2, 3, 4]}, r"of 30x20 is outside .*set faulty='repair' \(1 such\)"),
        ({"bbox": [28, 2, -3, 4]}, "annotation 5: bbox .* has a negative side: is it x1, y1, x2, y2"),
        ({"bbox": [1, 2, 3]}, r"bbox must be \[x, y, width, height\]"),
        ({"bbox": [1, 2, "3", 4]}, "bbox must be a number, got '3'"),
        ({"category_id": 1}, "category_id 1 is unknown, known are 4, 9"),
        ({"image_id": "1"}, "image_id '1' is unknown"),
        ({"area": None}, "area must be a number, got None"),
    ],
)
def test_coco_annotations_that_are_refused(tmp_path, change, message):
    record = COCO | {"annotations": [COCO["annotations"][0] | change]}
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        read_coco(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no COCO annotation file"),
        ("{", "is no JSON"),
        ("{}", "images must be a list of objects"),
        (json.dumps(COCO | {"images": COCO["images"] * 2}), "images has id 1 twice"),
        (json.dumps(COCO | {"images": [{"id": 1, "file_name": "a", "width": 3}]}), "height must be a whole"),
        (json.dumps(COCO | {"categories": [{"id": 4}]}), "category_id 9 is unknown"),
        (json.dumps(COCO | {"categories": [{"id": 9}]}), "name must be a name, got None"),
    ],
)
def test_coco_files_that_are_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_coco(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"none.json: cannot be read \(No such file"):
        read_coco(tmp_path / "none.json")


def test_coco_boxes_are_repaired_with_a_warning(tmp_path):
    rows = [[28, 2, 3, 4], [1, 2, 0, 4], [-5, -5, 2, 2], [1, 1, 2, 2]]
    record = COCO | {"annotations": [COCO["annotations"][0] | {"bbox": row} for row in rows]}
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match=r"1 boxes were cut off at the border and 2 dropped, the first .*5"):
        found = read_coco(tmp_path / "a.json", faulty="repair")
    np.testing.assert_array_equal(found.truth.boxes, [[28, 2, 30, 6], [1, 1, 3, 3]])


@pytest.mark.usefixtures("as_users_have_it")
def test_the_choice_of_faulty_boxes_is_checked():
    with pytest.raises(ValueError, match="faulty must be 'refuse' or 'repair', got 'drop'"):
        repaired(np.zeros((0, 4)), np.zeros((0, 2)), [], "drop")
    with pytest.raises(ValueError, match=r"x: box .* is not finite"):
        repaired(np.full((1, 4), np.inf), np.ones((1, 2)), ["x"], "repair")


def test_coco_detections_that_are_refused(tmp_path):
    given = random_annotations()
    for row, message in (
        ({"image_id": 4, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 1}, "image_id 4 is unknown"),
        ({"image_id": 3, "category_id": 2, "bbox": [0, 0, 1, 1]}, "detection 0: score must be a number"),
    ):
        (tmp_path / "d.json").write_text(json.dumps([row]))
        with pytest.raises(ValueError, match=message):
            read_coco_detections(tmp_path / "d.json", given)
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(ValueError, match="is no list of COCO detections"):
        read_coco_detections(tmp_path / "d.json", given)
    (tmp_path / "d.json").write_text("[]")
    assert len(read_coco_detections(tmp_path / "d.json", given)) == 0


def voc(objects, head="", size="<width>30</width><height>20</height>"):
    body = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for name, box, hard in objects
    )
    return f"{head}<annotation><filename>a.png</filename><size>{size}</size>{body}</annotation>"


def test_voc_counts_pixels_from_one(tmp_path):
    (tmp_path / "x.xml").write_text(voc([("dog", (1, 1, 30, 20), 0), ("cat", (3, 4, 5, 6), 1)]))
    (tmp_path / "y.xml").write_text(
        voc([], size="<width>9</width><height>8</height>").replace("a.png", "b.png")
    )
    found = read_voc(tmp_path)
    assert (found.files, found.classes) == (("a.png", "b.png"), ("cat", "dog"))
    assert found.sizes.tolist() == [[20, 30], [8, 9]]
    np.testing.assert_array_equal(found.truth.boxes, [[0, 0, 30, 20], [2, 3, 5, 6]])
    assert (found.truth.labels.tolist(), found.truth.difficult.tolist()) == ([1, 0], [False, True])
    assert read_voc(tmp_path, ["y"], classes=("dog",)).files == ("b.png",)
    write_coco(tmp_path / "a.json", found)  # difficult boxes go over as crowds
    assert read_coco(tmp_path / "a.json").truth.crowd.tolist() == [False, True]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (voc([], head=BOMB), "has a document type"),
        (voc([], head=BOMB).encode("utf-16"), "has a document type"),
        ("<annotation>", "is no XML"),
        ("<html/>", "its root is 'html'"),
        (voc([("cat", (3, 4, 2, 6), 0)]), r"x.xml: box \[2.0, 3.0, 2.0, 6.0\] of 30x20 is"),
        (voc([("cat", (3, 4, 31, 6), 0)]), "is outside of it or has no side"),
        (voc([("cat", (3, 4, "x", 6), 0)]), "object 0: bndbox/xmax must be a number, got 'x'"),
        (voc([("cat", (3, 4, "nan", 6), 0)]), "must be a number, got 'nan'"),
        (voc([("", (3, 4, 5, 6), 0)]), "object 0: has no name"),
        (voc([("cat", (3, 4, 5, 6), 2)]), "difficult must be 0 or 1, got '2'"),
        (voc([("cow", (3, 4, 5, 6), 0)]), "has class 'cow', which is none of cat, dog"),
        (voc([], size="<width>0</width><height>2</height>"), "size/width must be a whole number"),
        (voc([]).replace("a.png", "../a.png"), "filename must be a file's name"),
    ],
)
def test_voc_files_that_are_refused(tmp_path, text, message):
    (tmp_path / "x.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_voc(tmp_path, classes=("cat", "dog"))
    with pytest.raises(ValueError, match=r"y.xml: there is no such file"):
        read_voc(tmp_path, ["y"])
    with pytest.raises(ValueError, match="holds no XML files"):
        read_voc(tmp_path, prefix="Annotations/")


def test_voc_boxes_of_one_pixel_are_dropped_on_request(tmp_path):
    (tmp_path / "x.xml").write_text(voc([("cat", (3, 4, 3, 4), 0), ("cat", (3, 4, 5, 6), 0)]))
    with pytest.raises(ValueError, match=r"x\.xml: box"):
        read_voc(tmp_path)
    with pytest.warns(UserWarning, match="0 boxes were cut off at the border and 1 dropped"):
        assert len(read_voc(tmp_path, faulty="repair").truth) == 1


def picture(mode="RGB", size=(30, 20), orientation=None):
    file, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new(mode, size, 77).save(file, "JPEG" if mode != "RGBA" else "PNG", exif=exif)
    return file.getvalue()


def test_pictures_go_with_their_annotations(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(COCO))
    given = read_coco(tmp_path / "a.json")
    for mode in ("RGB", "L", "RGBA"):
        (tmp_path / "a.png").write_bytes(picture(mode))
        found = read_images(given, tmp_path)
        assert found.images.shape == (1, 20, 30, 3)
        np.testing.assert_array_equal(found.boxes, [[[1, 2, 4, 6]]])
    (tmp_path / "a.png").write_bytes(picture(size=(20, 30), orientation=6))  # upright, it is 30x20
    assert read_images(given, tmp_path).images.shape == (1, 20, 30, 3)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.png", picture())
    assert len(read_images(given, tmp_path / "a.zip", prefix="in/")) == 1
    for data, message in (
        (picture(size=(31, 20)), r"a.png: is 31x20 \(upright\), its annotation says 30x20"),
        (picture(orientation=6), r"is 20x30 \(upright\)"),
        (picture()[:200], "a.png: cannot be decoded"),
    ):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_images(given, tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a.png: there is no such file"):
        read_images(given, tmp_path)
    away = Annotations(("../a.png",), given.sizes, given.classes, given.truth, (1,), (4, 9))
    with pytest.raises(ValueError, match="leaves the folder"):
        read_images(away, tmp_path)


def test_large_pictures_are_made_smaller_as_they_are_read(tmp_path, monkeypatch):
    """With their boxes; never all of them at their own size at once."""
    sizes = [(600, 400), (90, 60), (400, 600)]
    record = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(sizes)
        ],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [w / 4, h / 4, w / 2, h / 2]}
            for i, (w, h) in enumerate(sizes)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(record))
    for i, (w, h) in enumerate(sizes):
        image = Image.new("RGB", (w, h), "white")
        image.paste("black", (w // 4, h // 4, 3 * w // 4, 3 * h // 4))
        image.save(tmp_path / f"{i}.png")
    found = read_images(read_coco(tmp_path / "a.json"), tmp_path, longest=120)
    assert [image.shape[:2] for image in found.images] == [(80, 120), (60, 90), (120, 80)]
    np.testing.assert_allclose(found.boxes[:, 0], [[30, 20, 90, 60], [22.5, 15, 67.5, 45], [20, 30, 60, 90]])
    for image, (x1, y1, x2, y2) in zip(found.images, found.boxes[:, 0].astype(int), strict=True):
        assert image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].max() < 10
        assert image[: y1 - 2].min() > 245
    for annotation, image in zip(found.truth().areas, found.images, strict=True):
        assert annotation == pytest.approx(image.shape[0] * image.shape[1] / 4, rel=0.01)
    with pytest.raises(ValueError, match="longest must be at least 1 pixel, or None, got 0"):
        read_images(read_coco(tmp_path / "a.json"), tmp_path, longest=0)


def test_categories_that_nothing_has_may_share_a_name(tmp_path):
    """As a parent that some tools write; two that have boxes may not."""
    twice = COCO | {"categories": [*COCO["categories"], {"id": 77, "name": COCO["categories"][0]["name"]}]}
    (tmp_path / "a.json").write_text(json.dumps(twice))
    (tmp_path / "b.json").write_text(json.dumps(COCO))
    assert read_coco(tmp_path / "a.json").classes == read_coco(tmp_path / "b.json").classes


def small():
    images = [
        np.full((10, 20, 3), 5, np.uint8),
        np.full((16, 8, 3), 9, np.uint8),
        np.zeros((4, 4, 3), np.uint8),
    ]
    boxes = [np.array([[0, 0, 20, 10], [1, 2, 3, 4]]), np.array([[0, 8, 8, 16]]), np.zeros((0, 4))]
    return boxed(images, boxes, [[0, 1], [2], []], ["a", "b", "c"], ["x", "y", "z"])


def test_boxed_images_are_padded_taken_and_flattened():
    given = small()
    assert given.boxes.shape == (3, 2, 4)
    assert given.shown.tolist() == [[True, True], [True, False], [False, False]]
    assert (given.counts().tolist(), given.sizes.tolist()) == ([1, 1, 1], [[10, 20], [16, 8], [4, 4]])
    assert "3 images, 3 boxes, 3 classes: a, b, c" in repr(given)
    truth = given.truth()
    assert (truth.image_index.tolist(), truth.labels.tolist()) == ([0, 0, 1], [0, 1, 2])
    one = given.take([1])
    assert (one.files, one.images[0].shape, one.where(0)) == (("y",), (16, 8, 3), "y")
    some = given.only(["c", "a"])
    assert (some.files, some.classes, some.labels[:, 0].tolist()) == (("x", "y"), ("c", "a"), [1, 0])
    assert some.shown.sum() == 2
    with pytest.raises(ValueError, match="'d', which is none of the 3"):
        given.only(["d"])


def test_images_of_any_size_become_one_array():
    result = fitted(small(), 16, 16)
    assert result.images.images.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(result.scales, [[0.8, 0.8], [1, 1], [4, 4]])
    np.testing.assert_allclose(result.images.boxes[0, 0], [0, 0, 16, 8])
    np.testing.assert_allclose(result.images.boxes[1, 0], [0, 8, 8, 16])
    assert (result.images.images[0] == 5).all()  # the mean fills the rest
    back = result.images.boxes / np.tile(result.scales, 2)[:, None]
    np.testing.assert_allclose(back, small().boxes, atol=1e-5)
    grey = boxed([np.zeros((4, 4, 1), np.uint8)], [np.zeros((0, 4))], [[]], ["a"])
    assert fitted(grey, 8, 8).images.images.shape == (1, 8, 8, 1)
    with pytest.raises(ValueError, match="height and width must be at least 1 pixel"):
        fitted(grey, 0, 8)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 8, 8, 3))}, "images must be uint8, values 0-255, got float64"),
        ({"images": np.zeros((8, 8, 3), np.uint8)}, r"images must be one \(N, H, W, C\) array"),
        ({"boxes": np.zeros((1, 1, 4))}, r"boxes must be \(N, G, 4\) float32"),
        (
            {"boxes": np.array([[[3, 0, 3, 2]]], np.float32)},
            r"y: \[3.0, .* is no box in 8x8: correct",
        ),
        ({"boxes": np.array([[[0, 0, 9, 2]]], np.float32)}, "is no box in 8x8"),
        ({"boxes": np.array([[[0, 0, np.nan, 2]]], np.float32)}, "is no box in 8x8"),
        ({"labels": np.array([[1]], np.int32)}, "labels: y: box 0 has label 1, outside the 1 classes"),
        ({"labels": np.array([[0]])}, r"labels must be \(1, 1\) int32, got int64"),
        ({"shown": np.array([[False]])}, "y: a box that is not shown must be 0"),
        ({"classes": ("a", "a")}, "classes has a name twice"),
        ({"files": ("y", "z")}, "files are 2, images 1"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8)}, "boxes are of 1 images, images are 2"),
    ],
)
def test_boxed_images_are_checked(change, message):
    right = {
        "images": np.zeros((1, 8, 8, 3), np.uint8),
        "boxes": np.array([[[0, 0, 2, 2]]], np.float32),
        "shown": np.ones((1, 1), bool),
        "labels": np.zeros((1, 1), np.int32),
        "classes": ("a",),
        "files": ("y",),
    }
    BoxedImages(**right)
    with pytest.raises(ValueError, match=message):
        BoxedImages(**right | change)


def test_lists_of_boxes_must_fit_their_labels():
    with pytest.raises(ValueError, match="labels do not fit boxes"):
        boxed([np.zeros((4, 4, 3), np.uint8)], [np.zeros((0, 4))], [[0]], ["a"])


EPISODE = DetectionEpisode(
    ("cat", "dog"),
    (SupportBox("a", "cat", (0.0, 0.0, 1.5, 2.0)), SupportBox("b", "dog", (1.0, 0.1, 2.0, 3.0))),
    ("c", "d", "c"),
)


def test_episodes_come_back_the_same(tmp_path):
    shared = DetectionEpisode(EPISODE.classes, EPISODE.support, ("a",), shared=True)
    save_detection_episodes(tmp_path / "e.json", [EPISODE, shared])
    assert load_detection_episodes(tmp_path / "e.json") == (EPISODE, shared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": ["a"]}, "episode 0: queries has 'a', which is in the support"),
        ({"classes": ["cat"]}, "support: b is of 'dog', none of cat"),
        ({"classes": ["cat", "dog", "cow"]}, "support has no box of 'cow'"),
        ({"classes": ["cat", "cat"]}, "classes must name each once"),
        ({"support": [{"file": "a", "class": "cat", "box": [2, 0, 1, 1]}]}, "x1 < x2 and y1 < y2 must hold"),
        ({"support": [{"file": "a", "class": "cat", "box": [0, 1]}]}, "box must be four numbers"),
        ({"support": [{"file": "a", "box": [0, 0, 1, 1]}]}, "support must be a list of file, class and box"),
        ({"support": "x"}, "support must be a list"),
        ({"queries": [3]}, "classes, queries, file and class must be names"),
        ({"more": 1}, "must have classes, support and queries"),
    ],
)
def test_episodes_that_are_refused(tmp_path, change, message):
    save_detection_episodes(tmp_path / "e.json", [EPISODE])
    record = json.loads((tmp_path / "e.json").read_text())
    record["episodes"][0] |= change
    (tmp_path / "e.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        load_detection_episodes(tmp_path / "e.json")


def test_other_files_are_no_episodes(tmp_path):
    for text, message in (
        ("{}", "is no list of detection episodes"),
        ('{"schema": "frugaljax.fewshot.detection_episodes/2"}', "this library reads"),
        ('{"schema": "frugaljax.fewshot.detection_episodes/1", "episodes": []}', "has no episodes"),
        ("nothing", "is no JSON"),
    ):
        (tmp_path / "e.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_detection_episodes(tmp_path / "e.json")


def authors():
    """Six images: a box of class 0 and one of class 1 in image 0, then one box each."""
    image, labels = np.array([0, 0, 1, 2, 3, 4, 5]), np.array([0, 1, 0, 1, 1, 0, 2])
    boxes = np.arange(7)[:, None] + np.array([0, 0, 5, 5])
    files = tuple(f"{i}.jpg" for i in range(6))
    files, truth = files, GroundTruth(image, labels, boxes)
    return Annotations(files, np.full((6, 2), 20), ("cat", "dog", "cow"), truth, tuple(range(6)), (1, 2, 3))


RECORD = {
    "epi_cats": [2, 1],  # dog, cat
    "epi_cats_names": ["dog", "cat"],
    "train_nImg": {2: [0, 2], 1: [1, 0]},
    "query_images": {2: [3, 4], 1: [4, 1]},
}
NAMES = ["background", "cat", "dog", "cow"]


def test_episodes_of_the_authors(tmp_path):
    (one,) = repmet_episodes([RECORD], authors(), NAMES, shots=2)
    assert one.classes == ("dog", "cat")
    # Image 0 gives its cat too, and a class has two boxes at most: image 1's is cat's second.
    assert [(file, label) for file, label, _ in one.support] == [
        ("0.jpg", "cat"),
        ("0.jpg", "dog"),
        ("2.jpg", "dog"),
        ("1.jpg", "cat"),
    ]
    assert one.support[2].box == (3, 3, 8, 8)
    assert one.queries == ("3.jpg", "4.jpg", "4.jpg", "1.jpg")  # 4 counts twice
    assert one.shared  # 1 is support and query
    (tmp_path / "e.json").write_text(json.dumps([RECORD]))  # where the class numbers become text
    assert repmet_episodes(tmp_path / "e.json", authors(), NAMES, shots=2) == (one,)
    (few,) = repmet_episodes([RECORD], authors(), NAMES, shots=1)
    assert [box.label for box in few.support] == ["cat", "dog"]
    assert not few.shared


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"episode 0: unknown fields \['seed'\], missing \[\]"),
        ({"epi_cats": [0, 1]}, "class 'background' is not in the annotations"),
        ({"epi_cats": [7, 1]}, "epi_cats: 7 is no number from 0 to 3"),
        ({"epi_cats": [3, 1]}, r"epi_cats_names are \['dog', 'cat'\], class_names give \['cow', 'cat'\]"),
        ({"query_images": {2: [3]}}, "query_images: has no list for class number 1"),
        ({"query_images": {2: [6], 1: [1]}}, "query_images: 6 is no number from 0 to 5"),
        ({"train_nImg": {2: [5], 1: [1]}}, "support has no box of 'dog'"),
    ],
)
def test_episodes_of_the_authors_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        repmet_episodes([RECORD | change], authors(), NAMES, shots=2)


def test_a_pickle_is_not_read(tmp_path):
    with pytest.raises(ValueError, match="a pickle is not read"):
        repmet_episodes(tmp_path / "x_episodes.npz", authors(), NAMES, shots=1)
    with pytest.raises(ValueError, match="shots must be at least 1, got 0"):
        repmet_episodes([RECORD], authors(), NAMES, shots=0)
