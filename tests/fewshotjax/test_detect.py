"""Coloured squares found by sliding windows, and what is shown of them."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshotjax.detection import found_objects
from fewshotjax.detection.data import boxed, read_coco, read_coco_detections
from fewshotjax.detection.detect import detect
from fewshotjax.detection.drawing import COLOURS, PANEL, Drawn, Missed, draw_boxes
from fewshotjax.detection.found_objects import picture_names
from fewshotjax.detection.metrics import GroundTruth
from fewshotjax.detection.new_classes import new_classes
from fewshotjax.detection.new_classes_files import load_new_classes, save_new_classes
from fewshotjax.detection.sliding import WindowConfig, shapes_of, sliding
from fewshotjax.detection.support import SupportConfig
from fewshotjax.detection.windows import Windows


def shared():
    """The module beside this one; pytest imports test files alone."""
    spec = importlib.util.spec_from_file_location(
        "coloured_squares", Path(__file__).with_name("coloured_squares.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


squares = shared()
RED = squares.RED
BLUE = squares.BLUE
P = squares.P
KEY = squares.KEY
TRACES = squares.TRACES
WINDOWS = squares.WINDOWS
pyramid = squares.pyramid
scene = squares.scene
support = squares.support
iou = squares.iou


@pytest.fixture(scope="module")
def found():
    return new_classes(KEY, WINDOWS, support(), pixels=P)


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
                assert iou(windows.astype(float), box).max() >= 0.56


def test_each_shape_has_a_window_at_least():
    shapes = np.array([[16.0, 16.0], [30.0, 12.0], [20.0, 20.0]])
    few = WindowConfig(scales=(1.0,), most=3)
    np.testing.assert_array_equal(sliding(shapes, P, few)[:, :2], np.zeros((3, 2)))
    with pytest.raises(ValueError, match="most is 2, and the support boxes have 3 shapes of windows"):
        sliding(shapes, P, dataclasses.replace(few, most=2))


def test_without_background_nothing_is_found(found):
    whole = boxed([scene(64, 64, (RED, 0, 0, 64))[0]], [np.array([[0, 0, 64, 64]])], [[0]], ("red",))
    with pytest.raises(ValueError, match="every window of the support photographs shows a support box"):
        new_classes(KEY, WINDOWS, whole, pixels=P)
    # As of a photograph that is left out where the others have no background.
    none = found.model._replace(there=np.zeros_like(found.model.there))
    image, _ = scene(64, 64, (RED, 20, 20, 16), seed=5)
    assert len(detect(dataclasses.replace(found, model=none), image, threshold=0.0)) == 0


def test_scores_and_features_that_are_nan_are_refused(found):
    image, _ = scene(64, 64, (RED, 20, 20, 16), seed=5)
    broken = found.model._replace(support=found.model.support * np.float32(np.nan))
    with pytest.raises(ValueError, match="photo 0: scores are NaN"):
        detect(dataclasses.replace(found, model=broken), image)
    with pytest.raises(ValueError, match="colours gives NaN or infinite features for image 0"):
        new_classes(KEY, Windows(pyramid(np.nan), WINDOWS.config), support(), pixels=P)


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
        over = iou(mine.boxes, boxes.astype(np.float64))
        assert sorted(mine.names) == wanted[row]
        assert over.max(axis=0).min() > 0.6
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
    sight, features = finder.study(image[None], model.windows[None], np.ones((1, len(model.windows)), bool))
    f = features[0]
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
            over = iou(model.windows[best : best + 1], model.windows[rest])[0]
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
    assert iou(answer.boxes, boxes.astype(np.float64))[0, 0] > 0.6
    assert single.detector is None
    assert single.representatives is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shapes", 0),
        ("step", 0.0),
        ("scales", ()),
        ("most", 2),
        ("bins", ((0, 0),)),
        ("nms", 2.0),
        ("temperature", 0.0),
    ],
)
def test_window_configs_that_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        WindowConfig(**{field: value})


def test_windows_need_the_levels_they_look_at():
    with pytest.raises(ValueError, match="colours has 2 levels"):
        Windows(pyramid(), WindowConfig(bins=((2, 3),)))


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
    for number in (3, -1):
        with pytest.raises(ValueError, match=f"no photograph {number}: their numbers are 0 to 2"):
            answer.of(number)
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
    picture = np.asarray(answer.picture(0))
    x1, y1, x2, y2 = (round(480 / 64 * edge) for edge in answer.boxes[0])
    orange = [int(COLOURS[1][i : i + 2], 16) for i in (1, 3, 5)]  # of blue, the second class
    assert picture[(y1 + y2) // 2, x1].tolist() == picture[(y1 + y2) // 2, x2 - 1].tolist() == orange
    panel = picture[30:94, 488:552].reshape(-1, 3).astype(int)
    crop = answer.support.crops[answer.nearest[0]].reshape(-1, 3)
    np.testing.assert_allclose(panel.mean(axis=0), crop.mean(axis=0), atol=20)  # the nearest example


def test_pictures_tell_what_is_wrong_and_what_was_missed(answer, monkeypatch):
    """One box hits, another does not, a difficult object counts for nothing, one object is missed."""
    shown = []
    monkeypatch.setattr(found_objects, "draw_boxes", lambda _, *drawn: shown.append(drawn))
    first = np.flatnonzero(answer.image_index == 0)
    hit, label = answer.boxes[first[0]], int(answer.labels[first[0]])
    far = [1.0, 1.0, 3.0, 3.0]
    labels, boxes = np.array([label, 1 - label, label, label]), np.array([hit, far, far, far])
    truth = GroundTruth(np.array([0, 0, 0, 1]), labels, boxes, np.array([False, False, True, False]))
    answer.picture(0, truth)
    answer.picture(0, truth.take(slice(0)))
    (found, missed), (all_wrong, none) = shown
    assert [one.name.endswith(", wrong") for one in found] == [i != first[0] for i in first]
    assert [(one.box, one.label) for one in missed] == [(far, 1 - label)]
    assert all(one.name.endswith(", wrong") for one in all_wrong)
    assert none == []
    with pytest.raises(ValueError, match="truth has label 2: it must count the 2: red, blue"):
        answer.picture(0, GroundTruth(np.array([0]), np.array([2]), np.array([far])))


def test_drawing_with_truth_matches_once(answer, tmp_path, monkeypatch):
    calls = []
    match = found_objects.voc_match
    monkeypatch.setattr(
        found_objects, "voc_match", lambda *given, **more: calls.append(1) or match(*given, **more)
    )
    truth = GroundTruth(answer.image_index, answer.labels, answer.boxes)
    written = answer.draw(tmp_path, truth=truth)
    assert len(written) == 3
    assert len(calls) == 1
    assert np.array_equal(np.asarray(Image.open(written[0])), np.asarray(answer.picture("photo 0", truth)))
    far = GroundTruth(np.array([7]), np.array([0]), np.array([[1.0, 1.0, 3.0, 3.0]]))
    for given, wanted, message in (
        (-1, truth, "no photograph -1: their numbers are 0 to 2"),
        ("x", truth, "no photograph 'x'"),
        (0, far, "truth has image_index 7: it must count the 3: photo 0, photo 1, photo 2"),
    ):
        with pytest.raises(ValueError, match=message):
            answer.picture(given, wanted)


def test_crowds_are_neither_wrong_nor_missed(answer, monkeypatch):
    shown = []
    monkeypatch.setattr(found_objects, "draw_boxes", lambda _, *drawn: shown.append(drawn))
    box = answer.boxes[0]
    around = np.array([[box[0] - 5, box[1] - 5, box[2] + 5, box[3] + 5]])
    label = np.array([int(answer.labels[0])])
    answer.picture(0, GroundTruth(np.array([0]), label, around, crowd=np.array([True])))
    ((found, missed),) = shown
    assert [one.name for one in found] == [answer.classes[label[0]]]
    assert missed == []


def test_what_was_missed_is_written_above_what_was_found():
    """Labels of found boxes do not hide it, wherever there is room."""
    black = np.zeros((480, 600, 3), np.uint8)
    crop = np.zeros((9, 9, 3), np.uint8)
    found = [Drawn((100 + i, 100, 160, 160), 0, "coin", 0.9, crop, "x") for i in range(3)]
    missed = [Missed((104, 104, 158, 158), 0, "coin")]
    alone = np.asarray(draw_boxes(black, [], missed))
    together = np.asarray(draw_boxes(black, found, missed))[:, :600]

    def whites(picture):
        return (picture == 255).all(axis=2).sum()

    frames = np.asarray(draw_boxes(black, found))[:, :600]
    assert whites(together) - whites(frames) > 0.5 * whites(alone)


def test_as_many_boxes_as_are_kept_are_said_to_be_so():
    photo = scene(64, 64, (RED, 4, 4, 16), (RED, 40, 4, 16), (RED, 4, 40, 16), (RED, 40, 40, 16), seed=9)[0]
    few = Windows(pyramid(), dataclasses.replace(WINDOWS.config, per_image=2))
    classes = new_classes(KEY, few, support(), pixels=P)
    with pytest.warns(
        UserWarning, match="1 photographs have 2 boxes, the most that are kept, the first photo 0"
    ):
        assert len(detect(classes, [photo], threshold=0.3)) == 2


def test_a_support_photograph_without_an_example_is_background():
    """Of BoxedImages; its windows stand for what is none of the classes, in all folds."""
    given = support()
    image, _ = scene(64, 64, (squares.GREEN, 20, 20, 24), seed=5)
    rows = [*given.images, image]
    boxes = [given.boxes[i][given.shown[i]] for i in range(3)] + [np.zeros((0, 4), np.float32)]
    labels = [given.labels[i][given.shown[i]].tolist() for i in range(3)] + [[]]
    found = new_classes(KEY, WINDOWS, boxed(rows, boxes, labels, ("red", "blue")), pixels=P)
    quota = len(np.asarray(found.model.there)) // 4
    assert np.asarray(found.model.there)[3 * quota :].any()
    assert len(detect(found, [scene(64, 64, (squares.GREEN, 12, 30, 24), seed=6)[0]])) == 0


def test_what_was_missed_is_dashed():
    black = np.zeros((480, 600, 3), np.uint8)
    picture = np.asarray(draw_boxes(black, [], [Missed((100, 100, 200, 180), 0, "coin")]))
    blue = [int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
    edge = (picture[179, 102:198] == blue).all(axis=1)
    assert 0.3 < edge.mean() < 0.7
    assert picture[140, 150].tolist() == [0, 0, 0]


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


def test_labels_cover_no_others_and_stay_inside_the_picture():
    black, crop = np.zeros((480, 600, 3), np.uint8), np.full((30, 20, 3), 77, np.uint8)
    name = "a long name of a class"
    many = draw_boxes(black, [Drawn((100, 100, 160, 160), i, name, 0.5, crop, "x") for i in range(3)])
    assert many.size == (600 + PANEL, 480)
    for label in range(3):  # above, below and inside: 21 x 150 pixels or more, letters on them
        shade = [int(COLOURS[label][i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.asarray(many)[:, :600] == shade).all(axis=2).sum() > 1500
    corner = np.asarray(draw_boxes(black, [Drawn((540, 0, 600, 40), 0, name, 0.5, crop, "x")]))
    shade = [int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]
    assert (corner[:70, 460:530, :] == shade).all(axis=2).sum() > 500  # moved to the left


def test_names_of_pictures_are_told_apart():
    assert picture_names(["a/b.jpg", "a_b.png", "c\\d.png", "e"]) == [
        "a_b.png",
        "a_b_2.png",
        "c_d.png",
        "e.png",
    ]
    assert picture_names(["a.jpg", "a.png", "a_2.png", "a.gif"]) == [
        "a.png",
        "a_2.png",
        "a_2_2.png",
        "a_3.png",
    ]
    assert picture_names(["x.jpg"] * 20_000)[-1] == "x_20000.png"  # hours where each starts to count anew


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


def test_classes_come_back_the_same(found, answer, tmp_path):
    path = tmp_path / "new.safetensors"
    save_new_classes(path, found)
    again = load_new_classes(path, WINDOWS)
    assert (again.classes, again.notes, again.threshold) == (found.classes, found.notes, found.threshold)
    other = detect(again, answer.photos)
    assert other.table() == answer.table()
    np.testing.assert_array_equal(other.picture(0), answer.picture(0))


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
        ({"metadata": {"format": "other"}}, "is no file of save_new_classes"),
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
