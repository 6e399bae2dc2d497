"""ImageNet folders: labels by sorted wnid or by a table, the parts, and every refusal."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nemojax import data
from nemojax.data.parts import report_and_calibration
from nemojax.sources import Source

WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361")


def layout(root: Path, wnids=WNIDS, each=2) -> Path:
    rng = np.random.default_rng(0)
    for wnid in wnids:
        (root / wnid).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).save(
                root / wnid / f"{wnid}_{i}.JPEG", "PNG"
            )
    return root


def test_all_classes_in_sorted_order(tmp_path):
    layout(tmp_path / "val", WNIDS[::-1])
    layout(tmp_path / "train", each=3)
    for place, part, each in ((tmp_path, "val", 2), (tmp_path, "train", 3), (tmp_path / "val", "val", 2)):
        found = data.imagenet(place, part, classes=4)
        assert found.names == tuple(f"{w}/{w}_{i}.JPEG" for w in WNIDS for i in range(each))
        np.testing.assert_array_equal(found.labels, np.repeat(np.arange(4), each))
        assert found.labels.dtype == np.int32
        assert found.classes == WNIDS
        assert len(found) == 4 * each
    first = Image.open(tmp_path / "val" / WNIDS[3] / f"{WNIDS[3]}_1.JPEG")
    found = data.imagenet(tmp_path, classes=4)
    np.testing.assert_array_equal(found.picture(7), first)
    assert found.label(7) == 3
    assert data.imagenet(tmp_path, classes=None).classes == WNIDS


SYNSETS = "n00000001 zero\nn01440764 tench, Tinca tinca\nn01443537 goldfish\n\nn01484850 shark\nn01491361\n"


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        (SYNSETS, 5),
        ("wnid,label,name\nn01484850,3,shark\nn01440764,1,\nn01491361,4,x\nn01443537,2,y\n", 1000),
        ('label, wnid\n4,n01491361\n1,n01440764\n2,"n01443537"\n3,n01484850\n', 5),
        ("file,label,wnid\na,3,n01484850\nb,1,n01440764\nc,4,n01491361\nd,2,n01443537\ne,0,n00000001\n", 5),
    ],
)
def test_a_table_says_the_classes(tmp_path, text, classes):
    layout(tmp_path / "val")
    (tmp_path / "table").write_text(text)
    found = data.imagenet(tmp_path, table=tmp_path / "table", classes=classes)
    np.testing.assert_array_equal(found.labels, np.repeat([1, 2, 3, 4], 2))
    if "zero" in text:
        assert found.classes == ("zero", "tench, Tinca tinca", "goldfish", "shark", "")
        (tmp_path / "table").rename(tmp_path / "LOC_synset_mapping.txt")  # is found by itself
        np.testing.assert_array_equal(data.imagenet(tmp_path, classes=5).labels, found.labels)


def test_labels_csv_goes_before(tmp_path):
    layout(tmp_path / "val")
    (tmp_path / "val" / "labels.csv").write_text("file,label\nn01484850/n01484850_1.JPEG,7\n")
    found = data.imagenet(tmp_path, classes=8)
    assert (found.names, found.labels.tolist()) == (("n01484850/n01484850_1.JPEG",), [7])
    with pytest.raises(ValueError, match="label 7 is outside 0-6"):
        data.imagenet(tmp_path, classes=7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: write lines 'n01440764 tench'"),
        ("tench\n", "line 1: 'tench' is no wnid such as n01440764"),
        ("n01440764 a\nn01440764 b\n", "line 2: n01440764 was there already"),
        ("n01440764 a\n", "has 1 lines, but the network 4 classes"),
        ("wnid\nn01440764\n", "its first line does not name the columns wnid and label"),
        ("wnid,label\nn01440764,1\nn01443537,1\n", "line 3: label 1 was there already"),
        ("wnid,label\nn01440764,4\n", "line 2: label 4 is outside 0-3"),
        ("wnid,label\nn01440764,-1\n", "line 2: label '-1' is not a class index"),
        ("wnid,label\nn01440764\n", "line 2: label '' is not a class index"),
        ("wnid,label\nn0144076,1\n", "line 2: 'n0144076' is no wnid"),
        ('wnid,label\n"n01440764,1\n', "is no table"),
        ("wnid,label\nn01440764,0\n", r"n01443537: is not in the table .*: add it or move it out"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, message):
    layout(tmp_path / "val")
    table = tmp_path / "classes.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        data.imagenet(tmp_path, table=table, classes=4)
    assert str(table) in str(error.value)
    assert "\n" not in str(error.value)


def test_tables_that_are_none(tmp_path):
    for name, content, message in (
        ("absent", None, "cannot be read"),
        ("binary", b"\xff\xfe\x00", "is no UTF-8 text"),
        ("huge", b"n01440764 tench\n" * 300_000, "is over 4 MiB"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            data.class_table(tmp_path / name)


def test_wrong_places_are_named(tmp_path):
    layout(tmp_path / "part" / "val")
    layout(tmp_path / "train_only" / "train")
    (layout(tmp_path / "empty_class" / "val") / "n09999999").mkdir()
    (layout(tmp_path / "notes" / "val") / WNIDS[0] / "a.txt").write_text("x")
    layout(tmp_path / "other" / "val", ("cat", "dog"))
    (tmp_path / "nothing" / "val").mkdir(parents=True)
    (tmp_path / "flat" / "val").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "flat" / "val" / "ILSVRC2012_val_00000001.JPEG")
    for name, classes, message in (
        ("part", 1000, r"has 4 of 1000 wnids, so their order says no class: give a table of classes"),
        ("train_only", 4, r"has a folder train but none for val"),
        ("empty_class", 5, r"n09999999: holds no pictures"),
        ("notes", 4, r"n01440764/a.txt: is not a picture by its name"),
        ("other", 2, r"the folder 'cat' is no wnid: give the folder above train and val"),
        ("nothing", 4, "has no folders"),
        ("flat", 4, r"'ILSVRC2012_val_00000001.JPEG' lies in no folder of a class: sort the pictures"),
        ("absent", 4, "no such folder"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            data.imagenet(tmp_path / name, classes=classes)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="part must be 'train' or 'val', got 'test'"):
        data.imagenet(tmp_path / "part", "test")


def numbered(count: int, tmp_path: Path) -> data.Pictures:
    return data.Pictures(Source(tmp_path), tuple(map(str, range(count))), np.arange(count, dtype=np.int32))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("total", "calibration"), [(20, 3), (7, 6), (1000, 64)])
def test_calibration_is_not_reported(tmp_path, seed, total, calibration):
    found, train = numbered(total, tmp_path), numbered(total, tmp_path)
    parts = report_and_calibration(found, None, calibration=calibration, seed=seed)
    held, left = parts.calibration.names, parts.report.names
    assert len(held) == calibration
    assert sorted(map(int, held + left)) == list(range(total))
    assert list(map(int, left)) == sorted(map(int, left))
    gaps = np.diff(parts.calibration.labels)
    assert gaps.max() - gaps.min() <= 1  # evenly spread, so over the classes too
    assert "left out of the report" in parts.said
    parts = report_and_calibration(found, train, calibration=calibration, seed=seed)
    assert parts.report is found
    assert parts.calibration.names == held
    assert "training part" in parts.said


def test_parts_without_calibration_and_of_a_smaller_report(tmp_path):
    found = numbered(10, tmp_path)
    parts = report_and_calibration(found, None, calibration=0, report=5)
    assert parts.calibration is None
    assert parts.report.names == ("0", "2", "4", "6", "8")
    seeds = {report_and_calibration(found, None, calibration=1, seed=s).calibration.names for s in range(20)}
    assert len(seeds) > 3
    with pytest.raises(ValueError, match="calibration takes 10 of 10 images and leaves none"):
        report_and_calibration(found, None, calibration=10)
    with pytest.raises(ValueError, match="report must be 1-8 images, which there are, got 9"):
        report_and_calibration(found, None, calibration=2, report=9)
    with pytest.raises(ValueError, match="calibration must be 1-10 images"):
        report_and_calibration(found, found, calibration=11)


def test_pictures_of_class_folders_and_tables(tmp_path):
    layout(tmp_path / "set", ("cat", "ant"))
    found = data.pictures(tmp_path / "set", classes=2)
    assert found.classes == ("ant", "cat")
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1])
    assert found.take([3, 0]).names == ("cat/cat_1.JPEG", "ant/ant_0.JPEG")
    (tmp_path / "set" / "labels.csv").write_text("file,label\ncat/cat_0.JPEG,5\n")
    found = data.pictures(tmp_path / "set")
    assert (found.names, found.classes, found.label(0)) == (("cat/cat_0.JPEG",), (), 5)
    with pytest.raises(ValueError, match="holds no pictures"):
        found.take([])
    with pytest.raises(ValueError, match="names and labels differ: 1 and 2"):
        data.Pictures(found.source, found.names, np.zeros(2, np.int32))
