"""New classes from boxes, found in photographs: coloured squares, whose features are colours."""

import dataclasses
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fewshotjax.backbones import Preprocess
from fewshotjax.detection import detect as detect_module, threshold as threshold_module
from fewshotjax.detection.anchors import AnchorConfig
from fewshotjax.detection.config import DetectorConfig
from fewshotjax.detection.data import boxed, read_coco, read_coco_detections
from fewshotjax.detection.detect import detect, detector
from fewshotjax.detection.detector import init_detector
from fewshotjax.detection.drawing import COLOURS, PANEL, Drawn, draw_boxes
from fewshotjax.detection.finder import Examples, Seen
from fewshotjax.detection.found_objects import picture_names
from fewshotjax.detection.methods import class_mean
from fewshotjax.detection.new_classes import new_classes
from fewshotjax.detection.new_classes_files import load_new_classes, save_new_classes
from fewshotjax.detection.photos import fit_photos, photos
from fewshotjax.detection.pyramids import pyramid_from_function
from fewshotjax.detection.regions import box_features, find_regions
from fewshotjax.detection.score import Found
from fewshotjax.detection.support import SupportConfig
from fewshotjax.detection.tuning import DetectionTuning
from fewshotjax.detection.user_support import read_support, show
from fewshotjax.detection.windows import WindowConfig, Windows, shapes_of, sliding
from fewshotjax.repmet import RepMetConfig

RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (30, 200, 30)
STRIDES = (4, 8)
P = 64
KEY = jax.random.key(0)
TRACES = []


def colours(params, x):
    """Means of the colours in cells of 4 and 8 pixels."""
    TRACES.append(x.shape)
    b, h, w, c = x.shape
    return tuple(
        x.reshape(b, h // s, s, w // s, s, c).mean(axis=(2, 4)) * params[None, None, None] for s in STRIDES
    )


def pyramid(shade=1.0):
    return pyramid_from_function(
        colours, Preprocess(P), jnp.full(3, shade, jnp.float32), strides=STRIDES, name="colours"
    )


def scene(height, width, *squares, seed=0):
    """Dark noise with squares (colour, x, y, side), light in the middle; and their boxes."""
    rng = np.random.default_rng(seed)
    image = rng.integers(50, 80, (height, width, 3)).astype(np.uint8)
    for shade, x, y, side in squares:
        image[y : y + side, x : x + side] = shade
        edge = side // 4
        image[y + edge : y + side - edge, x + edge : x + side - edge] = 255
    return image, np.array([[x, y, x + side, y + side] for _, x, y, side in squares], np.float32)


def support():
    """Three photographs of two classes at working size."""
    scenes = [
        scene(64, 64, (RED, 8, 8, 16), (BLUE, 40, 36, 16), seed=1),
        scene(64, 64, (RED, 36, 20, 16), (BLUE, 4, 40, 16), seed=2),
        scene(64, 48, (BLUE, 20, 12, 16), seed=3),
    ]
    labels = [[0, 1], [0, 1], [1]]
    return boxed(
        [image for image, _ in scenes], [box for _, box in scenes], labels, ("red", "blue"), ("a", "b", "c")
    )


WINDOWS = Windows(
    pyramid(), WindowConfig(scales=(1.0,), step=0.15, bins=((0, 3), (1, 2)), background=64, per_image=10)
)


@pytest.fixture(scope="module")
def found():
    return new_classes(KEY, WINDOWS, support(), pixels=P)


CONFIG = DetectorConfig(
    channels=4,
    anchors=AnchorConfig(strides=STRIDES),
    before_nms=40,
    proposals=16,
    roi_size=2,
    hidden=(8,),
    head=RepMetConfig(modes=2, embedding=6, posterior="softmax", background=True),
    per_image=12,
)


@pytest.fixture(scope="module")
def trained():
    """A detector with random weights, for what does not depend on them."""
    made = init_detector(KEY, pyramid(), CONFIG, ("cat", "blue"))
    # Codes of size, so that boxes move.
    params = {**made.params, "box": jax.tree.map(lambda leaf: leaf * 100, made.params["box"])}
    return dataclasses.replace(made, params=params)


# Photographs


def files_of(folder):
    """Pictures of every kind that people have, 20 wide and 10 high when upright."""
    image, _ = scene(10, 20, (RED, 2, 2, 4))
    upright = Image.fromarray(image)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "exif.png", exif=exif)
    upright.save(folder / "plain.png")
    upright.convert("L").save(folder / "grey.png")
    clear = upright.convert("RGBA")
    clear.putalpha(0)
    clear.save(folder / "alpha.png")
    (folder / "boxes.json").write_text("{}")
    return image


def test_photographs_of_a_folder_stand_upright_and_are_rgb(tmp_path):
    image = files_of(tmp_path)
    given = photos(tmp_path)
    assert given.files == ("alpha.png", "exif.png", "grey.png", "plain.png")  # the JSON is passed over
    alpha, exif, grey, plain = (given.read(row) for row in range(4))
    np.testing.assert_array_equal(plain, image)
    np.testing.assert_array_equal(exif, image)
    assert grey.shape == image.shape
    assert (grey == grey[..., :1]).all()
    assert (alpha == 255).all()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "plain.png", "in/plain.png")
    packed = photos(tmp_path / "all.zip")
    assert packed.files == ("in/plain.png",)
    np.testing.assert_array_equal(packed.read(0), image)
    one = photos(tmp_path / "plain.png")
    assert (one.files, len(one)) == (("plain.png",), 1)


def test_photographs_of_lists_and_arrays(tmp_path):
    image, _ = scene(10, 20)
    turned = Image.fromarray(image)
    turned.getexif()[0x0112] = 3
    turned.save(tmp_path / "x.png")
    given = photos([tmp_path / "x.png", image, image[..., 0], image[..., :1], turned, turned.convert("LA")])
    assert given.files == ("x.png", "photo 1", "photo 2", "photo 3", "photo 4", "photo 5")
    assert [given.read(row).shape for row in range(6)] == [(10, 20, 3)] * 6
    np.testing.assert_array_equal(given.read(2), np.repeat(image[..., :1], 3, axis=2))
    np.testing.assert_array_equal(given.read(4), image[::-1, ::-1])
    assert len(photos(image)) == len(photos(turned)) == 1
    assert len(photos(np.stack([image, image]))) == 2
    assert photos(support()).files == ("a", "b", "c")
    assert photos(given) is given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "photos is empty"),
        (["nowhere.png"], "nowhere.png: there is no such picture"),
        ("nowhere", "there is no such file or folder"),
        ([np.zeros((4, 4, 3), np.float32)], "number 0 is float32 of shape"),
        ([np.zeros((4, 4, 2), np.uint8)], "number 0 has 2 channels"),
        (3, "photos are a int"),
    ],
)
def test_photographs_that_are_refused(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        photos(given)


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "boxes.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no pictures"):
        photos(tmp_path)


def test_photographs_fill_the_upper_left_of_a_square():
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:10, :10] = RED
    fit = fit_photos([wide, scene(64, 16)[0]], P)
    assert fit.images.shape == (2, P, P, 3)
    np.testing.assert_array_equal(fit.sizes, [[32, 64], [64, 16]])
    np.testing.assert_allclose(fit.scales, [[1.6, 1.6], [1, 1]])
    assert (np.abs(fit.images[0, 2:14, 2:14].astype(int) - RED) < 3).all()


# The support


def coco(tmp_path, **change):
    """A COCO file beside its pictures."""
    record = {
        "images": [{"id": 5, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 3, "name": "red"}, {"id": 8, "name": "blue"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "bbox": [8, 8, 16, 16]},
            {"id": 2, "image_id": 5, "category_id": 8, "bbox": [40, 36, 16, 16]},
        ],
    }
    record.update(change)
    Image.fromarray(support().images[0]).save(tmp_path / "a.png")
    (tmp_path / "boxes.json").write_text(json.dumps(record))
    return tmp_path / "boxes.json"


def annotation(category, *box, **more):
    return {"id": 1, "image_id": 5, "category_id": category, "bbox": list(box), **more}


def test_support_of_a_coco_file(tmp_path):
    given, numbers = read_support(coco(tmp_path))
    assert (numbers, given.classes, given.files) == ((3, 8), ("red", "blue"), ("a.png",))
    shown = show(given, numbers, 32)
    np.testing.assert_array_equal(shown.boxes, [[8, 8, 24, 24], [40, 36, 56, 52]])
    np.testing.assert_array_equal(shown.photographs.boxes[0], shown.boxes / 2)
    assert [crop.shape for crop in shown.crops] == [(20, 20, 3), (20, 20, 3)]
    assert (shown.crops[0][3, 10] == RED).all()
    assert "classes of one example: red, blue" in shown.notes[0]
    only, numbers = read_support(tmp_path / "boxes.json", classes=["blue"])
    assert (numbers, only.classes, only.boxes.tolist()) == (
        (8,),
        ("blue",),
        [[[0, 0, 0, 0], [40, 36, 56, 52]]],
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "a.png").rename(elsewhere / "a.png")
    assert read_support(tmp_path / "boxes.json", elsewhere)[0].files == ("a.png",)
    with pytest.raises(ValueError, match=r"a.png: there is no such file"):
        read_support(tmp_path / "boxes.json")


def test_support_of_voc_files(tmp_path):
    Image.fromarray(support().images[0]).save(tmp_path / "a.png")
    corners = "".join(
        f"<{name}>{value}</{name}>"
        for name, value in zip(("xmin", "ymin", "xmax", "ymax"), (9, 9, 24, 24), strict=True)
    )
    (tmp_path / "a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>64</width><height>64</height></size>"
        f"<object><name>red</name><bndbox>{corners}</bndbox></object></annotation>"
    )
    given, numbers = read_support(tmp_path)
    assert (numbers, given.classes, given.boxes.tolist()) == ((1,), ("red",), [[[8, 8, 24, 24]]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, r"boxes.json: has no boxes: draw one around"),
        ({"annotations": [annotation(3, 60, 8, 16, 16)]}, r"annotation 1: box .* of 64x64 is outside of it"),
        ({"annotations": [annotation(3, 8, 8, 0, 16)]}, r"has no side: correct it"),
        ({"annotations": [annotation(3, 8, 8, -4, 16)]}, r"has a negative side: is it x1, y1, x2, y2\?"),
        ({"annotations": [annotation(9, 8, 8, 16, 16)]}, r"category_id 9 is unknown, known are 3, 8"),
        (
            {"images": [{"id": 5, "file_name": "a.png", "width": 63, "height": 64}]},
            r"its annotation says 63x64",
        ),
    ],
)
def test_support_files_that_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_support(coco(tmp_path, **change))


def test_support_boxes_are_repaired_on_request(tmp_path):
    path = coco(tmp_path, annotations=[annotation(3, 50, 8, 20, 16), annotation(8, 8, 8, 4, 16)])
    with pytest.warns(UserWarning, match="1 boxes were cut off at the border and 0 dropped"):
        given, _ = read_support(path, faulty="repair")
    np.testing.assert_array_equal(given.boxes[0], [[50, 8, 64, 24], [8, 8, 12, 24]])


def test_damaged_support_pictures_are_named(tmp_path):
    path = coco(tmp_path)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"a.png: cannot be decoded"):
        read_support(path)


def test_classes_without_a_usable_box_are_refused(tmp_path):
    path = coco(tmp_path, annotations=[annotation(3, 8, 8, 16, 16), annotation(8, 8, 8, 16, 16, iscrowd=1)])
    given, numbers = read_support(path)
    with pytest.raises(ValueError, match=r"no usable box of blue: draw one, or name .* classes=\('red',\)"):
        show(given, numbers, P)
    with pytest.raises(ValueError, match="no boxes"):
        read_support(boxed([np.zeros((8, 8, 3), np.uint8)], [np.zeros((0, 4))], [[]], ("a",)))
    with pytest.raises(ValueError, match="photographs already"):
        read_support(support(), tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        read_support(tmp_path / "nothing.json")


def test_grey_support_and_small_boxes():
    grey = boxed([np.zeros((64, 64, 1), np.uint8)], [np.array([[0, 0, 6, 30]])], [[0]], ("a",))
    shown = show(grey, (1,), 32)
    assert shown.photographs.images.shape == (1, 32, 32, 3)
    assert "1 support boxes are under 8 pixels at a working size of 32" in shown.notes[0]
    with pytest.raises(ValueError, match="photograph of 4 channels"):
        show(boxed([np.zeros((64, 64, 4), np.uint8)], [np.array([[0, 0, 6, 30]])], [[0]], ("a",)), (1,), 32)


# Windows


def test_windows_have_the_shapes_of_the_support():
    boxes = np.array([[0, 0, 10, 20], [5, 5, 15, 25], [0, 0, 40, 10]], np.float32)
    config = WindowConfig(shapes=2, scales=(1.0, 2.0))
    shapes = shapes_of(boxes, np.array([0, 0, 1], np.int32), config)
    assert {tuple(shape) for shape in shapes.tolist()} == {(10, 20), (20, 40), (40, 10), (80, 20)}


@pytest.mark.parametrize("most", [8192, 300])
def test_windows_lie_everywhere(most):
    shapes = np.array([[16.0, 16.0], [30.0, 12.0], [100.0, 20.0]])
    windows = sliding(shapes, P, WindowConfig(most=most))
    assert len(windows) <= most
    assert windows.min() >= 0
    assert windows.max() == P  # also where a shape is wider than the photograph
    if most == 8192:
        rng = np.random.default_rng(0)
        for width, height in ((16, 16), (30, 12)):
            for _ in range(50):
                x, y = rng.uniform(0, (P - width, P - height))
                box = np.array([[x, y, x + width, y + height]])
                # A step of .3 leaves at most .15 along each axis: IoU of .85² / (2 - .85²).
                assert threshold_module._iou(windows.astype(float), box).max() >= 0.56


def test_squares_are_found_in_photographs_of_any_size(found):
    given = [
        scene(64, 64, (BLUE, 10, 30, 16), seed=7),
        scene(120, 240, (RED, 130, 30, 60), (BLUE, 20, 50, 60), seed=8),  # 3.75 times as large
        scene(32, 20, (RED, 4, 6, 8), seed=9),  # half as large
    ]
    TRACES.clear()
    answer = detect(found, [image for image, _ in given])
    assert len(TRACES) <= 1  # none where the fixture's compilation serves
    assert answer.sizes.tolist() == [[64, 64], [120, 240], [32, 20]]
    wanted = [["blue"], ["blue", "red"], ["red"]]
    for row, (_, boxes) in enumerate(given):
        mine = answer.of(row)
        iou = threshold_module._iou(mine.boxes, boxes.astype(np.float64))
        assert sorted(mine.names) == wanted[row]
        assert iou.max(axis=0).min() > 0.6
        assert (mine.boxes >= 0).all()
        assert (mine.boxes[:, 2:] <= answer.sizes[row, ::-1]).all()
    near = [found.classes[found.support.labels[i]] for i in answer.nearest.tolist()]
    assert tuple(near) == answer.names
    assert (answer.distance < 0.7).all()
    assert (answer.scores >= found.threshold).all()
    np.testing.assert_allclose(answer.background, 1 - answer.scores, atol=0.2)


def test_scores_of_windows_are_the_documented_posterior(found):
    """Against a plain retelling on the model's own windows."""
    image, _ = scene(64, 64, (RED, 20, 20, 16), seed=5)
    answer = detect(found, image, threshold=0.0)
    model, finder = found.model, found.finder
    sight = finder.look(image[None])
    f = finder.features(image[None], model.windows[None], np.ones((1, len(model.windows)), bool))[0]
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    of_class = np.stack([(f @ model.support[model.labels == n].T).max(axis=1) for n in range(2)], axis=1)
    none = (f @ model.background[model.there].T).max(axis=1)
    e = np.exp((np.concatenate([of_class, none[:, None]], axis=1) - 1) / 0.05)
    p = e / e.sum(axis=1, keepdims=True)
    kept = []
    for n in range(2):
        alive = np.argsort(-p[:, n], kind="stable")
        while len(alive):
            best, rest = alive[0], alive[1:]
            kept.append((p[best, n], n, model.windows[best]))
            over = threshold_module._iou(model.windows[best : best + 1], model.windows[rest])[0]
            alive = rest[over <= 0.3]
    kept.sort(key=lambda one: -one[0])
    np.testing.assert_allclose(answer.scores, [one[0] for one in kept[:10]], rtol=1e-3)
    np.testing.assert_allclose(answer.boxes[0], kept[0][2])
    assert sight[0].shape == (1, 16, 16, 3)


def test_what_was_assumed_is_told(found):
    assert repr(found) == "NewClasses(red, blue; 5 boxes, sliding windows, 64 pixels)"
    first, second = found.notes
    assert first.startswith("sliding windows over pretrained features, no trained proposals")
    assert "best F1 (1.00) on 3 support photographs, 5 boxes" in second
    single = new_classes(KEY, WINDOWS, support().take([0]), pixels=P)
    assert "classes of one example: red, blue" in single.notes[0]
    assert single.notes[2] == "threshold 0.5, as likely as not, a guess: no class is in two photographs"
    assert single.threshold == 0.5
    image, boxes = scene(64, 64, (BLUE, 10, 30, 16), seed=7)
    answer = detect(single, image)
    assert answer.names[0] == "blue"
    assert threshold_module._iou(answer.boxes, boxes.astype(np.float64))[0, 0] > 0.6
    assert single.detector is None
    assert single.representatives is None


# The threshold


class Scripted:
    """A finder that says what it is told, photograph by photograph."""

    kind, more = "windows", ()

    def look(self):
        """Not asked for."""

    features = fingerprint = look

    def __init__(self, seen):
        self.seen, self.learned = seen, []

    def learn(self, key, shown, keep, ways):
        self.learned.append(keep)

    def anchors(self, model, shown):
        return np.zeros((1, 1)), np.zeros(1, np.int32)

    def judge(self, model, known, sight, size, ways):
        return self.seen[int(sight)]


def seen(*found):
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
    out = threshold_module.leave_photographs_out(KEY, finder, shown, 2)
    assert (out.boxes, out.photographs) == (3, 2)
    order = np.argsort(-out.scores)
    np.testing.assert_allclose(out.scores[order], [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2])
    assert out.right[order].tolist() == [True, False, False, True, False, True, False]
    assert [keep.tolist() for keep in finder.learned] == [
        [False, False, True, True],
        [True, True, False, False],
    ]
    chosen = threshold_module.choose_threshold(KEY, finder, None, shown, 2)
    f1 = {
        least: 2 * out.right[out.scores >= least].sum() / ((out.scores >= least).sum() + 3)
        for least in out.scores.tolist()
    }
    best = max(f1, key=lambda least: (f1[least], least))
    assert best == pytest.approx(0.3)
    assert chosen.score == pytest.approx((0.3 + 0.2) / 2)  # half way to the next


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
    chosen = threshold_module.choose_threshold(KEY, finder, None, shown, 1)
    assert chosen.score == pytest.approx(0.75)
    assert chosen.score > np.float32(0.75)
    assert "the highest score beside the support boxes, a guess" in chosen.note
    finder = Scripted([seen((BOX, 0, 0.9), (FAR, 0, 0.25))])
    assert threshold_module.choose_threshold(KEY, finder, None, shown, 1).score == 0.5


# A trained detector


def test_a_detector_finds_what_its_parts_say(trained):
    """Against a plain retelling: regions, RepMet's posterior, greedy suppression, the photograph's scale."""
    given = support().take([0, 1])
    made = new_classes(KEY, trained, given, pixels=P, config=SupportConfig(regions=0), threshold=0.0)
    image, _ = scene(32, 24, (RED, 4, 6, 8), seed=9)
    answer = detect(made, image)
    fit = fit_photos([image], P)
    regions = find_regions(trained, fit.images)
    head = trained.params["repmet"]["head"]["Dense_0"]

    def embedded(features):
        e = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        return e / np.linalg.norm(e, axis=1, keepdims=True)

    features = box_features(trained, np.asarray(given.images), given.boxes, given.shown)
    modes = embedded(features[given.shown])
    labels = given.labels[given.shown]
    np.testing.assert_allclose(made.embeddings[np.argsort(made.owner)], modes, atol=1e-5)
    e = embedded(regions.features[0])
    squared = ((e[:, None] - modes[None]) ** 2).sum(axis=2)
    near = np.exp(-2 * squared)  # sigma .5
    c = np.stack([near[:, labels == n].max(axis=1) for n in range(2)], axis=1) + 1e-7
    logits = 15 * np.concatenate([c, 1 + 1e-7 - c.max(axis=1, keepdims=True)], axis=1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    boxes = np.clip(regions.boxes[0], 0, [48, 64, 48, 64])
    there = regions.mask[0] & ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    kept = []
    for n in range(2):
        alive = [i for i in np.argsort(-p[:, n], kind="stable") if there[i]]
        while alive:
            best, *rest = alive
            kept.append((p[best, n], n, best))
            alive = [i for i in rest if threshold_module._iou(boxes[[best]], boxes[[i]])[0, 0] <= 0.3]
    kept.sort(key=lambda one: -one[0])
    kept = kept[: CONFIG.per_image]
    assert len(answer) == len(kept) > 2
    np.testing.assert_allclose(answer.scores, [one[0] for one in kept], rtol=1e-3)
    assert answer.labels.tolist() == [n for _, n, _ in kept]
    rows = [i for *_, i in kept]
    np.testing.assert_allclose(answer.boxes, boxes[rows] / 2, atol=1e-2)
    np.testing.assert_allclose(answer.background, p[rows, 2], rtol=1e-3)
    assert answer.nearest.tolist() == squared[rows].argmin(axis=1).tolist()
    np.testing.assert_allclose(answer.distance, np.sqrt(squared[rows].min(axis=1)), atol=1e-3)
    assert made.representatives.modes.shape == (2, 5, 6)
    assert made.detector is trained


def test_classes_trained_on_are_found_too_on_request(trained):
    config = SupportConfig(keep_base=True)
    made = new_classes(KEY, trained, support(), config=config, threshold=0.0)
    assert made.classes == ("red", "blue", "cat", "blue (trained)")
    assert made.category_ids == (1, 2, 3, 4)
    assert made.pixels == P  # what the detector was trained on
    answer = detect(made, scene(64, 64, seed=3)[0])
    assert (answer.labels < 2).any()
    assert (answer.labels >= 2).any()
    assert (answer.nearest[answer.labels >= 2] == -1).all()
    assert (answer.nearest[answer.labels < 2] >= 0).all()
    assert answer.rows()[int(np.argmax(answer.labels >= 2))]["nearest"] == ""
    assert answer.picture(0).width == 480 + PANEL


@pytest.mark.long
def test_a_method_or_tuning_of_ones_own(trained, tmp_path):
    made = new_classes(KEY, trained, support(), method=class_mean(trained.net), threshold=0.0)
    assert made.representatives.modes.shape[:2] == (2, 1)
    with pytest.raises(ValueError, match="cannot be saved"):
        save_new_classes(tmp_path / "x.safetensors", made)
    tuning = DetectionTuning(epochs=1, learning_rate=0.1)
    tuned = new_classes(KEY, trained, support(), tuning=tuning, threshold=0.0)
    plain = new_classes(KEY, trained, support(), threshold=0.0)
    assert not np.allclose(tuned.representatives.modes, plain.representatives.modes)
    save_new_classes(tmp_path / "tuned.safetensors", tuned)
    again = load_new_classes(tmp_path / "tuned.safetensors", trained)
    image = scene(64, 64, (RED, 8, 8, 16))[0]
    np.testing.assert_array_equal(detect(again, image).scores, detect(tuned, image).scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold must be a score, 0 to 1, or None to choose one, got 1.5"),
        ({"pixels": 60}, "pixels must be a multiple of 32 from 32 to 4096, got 60"),
        ({"config": SupportConfig()}, "config, method and tuning are of trained detectors"),
        ({"classes": ["green"]}, "green"),
    ],
)
def test_settings_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        new_classes(KEY, WINDOWS, support(), **options)


def test_methods_that_are_refused(trained):
    with pytest.raises(ValueError, match="tuning is of RepMet's method"):
        new_classes(KEY, trained, support(), method=class_mean(trained.net), tuning=DetectionTuning())
    with pytest.raises(ValueError, match=r"DetectionTuning\(what='head'\) here"):
        new_classes(KEY, trained, support(), tuning=DetectionTuning(what="all"))
    config = SupportConfig(compat_support=True, iou=1.0)
    with pytest.raises(ValueError, match="no region of the detector overlaps a support box of red"):
        new_classes(KEY, trained, support(), config=config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("shapes", 0), ("step", 0.0), ("scales", ()), ("bins", ((0, 0),)), ("nms", 2.0), ("temperature", 0.0)],
)
def test_window_configs_that_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        WindowConfig(**{field: value})


def test_windows_need_the_levels_they_look_at():
    with pytest.raises(ValueError, match="colours has 2 levels"):
        Windows(pyramid(), WindowConfig(bins=((2, 3),)))


def test_detectors_come_from_files_or_the_plugin(monkeypatch, tmp_path):
    monkeypatch.setattr(detect_module, "plugin_pyramid", lambda name: pyramid())
    config = WindowConfig(bins=((0, 2),))
    assert detector(windows=config).config is config
    assert "no trained proposals" in repr(detector(windows=config))
    with pytest.raises(ValueError, match="windows are for weights=None"):
        detector(tmp_path / "x.safetensors", windows=config)
    with pytest.raises(FileNotFoundError):
        detector(tmp_path / "x.safetensors")


# What was found


@pytest.fixture(scope="module")
def answer(found):
    first, second = scene(64, 64, (BLUE, 10, 30, 16), seed=7), scene(40, 64, (RED, 30, 10, 16), seed=8)
    return detect(found, [first[0], second[0], scene(64, 64, seed=4)[0]])


def test_tables_name_photograph_class_box_and_example(answer, tmp_path):
    lines = answer.table().splitlines()
    assert lines[0].split() == ["file", "label", "score", "box", "nearest", "example", "distance"]
    assert lines[1].split()[:3] == ["photo", "0", "blue"]
    assert len(lines) == 1 + len(answer) == 3
    assert answer.table(1).splitlines()[-1] == "... and 1 more"
    assert answer.names == ("blue", "red")
    assert [row["file"] for row in answer.rows()] == ["photo 0", "photo 1"]
    assert answer.rows()[1]["nearest"] in ("a #1", "b #1")
    answer.to_csv(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().splitlines()[0].startswith("file,label,score,background,x1")
    assert repr(answer).startswith("FoundObjects(2 boxes in 3 photographs, score from")
    assert len(answer.of("photo 2")) == 0
    with pytest.raises(ValueError, match="no photograph 'x'"):
        answer.of("x")
    assert len(answer.above(1.0)) == 0
    assert answer.above(0.0).threshold == answer.threshold


def test_coco_files_come_back_the_same(answer, tmp_path):
    detections, images = answer.to_coco(tmp_path / "new")
    known = read_coco(images)
    assert (known.files, known.classes) == (answer.files, answer.classes)
    np.testing.assert_array_equal(known.sizes, answer.sizes)
    again = read_coco_detections(detections, known)
    np.testing.assert_allclose(again.boxes, answer.boxes)
    np.testing.assert_array_equal(again.labels, answer.labels)
    np.testing.assert_array_equal(again.scores, answer.scores)
    assert set(json.loads(detections.read_text())[0]) == {"image_id", "category_id", "bbox", "score"}


def test_pictures_show_boxes_and_nearest_examples(answer, tmp_path):
    written = answer.draw(tmp_path / "pictures")
    assert [path.name for path in written] == ["photo 0.png", "photo 1.png", "photo 2.png"]
    sizes = []
    for path in written:
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert sizes == [(480 + PANEL, 480), (480 + PANEL, 300), (480, 480)]  # small ones are enlarged
    assert len(answer.draw(tmp_path / "some", empty=False)) == 2


def test_drawn_boxes_have_the_colour_of_their_class():
    black = np.zeros((480, 600, 3), np.uint8)
    crop = np.full((30, 20, 3), 77, np.uint8)
    found = [Drawn((100, 100, 200, 180), label, f"class {label}", 0.5, crop, "a.jpg") for label in (0, 9)]
    for one in found:
        picture = np.asarray(draw_boxes(black, [one]))
        shade = [int(COLOURS[one.label % 8][i : i + 2], 16) for i in (1, 3, 5)]
        for y, x in ((140, 100), (140, 199), (179, 150)):
            assert picture[y, x].tolist() == shade
            assert picture[y + 10 * (y == 179), x + 10 * (x != 150)].tolist() != shade
        assert picture[140, 150].tolist() == [0, 0, 0]  # the inside stays as it is
        assert (picture[40:60, 615:640] == 77).any()  # the example
        assert (picture[85:98, 105:160] == shade).all(axis=2).any()  # its label is above it
    assert draw_boxes(np.zeros((3000, 1500, 3), np.uint8), []).size == (800, 1600)
    # Labels of boxes at one place do not cover each other, and stay inside the picture.
    many = draw_boxes(
        black, [Drawn((0, 0, 60, 40), i, "a long name of a class", 0.5, crop, "x") for i in range(3)]
    )
    assert many.size == (600 + PANEL, 480)


def test_names_of_pictures_are_told_apart():
    assert picture_names(["a/b.jpg", "a_b.png", "c\\d.png", "e"]) == [
        "a_b.png",
        "a_b_2.png",
        "c_d.png",
        "e.png",
    ]


def test_damaged_photographs_are_refused_or_skipped(found, tmp_path):
    image, _ = scene(64, 64, (BLUE, 10, 30, 16), seed=7)
    Image.fromarray(image).save(tmp_path / "good.jpg", quality=95)
    (tmp_path / "bad.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"bad.jpg: cannot be decoded"):
        detect(found, tmp_path)
    told = []
    with pytest.warns(UserWarning, match=r"1 files were skipped, the first .*bad.jpg: cannot be decoded"):
        answer = detect(found, tmp_path, unreadable="skip", on_chunk=told.append)
    assert (answer.files, answer.names) == (("good.jpg",), ("blue",))
    assert [(chunk.done, chunk.total) for chunk in told] == [(2, 2)]
    assert answer.picture(0).size == (480 + PANEL, 480)  # the photograph is the right one
    with (
        pytest.raises(ValueError, match="no picture that can be read"),
        pytest.warns(UserWarning, match="skip"),
    ):
        detect(found, [tmp_path / "bad.jpg"], unreadable="skip")
    with pytest.raises(ValueError, match="'refuse' or 'skip'"):
        detect(found, image, unreadable="ignore")
    with pytest.raises(ValueError, match="threshold must be a score"):
        detect(found, image, threshold=-1.0)


def test_photographs_of_the_support_are_no_test(found):
    with pytest.warns(UserWarning, match="1 photographs are of the support, where they are no test: photo 0"):
        detect(found, support().images[0])


# Files


def test_classes_come_back_the_same(found, answer, tmp_path):
    path = tmp_path / "new.safetensors"
    save_new_classes(path, found)
    again = load_new_classes(path, WINDOWS)
    assert (again.classes, again.notes, again.threshold) == (found.classes, found.notes, found.threshold)
    other = detect(again, answer.photos)
    assert other.table() == answer.table()
    np.testing.assert_array_equal(other.picture(0), answer.picture(0))


def test_classes_of_another_detector_are_refused(found, trained, tmp_path):
    path = tmp_path / "new.safetensors"
    save_new_classes(path, found)
    with pytest.raises(ValueError, match=r"was made with sliding windows: give that"):
        load_new_classes(path, trained)
    with pytest.raises(ValueError, match=r"on colours whose weights was .*: give that detector"):
        load_new_classes(path, Windows(pyramid(2.0), WINDOWS.config))
    made = new_classes(KEY, trained, support(), threshold=0.5)
    save_new_classes(path, made)
    assert load_new_classes(path, trained).threshold == 0.5
    with pytest.raises(ValueError, match="a trained detector"):
        load_new_classes(path, WINDOWS)
    with pytest.raises(ValueError, match="whose weights was"):
        load_new_classes(
            path, dataclasses.replace(trained, params=jax.tree.map(lambda x: x + 1, trained.params))
        )


def test_other_files_are_no_classes(found, tmp_path):
    import safetensors.numpy

    path = tmp_path / "new.safetensors"
    save_new_classes(path, found)
    whole = path.read_bytes()
    tensors = safetensors.numpy.load(whole)
    with safetensors.safe_open(path, "np") as file:
        metadata = dict(file.metadata())
    told = json.loads(metadata["classes"])

    def write(**change):
        some = {**tensors, **change.get("tensors", {})}
        text = {
            **metadata,
            "classes": json.dumps({**told, **change.get("told", {})}),
            **change.get("metadata", {}),
        }
        path.write_bytes(safetensors.numpy.save(some, text))

    for change, message in (
        ({"metadata": {"format": "other"}}, "is no file of new classes"),
        ({"metadata": {"schema": "9"}}, "has schema version 9"),
        ({"metadata": {"classes": "{"}}, "is damaged"),
        ({"told": {"threshold": 3.0}}, "its threshold do not fit"),
        ({"told": {"classes": ["red"]}}, "its classes do not fit"),
        ({"tensors": {"owner": np.full(5, 9, np.int32)}}, "its owner do not fit"),
        ({"tensors": {"box_labels": np.full(5, 7, np.int32)}}, "its labels do not fit"),
    ):
        write(**change)
        with pytest.raises(ValueError, match=message):
            load_new_classes(path, WINDOWS)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"is no .safetensors file, or damaged"):
        load_new_classes(path, WINDOWS)
