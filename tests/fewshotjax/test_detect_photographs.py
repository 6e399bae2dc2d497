"""What users give: photographs of all kinds, and boxes of examples."""

import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshotjax.detection.data import boxed
from fewshotjax.detection.photos import fit_photos, photos
from fewshotjax.detection.user_support import read_support, show


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
P = squares.P
scene = squares.scene
support = squares.support


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
    assert photos([tmp_path / "x.png"] * 2).files == (
        (tmp_path / "x.png").as_posix(),
        f"{tmp_path}/x.png (1)",
    )


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


def test_photographs_without_a_box_are_kept_where_that_is_wanted(tmp_path):
    sizes = {"width": 64, "height": 64}
    images = [{"id": 5, "file_name": "a.png", **sizes}, {"id": 6, "file_name": "b.png", **sizes}]
    path = coco(tmp_path, images=images)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "b.png")
    assert read_support(path)[0].files == ("a.png",)
    whole, _ = read_support(path, keep_empty=True)
    assert whole.files == ("a.png", "b.png")
    assert whole.shown.sum(axis=1).tolist() == [2, 0]


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
