"""What the pictures show, read back from the axes; the projection against scikit-learn."""

import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fewshotjax.plots import plot_accuracies, plot_confusion, plot_embeddings


def clusters(classes=3, each=20, width=5, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width)) * 4
    labels = np.repeat(np.arange(classes), each)
    points = centres[labels] + rng.normal(size=(len(labels), width))
    return points.astype(np.float32), labels, centres[:, None].astype(np.float32)


def drawn(axes, skip=0):
    return [np.asarray(part.get_offsets()) for part in axes.collections[skip:]]


def test_pca_equals_scikit_learn_and_stars_use_the_same_axes():
    decomposition = pytest.importorskip("sklearn.decomposition")
    points, labels, representatives = clusters()
    axes = plot_embeddings(points, labels, ("ant", "bee", "cat"), representatives)
    *groups, stars, _ = drawn(axes)
    oracle = decomposition.PCA(2).fit(points)
    loadings = oracle.components_
    sign = np.sign(loadings[[0, 1], np.abs(loadings).argmax(1)])
    np.testing.assert_allclose(np.concatenate(groups), oracle.transform(points) * sign, atol=1e-4)
    np.testing.assert_allclose(stars, oracle.transform(representatives[:, 0]) * sign, atol=1e-4)
    share = 100 * oracle.explained_variance_ratio_
    assert axes.get_xlabel() == f"component 1 ({share[0]:.0f} % of the variance)"
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["ant", "bee", "cat", "representative"]


def test_a_star_has_the_colour_of_its_class_and_missing_modes_have_none():
    points, labels, representatives = clusters()
    two = np.concatenate([representatives, np.full_like(representatives, np.nan)], axis=1)
    mask = np.array([[True, False]] * 3)
    mask[1, 0] = False
    axes = plot_embeddings(points, labels, ("a", "b", "c"), two, mask)
    groups, stars = axes.collections[:3], axes.collections[3]
    assert len(stars.get_offsets()) == 2
    colours = [to_hex(group.get_facecolor()[0]) for group in groups]
    assert len(set(colours)) == 3
    assert [to_hex(c) for c in stars.get_facecolors()] == [colours[0], colours[2]]


def test_many_classes_get_a_scale_of_colours():
    points, labels, representatives = clusters(classes=20, each=3)
    axes = plot_embeddings(points, labels, None, representatives)
    assert len(axes.figure.axes) == 2  # the bar
    np.testing.assert_array_equal(axes.collections[0].get_array(), labels)
    np.testing.assert_array_equal(axes.collections[1].get_array(), np.arange(20))


def test_twelve_classes_are_told_apart_by_colour_and_mark():
    points, labels, _ = clusters(classes=12, each=3)
    axes = plot_embeddings(points, labels)
    looks = {
        (to_hex(part.get_facecolor()[0]), part.get_paths()[0].vertices.tobytes()) for part in axes.collections
    }
    assert len(looks) == 12
    assert len(axes.get_legend().get_texts()) == 12


def test_one_number_each_and_all_alike_can_be_drawn():
    line = np.arange(4, dtype=np.float32)[:, None]
    (points,) = drawn(plot_embeddings(line, np.zeros(4, int)))
    np.testing.assert_allclose(points, np.c_[line - 1.5, np.zeros(4)], atol=1e-6)
    (points,) = drawn(plot_embeddings(np.ones((4, 3), np.float32), np.zeros(4, int)))
    np.testing.assert_allclose(points, 0.0, atol=1e-6)


def test_tsne_keeps_separate_groups_apart_and_places_stars_among_them():
    pytest.importorskip("sklearn")
    points, labels, representatives = clusters(classes=2, each=12)
    axes = plot_embeddings(points, labels, None, representatives, method="tsne")
    first, second, stars, _ = drawn(axes)
    for own, other, star in ((first, second, stars[0]), (second, first, stars[1])):
        assert np.linalg.norm(own - star, axis=1).mean() < np.linalg.norm(other - star, axis=1).mean()
    again = drawn(plot_embeddings(points, labels, None, representatives, method="tsne"))
    np.testing.assert_array_equal(again[0], first)


def test_tsne_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    points, labels, _ = clusters()
    with pytest.raises(ImportError, match=r"pip install 'frugaljax\[pretrained\]'"):
        plot_embeddings(points, labels, method="tsne")


def test_a_confusion_is_drawn_as_shares_of_the_true_class():
    axes = plot_confusion(np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]]), ("ant", "bee", "cat"))
    share = axes.images[0].get_array()
    np.testing.assert_allclose(share[0], [0.75, 0.25, 0.0])
    assert np.isnan(np.asarray(share.filled(np.nan))[1]).all()
    assert {t.get_text() for t in axes.texts} == {"75", "25", "50"}
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ant", "bee", "cat"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_accuracies_are_bars_in_order_with_intervals():
    results = {"RepMet": (0.62, 0.01), "class mean": (0.5, float("inf"))}
    axes = plot_accuracies(results)
    assert [bar.get_width() for bar in axes.patches] == [62.0, 50.0]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(results)
    assert axes.yaxis_inverted()
    assert [t.get_text() for t in axes.texts] == ["62.0 ± 1.0", "50.0"]
    (interval,) = axes.collections[0].get_segments()
    np.testing.assert_allclose(interval[:, 0], [61.0, 63.0])
    assert axes.get_xlim()[1] < 100


def test_axes_that_are_given_are_drawn_into_and_pyplot_is_left_alone(tmp_path):
    before = sys.modules.get("matplotlib.pyplot")
    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    points, labels, _ = clusters()
    assert plot_embeddings(points, labels, ax=panels[0]) is panels[0]
    assert plot_confusion(np.eye(2), ("a", "b"), panels[1]) is panels[1]
    assert plot_accuracies({"a": (0.5, 0.1)}, panels[2]) is panels[2]
    figure.savefig(tmp_path / "all.png")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is before or not pyplot.get_fignums()


POINTS, LABELS = np.zeros((4, 2), np.float32), np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: plot_embeddings(POINTS[0], LABELS), r"\(N, D\).*\(2,\)"),
        (lambda: plot_embeddings(POINTS, LABELS[:3]), r"labels must be \(4,\)"),
        (lambda: plot_embeddings(POINTS, LABELS, ("a",)), "labels must be 0 to 0, got 0 to 1"),
        (lambda: plot_embeddings(POINTS * np.nan, LABELS), "4 of 4 rows"),
        (lambda: plot_embeddings(POINTS, LABELS, method="umap"), "one of .*pca.*tsne.* got 'umap'"),
        (lambda: plot_embeddings(POINTS[:3], LABELS[:3], method="tsne"), "4 points at least, got 3"),
        (lambda: plot_embeddings(POINTS, LABELS, None, np.zeros((2, 1, 3))), r"\(2, K, 2\), got \(2, 1, 3\)"),
        (
            lambda: plot_embeddings(POINTS, LABELS, None, np.zeros((2, 1, 2)), np.ones((2, 2), bool)),
            "mode_mask must be",
        ),
        (
            lambda: plot_embeddings(POINTS, LABELS, None, np.full((2, 1, 2), np.nan)),
            "representatives must be finite",
        ),
        (lambda: plot_confusion(np.eye(3), ("a", "b")), r"confusion must be \(2, 2\).*\(3, 3\)"),
        (lambda: plot_confusion(-np.eye(2), ("a", "b")), "not negative"),
        (lambda: plot_accuracies({}), "results is empty"),
        (lambda: plot_accuracies({"x": (62.0, 1.0)}), "'x' is 62.0 ± 1.0, no share"),
        (lambda: plot_accuracies({"x": (0.6, -0.1)}), "no share"),
    ],
)
def test_bad_input_is_refused(call, match, as_users_have_it):
    with pytest.raises(ValueError, match=match):
        call()
