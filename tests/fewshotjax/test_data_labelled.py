"""Labelled images: what is refused, selecting and joining against plain loops, and identical images."""

import warnings

import numpy as np
import pytest

from fewshotjax.data import LabelledImages, Pictures, check_disjoint, concatenate, duplicates, from_arrays


def images(count: int, side: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def some() -> LabelledImages:
    labels = np.array([2, 0, 1, 0, 2, 2], np.int32)
    return LabelledImages(images(6), labels, ("a", "b", "c"), tuple(f"{i}.png" for i in range(6)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": images(6)[0]}, r"images must be a \(N, H, W, C\) array, got an array \(2, 2, 3\)"),
        ({"images": np.zeros((6, 0, 2, 3), np.uint8)}, "images must be a"),
        ({"images": images(6) / np.float32(255)}, "images must be uint8, values 0-255, got float32"),
        ({"labels": np.zeros(6, np.int64)}, "labels must be a .* of int64: use from_arrays"),
        ({"labels": np.zeros((6, 1), np.int32)}, r"labels must be .* got an array \(6, 1\)"),
        ({"labels": np.zeros(5, np.int32)}, "labels are 5, images 6"),
        ({"labels": np.array([0, 1, 2, 3, 0, 0], np.int32)}, "labels: 3.png has 3, outside the 3 classes"),
        ({"labels": np.array([0, -1, 2, 3, 0, 0], np.int32)}, "labels: 1.png has -1, outside"),
        ({"classes": ("a", "b", "a")}, "classes has 'a' twice"),
        ({"classes": "abc"}, r"classes must be a tuple \(text each\), got 'abc'"),
        ({"classes": ("a", "b", 3)}, r"classes must be a tuple \(text each\), got \('a', 'b', 3\)"),
        ({"files": ("x.png",)}, "files are 1, images 6"),
    ],
)
@pytest.mark.usefixtures("as_users_have_it")
def test_what_is_wrong_is_refused_at_construction(change, message):
    with pytest.raises(ValueError, match=message):
        LabelledImages(**{**vars(some()), **change})


def test_counts_length_and_what_is_printed():
    assert (len(some()), some().counts().tolist(), some().where(4)) == (6, [2, 1, 3], "4.png")
    assert repr(some()) == "LabelledImages(6 images of 2x2x3, 3 classes: a, b, c)"
    assert from_arrays(images(1), [0], [f"c{i}" for i in range(9)]).counts().tolist() == [1] + [0] * 8


@pytest.mark.parametrize("rows", [[4, 0, 0], np.array([5]), slice(1, None, 2), np.arange(6) > 3, []])
def test_take_is_indexing(rows):
    found, every = some().take(rows), some()
    index = np.arange(6)[np.array(rows, np.int64) if isinstance(rows, list) else rows]
    np.testing.assert_array_equal(found.images, every.images[index])
    np.testing.assert_array_equal(found.labels, every.labels[index])
    assert found.files == tuple(f"{i}.png" for i in index)
    assert found.classes == every.classes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([6], "rows has 6, outside 0-5"),
        ([-1], "rows has -1"),
        ([0.5], "rows must be"),
        (np.array([True]), "mask of shape"),
        ([[0]], "rows must be"),
    ],
)
def test_take_refuses_what_numpy_would_wrap_or_jax_clamp(rows, message):
    with pytest.raises(ValueError, match=message):
        some().take(rows)


def test_only_relabels_in_the_order_that_is_asked_for():
    found = some().only(["c", "a"])
    assert found.classes == ("c", "a")
    assert found.labels.tolist() == [0, 1, 1, 0, 0]
    assert found.files == ("0.png", "1.png", "3.png", "4.png", "5.png")
    np.testing.assert_array_equal(found.images, some().images[[0, 1, 3, 4, 5]])
    assert some().only("b").files == ("2.png",)
    for names, message in ((["a", "d"], "'d', which is none of the 3"), (["a", "a"], "twice"), ([], "empty")):
        with pytest.raises(ValueError, match=message):
            some().only(names)


def test_from_arrays_takes_numbers_and_names():
    grey = images(3)[..., 0]
    assert from_arrays(grey, [7, 3, 7]).images.shape == (3, 2, 2, 1)
    assert from_arrays(grey, [7, 3, 7]).classes == ("3", "7")
    assert from_arrays(grey, np.array(["x", "b", "x"])).labels.tolist() == [1, 0, 1]
    named = from_arrays(grey, ["x", "b", "x"], ["x", "y", "b"])
    assert (named.labels.tolist(), named.labels.dtype) == ([0, 2, 0], np.int32)
    assert from_arrays(grey, [0, 2, 1], ["x", "y", "b"]).labels.tolist() == [0, 2, 1]
    for labels, message in (
        ([0, 9, 1], "image 1 has 9, outside the 2"),
        ([0, 2**40, 1], "image 1 has 2147483647, outside"),
        ([0.0, 1.0, 0.0], "whole numbers or names"),
        (["x", "z", "x"], "'z', which is not in classes"),
    ):
        with pytest.raises(ValueError, match=message):
            from_arrays(grey, labels, ["x", "y"])
    with pytest.raises(ValueError, match="outside"):
        from_arrays(grey, np.array([0, 1, 2**63], np.uint64), ["x", "y"])


def test_concatenate_joins_classes_by_name():
    other = from_arrays(images(2, seed=1), ["d", "b"])
    found = concatenate([some(), other])
    assert found.classes == ("a", "b", "c", "d")
    names = [found.classes[label] for label in found.labels]
    assert names == ["c", "a", "b", "a", "c", "c", "d", "b"]
    np.testing.assert_array_equal(found.images, np.r_[some().images, other.images])
    assert found.files == ()  # the second has none
    assert concatenate([some(), some()]).files == some().files * 2
    for sets, message in (([], "sets is empty"), ([some(), from_arrays(images(1, 3), [0])], "number 1 are")):
        with pytest.raises(ValueError, match=message):
            concatenate(sets)


@pytest.mark.parametrize("seed", range(3))
def test_duplicates_against_all_pairs(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 2, (n, 1, 3, 1), np.uint8) for n in (12, 9))  # 8 different images: many ties

    def same(x, y):
        return [(i, j) for i, p in enumerate(x) for j, q in enumerate(y) if (p == q).all()]

    first = {}
    for i, j in same(a, b):
        first.setdefault(i, j)
    a_, b_ = (from_arrays(x, [0] * len(x)) for x in (a, b))
    assert duplicates(a_, b_).tolist() == [list(pair) for pair in first.items()]
    within = {}
    for i, j in same(a, a):
        if i < j:
            within.setdefault(j, i)
    assert duplicates(a_).tolist() == [[i, j] for j, i in sorted(within.items())]
    assert duplicates(a_, from_arrays(images(2), [0, 0])).shape == (0, 2)


def test_the_same_image_in_support_and_query_is_warned_of():
    support = some()
    query = Pictures(np.concatenate([images(8, seed=5), support.images[[3]]]), ("q",) * 8 + ("mine.png",))
    with pytest.warns(UserWarning, match=r"1 images of the support .*: 3\.png = mine\.png$"):
        check_disjoint(support, query)
    with pytest.warns(UserWarning, match="6 images .* and 1 more"):
        check_disjoint(support, support)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_disjoint(support, from_arrays(images(8, seed=5), [0] * 8))
