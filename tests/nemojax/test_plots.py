"""Figures hold the numbers that they were given, name their axes, and touch no global state."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread

from nemojax.configuration import Configuration
from nemojax.front import Front
from nemojax.plots import plot_bits, plot_front, plot_progress, plot_species

NAMES = ("input", "stem.weight", "stem.activation", "head.weight")
LABELS = {
    "top5_error": "top5_error [share of images]",
    "kl": "kl [nat]",
    "model_ratio": "model_ratio [bytes, over 32-bit bytes]",
    "bitops_max": "bitops_max [MAC·max(w, a), over 32-bit]",
}


def make(objectives=("top5_error", "model_ratio", "bitops_max"), seed=0):
    rng = np.random.default_rng(seed)
    costs = 0.1 + 0.9 * rng.random((60, len(objectives)))
    return Front.of(rng.integers(2, 9, (60, 4)), costs, objectives, NAMES)


def panels(figure):
    """(x objective, y objective) -> axes."""
    return {
        (axes.get_xlabel().split()[0], axes.get_ylabel().split()[0]): axes
        for axes in figure.axes
        if axes.get_xlabel()
    }


def points(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line.get_xydata()


def legend_texts(figure):
    return [
        text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()
    ]


def saved(figure, tmp_path, width):
    """Pixels of the figure as it is saved, checked not to be blank."""
    figure.savefig(tmp_path / "figure.png")
    picture = imread(tmp_path / "figure.png")
    assert picture.shape[1] == width
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20


# --- fronts


@pytest.mark.parametrize("seed", range(3))
def test_every_projection_holds_the_front_and_its_knee(seed):
    front = make(seed=seed)
    figure = plot_front(front)
    names = front.objectives
    assert set(panels(figure)) == {(names[1], names[0]), (names[2], names[0]), (names[1], names[2])}
    for (x, y), axes in panels(figure).items():
        assert (axes.get_xlabel(), axes.get_ylabel()) == (LABELS[x], LABELS[y])
        both = front.costs[:, [names.index(x), names.index(y)]]
        np.testing.assert_array_equal(points(axes, f"front, {len(front)} points"), both)
        np.testing.assert_array_equal(points(axes, "knee"), both[[front.knee().index]])
        edge = points(axes, "its best in two objectives alone")
        want = [p for p in both if not any((q <= p).all() and (q < p).any() for q in both)]
        assert edge.tolist() == sorted(map(list, want))
        assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    texts = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert "knee\n" in texts


def test_baselines_keep_their_points_and_uniform_ones_their_bit_width():
    front, rng = make(), np.random.default_rng(5)
    widths = np.array([8, 2, 5])
    uniform = np.repeat(widths[:, None], 4, 1)
    uniform[:, 0] = 8  # a pinned input
    costs, clouds = rng.random((3, 3)), rng.random((2, 20, 3))
    clouds[0, 4, 1] = np.inf
    mixed = np.tile([2, 3, 4, 5], (20, 1))
    against = {
        "uniform": (uniform, costs),
        "random": (mixed, clouds[0]),
        "greedy": clouds[1],
        "ilp": (None, clouds[1]),
    }
    figure = plot_front(front, against)
    for (x, y), axes in panels(figure).items():
        columns = [front.objectives.index(x), front.objectives.index(y)]
        order = [1, 2, 0]  # by width
        np.testing.assert_array_equal(points(axes, "uniform"), costs[order][:, columns])
        np.testing.assert_array_equal(points(axes, "random"), np.delete(clouds[0], 4, 0)[:, columns])
        np.testing.assert_array_equal(points(axes, "greedy"), clouds[1][:, columns])
        notes = {text.get_text(): tuple(text.xy) for text in axes.texts}
        assert notes == {str(w): tuple(c[columns]) for w, c in zip(widths, costs, strict=True)}
        looks = {(line.get_marker(), line.get_color()) for line in axes.lines if line.get_marker() != "None"}
        assert len(looks) == 2 + len(against)  # told apart by mark and colour
    front_text = f"front, {len(front)} points"
    assert legend_texts(figure) == [front_text, "its best in two objectives alone", "knee", *against]


def test_marks_are_unlike_where_baselines_are_many():
    front = make()
    against = {f"b{i}": front.costs[:5] for i in range(4)} | {
        f"u{i}": (np.full((5, 4), 3), front.costs[:5]) for i in range(2)
    }
    (axes, *_) = panels(plot_front(front, against)).values()
    looks = {(line.get_marker(), line.get_color()) for line in axes.lines if line.get_label() in against}
    assert len(looks) == len(against)


def test_two_objectives_are_one_panel_with_its_legend():
    front = make(("kl", "model_ratio"))
    figure = plot_front(front, {"random": front.costs[:3] + 1})
    ((key, axes),) = panels(figure).items()
    assert key == ("model_ratio", "kl")
    np.testing.assert_array_equal(points(axes, f"front, {len(front)} points"), front.costs[:, ::-1])
    assert legend_texts(figure) == [f"front, {len(front)} points", "knee", "random"]


def test_more_objectives_show_the_first_three():
    front = make(("kl", "model_ratio", "bitops_max", "latency_s"))
    assert {name for pair in panels(plot_front(front)) for name in pair} == {
        "kl",
        "model_ratio",
        "bitops_max",
    }
    front = make(("latency_s", "model_ratio"))
    assert panels(plot_front(front)).popitem()[1].get_ylabel() == "latency_s"


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "scale"),
    [
        ("kl", 0.1, 9.9, "linear"),
        ("kl", 0.1, 10.0, "log"),
        ("kl", 0.0, 10.0, "symlog"),
        ("kl", -1.0, 10.0, "linear"),
        ("top5_error", 0.001, 1.0, "linear"),  # a share
    ],
)
def test_an_objective_over_decades_has_a_logarithmic_axis(name, lowest, highest, scale):
    first = np.geomspace(lowest if lowest > 0 else 0.01, highest, 60)
    first[0] = lowest
    costs = np.column_stack([first, np.linspace(1, 0.5, 60), np.full(60, 0.3)])
    objectives = (name, "model_ratio", "bitops_max")
    front = Front(np.full((30, 4), 3), costs[:30], objectives, NAMES)
    for (_x, y), axes in panels(plot_front(front, {"rest": costs[30:]})).items():
        assert axes.get_yscale() == (scale if y == name else "linear")
        assert axes.get_xscale() == "linear"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 2)), r"costs of 'other' must have the columns top5_error, .*, got shape \(3, 2\)"),
        (np.zeros(3), r"got shape \(3,\)"),
        ((np.zeros((2, 4), int), np.zeros((3, 3))), "bits of 'other' must be 3 rows as its costs"),
        ((np.zeros(3, int), np.zeros((3, 3))), "bits of 'other' must be 3 rows"),
    ],
)
def test_baselines_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        plot_front(make(), {"other": given})


def test_one_objective_is_no_plane():
    front = Front(np.full((1, 4), 3), np.array([[0.1]]), ("kl",), NAMES)
    with pytest.raises(ValueError, match="plot_front needs 2 objectives at least"):
        plot_front(front)


def test_a_single_point_and_failed_baselines_can_be_drawn(tmp_path):
    front = Front(np.full((1, 4), 3), np.array([[0.1, 0.2, 0.3]]), tuple(LABELS)[1:], NAMES)
    failed = (np.full((2, 4), 3), np.full((2, 3), np.inf))
    figure = plot_front(front, {"failed": failed})
    saved(figure, tmp_path, 900)
    np.testing.assert_array_equal(points(figure.axes[0], "knee"), front.costs[:, [1, 0]])


# --- bits


def test_bars_are_the_bits():
    names = ("input", "stem.weight", "stem.activation", "add.sum", "fc.weight")
    point = Configuration(np.array([8, 4, 6, 16, 2]), names, {"kl": 0.5, "model_ratio": 0.125})
    figure = plot_bits(point)
    upper, lower = figure.axes

    def bars(axes):
        return {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches}

    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["input", "stem", "add", "fc"]
    assert bars(upper) == {1: 4, 3: 2}
    assert bars(lower) == {0: 8, 1: 6, 2: 16}
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("weight [bit]", "activation [bit]")
    assert [axes.lines[0].get_ydata()[0] for axes in (upper, lower)] == [3, 10]
    assert legend_texts(figure) == ["weight", "mean 3", "activation", "mean 10"]
    assert figure.get_suptitle() == "kl 0.5, model_ratio 0.125"
    assert lower.get_ylim()[1] > 16


def test_labels_of_sixty_operations_do_not_touch():
    names = [f"blocks_{i}/depthwise.{kind}" for i in range(60) for kind in ("weight", "activation")]
    figure = plot_bits(Configuration(np.full(120, 5), tuple(names), {"kl": 1.0}))
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in figure.axes[1].get_xticklabels()]
    assert len(boxes) == 60
    assert all(a.x1 <= b.x0 + 0.5 for a, b in itertools.pairwise(boxes))
    assert figure.get_size_inches()[0] * figure.dpi == 900


def test_bits_without_activations(tmp_path):
    figure = plot_bits(Configuration(np.array([3]), ("a.weight",), {"kl": 1.0}))
    assert not figure.axes[1].patches
    saved(figure, tmp_path, 900)


# --- progress


def test_progress_is_the_history(tmp_path):
    history = {
        "evaluations": np.array([100, 200, 400]),
        "hypervolume": np.array([0.1, 0.4, 0.5]),
        "more": "x",
    }
    figure = plot_progress(history, reference=1.0)
    (axes,) = figure.axes
    np.testing.assert_array_equal(points(axes, "front so far"), [[100, 0.1], [200, 0.4], [400, 0.5]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("evaluations", "hypervolume, up to 1.0")
    assert plot_progress(history).axes[0].get_ylabel() == "hypervolume"
    saved(figure, tmp_path, 900)


def test_progress_needs_two_equal_columns():
    with pytest.raises(ValueError, match="history lacks 'hypervolume'"):
        plot_progress({"evaluations": [1]})
    with pytest.raises(ValueError, match="equally long"):
        plot_progress({"evaluations": [1, 2], "hypervolume": [1]})
    with pytest.raises(ValueError, match="equally long"):
        plot_progress({"evaluations": [[1]], "hypervolume": [[1]]})


# --- species


def grown(generations=5, species=("continuous", "gcn", "mine")):
    rng = np.random.default_rng(2)
    history = {
        "alloc": rng.multinomial(30, np.ones(len(species)) / len(species), generations),
        "r2": rng.random((generations, len(species))).astype(np.float32),
        "more": "x",
    }
    return SimpleNamespace(history=history, species=species)


@pytest.mark.parametrize("generations", [1, 40])
def test_species_are_stacked_and_their_r2_is_the_history(tmp_path, generations):
    found = grown(generations)
    figure = plot_species(found)
    left, right = figure.axes
    bottom = np.zeros(generations)
    when = np.arange(1, generations + 1)
    assert [area.get_label() for area in left.collections] == list(found.species)
    for s, area in enumerate(left.collections):
        top = bottom + found.history["alloc"][:, s]
        outline = {tuple(corner) for path in area.get_paths() for corner in path.vertices.tolist()}
        assert outline == {*zip(when, bottom, strict=True), *zip(when, top, strict=True)}
        line = points(right, found.species[s])
        np.testing.assert_allclose(line, np.column_stack([when, found.history["r2"][:, s]]), rtol=1e-6)
        bottom = top
    assert left.get_ylim() == (0, 30)  # all members, in every generation
    looks = {(line.get_marker(), line.get_color()) for line in right.lines}
    assert len(looks) == len(found.species)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(found.species)
    assert (left.get_ylabel(), right.get_ylabel()) == ("members", "R2, lower is better")
    saved(figure, tmp_path, 900)


def test_species_need_sizes_and_r2_of_each():
    found = grown()
    for name in ("alloc", "r2"):
        without = {key: value for key, value in found.history.items() if key != name}
        with pytest.raises(ValueError, match=f"history lacks '{name}'"):
            plot_species(SimpleNamespace(history=without, species=found.species))
    with pytest.raises(ValueError, match="one generation at least and 2 species"):
        plot_species(SimpleNamespace(history=found.history, species=("continuous", "gcn")))
    with pytest.raises(ValueError, match=r"one generation.*\(0, 3\)"):
        plot_species(grown(generations=0))


def test_figures_are_saved_and_pyplot_is_left_alone(tmp_path):
    front = make()
    before = sys.modules.get("matplotlib.pyplot")
    figures = [plot_front(front, {"random": front.costs}), plot_bits(front.knee())]
    for figure in figures:
        saved(figure, tmp_path, 900)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is before
    assert pyplot is None or not pyplot.get_fignums()
