"""Tables of files and of features: order, classes, splits, and errors that name the line."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshotjax.data import csv_table, feature_table

TABLE = "file,label,split\nx/3.png,dog,train\n1.png,cat,train\n./2.png,ant,test\n"


def picture(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (value,) * 3).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "x").mkdir()
    for name, value in {"1.png": 1, "2.png": 2, "x/3.png": 3}.items():
        (tmp_path / name).write_bytes(picture(value))
    return tmp_path


def table(place: Path, text: str) -> Path:
    (place / "t.csv").write_text(text, encoding="utf-8")
    return place / "t.csv"


def test_pictures_in_the_order_of_the_table(place):
    found = csv_table(table(place, "\ufeff" + TABLE))
    assert found.classes == ("ant", "cat", "dog")
    assert found.labels.tolist() == [2, 1, 0]
    assert found.images[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert found.files == ("x/3.png", "1.png", "2.png")
    train = csv_table(place / "t.csv", split="train", pixels=5, channels=1)
    assert (train.classes, train.labels.tolist()) == (("cat", "dog"), [1, 0])
    assert train.images.shape == (2, 5, 5, 1)
    some = csv_table(place / "t.csv", classes=["dog", "ant"])
    assert (some.classes, some.labels.tolist()) == (("dog", "ant"), [0, 1])


def test_files_in_an_archive_and_numbers_as_labels(place):
    with zipfile.ZipFile(place / "p.zip", "w") as archive:
        for i in range(3):
            archive.writestr(f"p/{i}.png", picture(i))
    found = csv_table(table(place, "label,file\n10,p/0.png\n9,p\\1.png\n10,p/2.png\n"), place / "p.zip")
    assert (found.classes, found.labels.tolist()) == (("9", "10"), [1, 0, 1])
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line does not name the column file: add it"),
        ("file;label\n1.png;cat\n", "column file: separate the columns by commas"),
        ("file,label\n", "has no rows below its first line"),
        ("file,label\n1.png,cat\n\n9.png,cat\n", "line 4: there is no '9.png' in"),
        ("file,label\n1.png,cat\n../1.png,cat\n", "line 3: '../1.png' leaves the folder"),
        ("file,label\n/etc/hostname,cat\n", "line 2: '/etc/hostname' leaves the folder"),
        ("file,label\n1.png,cat\nx/../1.png,cat\n", "line 3: 'x/../1.png' leaves the folder"),
        ("file,label\n1.png,cat\n./1.png,dog\n", "line 3: './1.png' was listed before"),
        ("file,label\n1.png,\n", "line 2: has no label"),
        ("file,label\n,cat\n", "line 2: has no file"),
        ("file,label\n1.png,cat,dog\n", "line 2: has 3 cells, the first line 2"),
        ("file,label\n1.png\n", "line 2: has 1 cells"),
        ('file,label\n"1.png,cat\n', "is no UTF-8 CSV"),
        ("file,label\nt.csv,cat\n", "t.csv: is no picture"),
        ("file,label\nx,cat\n", "there is no 'x'"),
    ],
)
def test_errors_name_the_line(place, text, message):
    with pytest.raises(ValueError, match=message):
        csv_table(table(place, text))


def test_splits_that_are_not_there(place):
    with pytest.raises(ValueError, match=r"has no rows of split 'val': it has test, train"):
        csv_table(table(place, TABLE), split="val")
    with pytest.raises(ValueError, match="does not name the column split"):
        csv_table(table(place, "file,label\n1.png,cat\n"), split="val")
    with pytest.raises(ValueError, match=r"nowhere.csv: cannot be read"):
        csv_table(place / "nowhere.csv")
    (place / "t.csv").write_bytes(b"file,label\n\xff\xfe,cat\n")
    with pytest.raises(ValueError, match="is no UTF-8 CSV"):
        csv_table(place / "t.csv")


def test_features_are_what_numpy_reads(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 7)).astype(np.float32)
    labels = rng.integers(8, 12, 20)
    lines = [
        ",".join([*map(repr, row[:3].tolist()), str(label), *map(repr, row[3:].tolist())])
        for row, label in zip(values, labels, strict=True)
    ]
    path = table(tmp_path, "f0,f1,f2,label,f3,f4,f5,f6\n" + "\n".join(lines))
    found = feature_table(path)
    np.testing.assert_array_equal(found.features, values)
    assert (found.features.dtype, found.labels.dtype) == (np.float32, np.int32)
    assert found.classes == tuple(map(str, sorted(set(labels.tolist()))))
    assert [int(found.classes[i]) for i in found.labels] == labels.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must name label and the features"),
        ("label\n1\n", "first line must name label and the features"),
        ("a,b\n1,2\n", "first line must name label"),
        ("label,a\n", "has no rows"),
        ("label,a,b\nx,1,2\ny,1,nan\n", "line 3: b is 'nan', no finite number"),
        ("label,a,b\nx,1,2\n\ny,-inf,2\n", "line 4: a is '-inf', no finite"),
        ("label,a,b\nx,1,1e60\n", "line 2: b is '1e60', no finite"),
        ("label,a,b\nx,1,2\ny,1,two\n", "line 3: b is 'two', no finite number"),
        ("label,a,b\nx,1,\n", "line 2: b is '', no finite number"),
        ("label,a,b\n,1,2\n", "line 2: has no label"),
        ("label,a,b\nx,1\n", "line 2: has 2 cells, the first line 3"),
    ],
)
def test_features_that_are_no_numbers_are_named_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        feature_table(table(tmp_path, text))
