"""Pictures of embeddings with their representatives, of confusions and of accuracies.

Each function draws into `ax`, or into a new figure of its own, and returns the axes; pyplot is left alone:
`axes.figure.savefig("embeddings.png")`. Colours of Okabe & Ito (2008), which colour-blind readers tell apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Method = Literal["pca", "tsne"]
_COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"),
    *("#882255", "#8C8C8C"),  # two more, so that ten classes have one each
)
_MARKS = "os^DvP"
_NAMED = 12  # classes that are told apart by colour and mark, and named; more get a scale of colours
_READABLE = 60  # classes whose names fit beside a confusion; more get their index
_WRITTEN = 15  # classes whose shares are written into the cells of a confusion


def plot_embeddings(
    embeddings: Float[Array | np.ndarray, "..."],
    labels: Int[Array | np.ndarray, "..."],
    classes: Sequence[str] | None = None,
    representatives: Float[Array | np.ndarray, "..."] | None = None,
    mode_mask: Bool[Array | np.ndarray, "..."] | None = None,
    *,
    method: Method = "pca",
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Embeddings in two dimensions, a colour and mark for each class, representatives as large stars.

    Args:
        embeddings: (N, D).
        labels: (N,) index into classes.
        classes: their names; default: 0 to the largest label. Up to 12 are named in a legend, of more the
            index is the colour.
        representatives: (classes, K, D), of the same space as the embeddings.
        mode_mask: (classes, K), False where there is no representative; default: all are.
        method: "pca" projects on the two directions in which the embeddings vary most, and representatives
            on the same two. "tsne" (van der Maaten & Hinton 2008) places each point beside its neighbours,
            representatives as points among them, so that they move the others a little; distances between
            groups then mean nothing. It needs scikit-learn, of the extra `pretrained`.
        seed: of t-SNE.
        ax: axes to draw into.

    Raises:
        ValueError: shapes or labels that do not fit, values that are not finite.
        ImportError: "tsne" without scikit-learn.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {get_args(Method)}, got {method!r}")
    points, of_class = _points(embeddings, labels)
    count = int(of_class.max()) + 1 if classes is None else len(classes)
    names = [str(n) for n in range(count)] if classes is None else list(classes)
    if of_class.min() < 0 or of_class.max() >= count:
        raise ValueError(f"labels must be 0 to {count - 1}, got {of_class.min()} to {of_class.max()}")
    stars, of_star = _stars(representatives, mode_mask, count, points.shape[1])
    if method == "pca":
        axes_of, centre, share = _principal_axes(points)
        flat, flat_stars = (points - centre) @ axes_of.T, (stars - centre) @ axes_of.T
        titles = [f"component {i + 1} ({100 * share[i]:.0f} % of the variance)" for i in range(2)]
    else:
        together = _tsne(np.concatenate([points, stars]), seed)
        flat, flat_stars = together[: len(points)], together[len(points) :]
        titles = ["t-SNE 1", "t-SNE 2"]

    axes = ax or Figure(figsize=(7.5, 5.5), dpi=100, layout="constrained").subplots()
    scale: dict[str, Any] = {}
    if count <= _NAMED:
        for n, name in enumerate(names):
            look: dict[str, Any] = {"color": _COLOURS[n % len(_COLOURS)], "marker": _MARKS[n % len(_MARKS)]}
            own = flat[of_class == n]
            axes.scatter(own[:, 0], own[:, 1], s=18, alpha=0.7, linewidths=0, label=name, **look)
        colours: Any = [_COLOURS[n % len(_COLOURS)] for n in of_star]
    else:
        scale = {"cmap": "cividis", "vmin": 0, "vmax": count - 1}
        colours = of_star
        drawn = axes.scatter(flat[:, 0], flat[:, 1], c=of_class, s=12, linewidths=0, **scale)
        bar = axes.figure.colorbar(drawn, ax=axes, label="class")
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(stars):
        star: dict[str, Any] = {
            "marker": "*",
            "s": 260,
            "edgecolors": "black",
            "linewidths": 1.0,
            "zorder": 3,
        }
        axes.scatter(flat_stars[:, 0], flat_stars[:, 1], c=colours, **star, **scale)
        axes.scatter([], [], color="white", label="representative", **star)
    if count <= _NAMED or len(stars):
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
        if count > _NAMED:
            place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
        axes.legend(frameon=False, fontsize="small", **place)
    axes.set(xlabel=titles[0], ylabel=titles[1])
    if method == "tsne":
        axes.set(xticks=[], yticks=[])
    return axes


def plot_confusion(
    confusion: Num[Array | np.ndarray, "..."], classes: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Which class is taken for which: the share of each true class (row) that each prediction (column) gets.

    Args:
        confusion: (classes, classes) counts, true by predicted. A class without any has an empty row.

    Raises:
        ValueError: a shape that does not fit the classes, negative or non-finite counts.
    """
    counts = np.asarray(confusion, np.float64)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"confusion must be ({len(classes)}, {len(classes)}) as classes, got {counts.shape}")
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError("confusion must be counts, finite and not negative")
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    side = min(4.0 + 0.35 * len(classes), 14.0)
    axes = ax or Figure(figsize=(side + 1, side), dpi=100, layout="constrained").subplots()
    drawn = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
    axes.figure.colorbar(drawn, ax=axes, label="share of the true class")
    if len(classes) <= _READABLE:
        size = "small" if len(classes) <= 30 else "xx-small"
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=size)
        axes.set_yticks(range(len(classes)), classes, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= _WRITTEN:
        for (row, column), value in np.ndenumerate(share):
            if value > 0:
                colour = "white" if value < 0.5 else "black"
                text = f"{100 * value:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="small")
    return axes


def plot_accuracies(results: Mapping[str, tuple[float, float]], ax: Axes | None = None) -> Axes:
    """A bar for each method, the first on top, with its interval.

    Args:
        results: name -> (mean, half): accuracy as a share from 0 to 1, and half the width of its interval
            (not finite: none is drawn), as `EpisodeResult.accuracy` is.

    Raises:
        ValueError: no results, a mean that is no share, a negative half.
    """
    if not results:
        raise ValueError("results is empty: give {name: (mean, half)}")
    for name, (mean, half) in results.items():
        if not 0 <= mean <= 1 or half < 0:
            raise ValueError(f"results: {name!r} is {mean} ± {half}, no share from 0 to 1 with its interval")
    means, halves = 100 * np.array(list(results.values()), np.float64).T
    height = 1.2 + 0.4 * len(results)
    axes = ax or Figure(figsize=(7.0, height), dpi=100, layout="constrained").subplots()
    place = np.arange(len(results))
    axes.barh(place, means, height=0.65, color=_COLOURS[5])
    drawn = np.isfinite(halves)
    ends = means + np.where(drawn, halves, 0.0)
    axes.errorbar(
        means[drawn], place[drawn], xerr=halves[drawn], fmt="none", ecolor="black", capsize=3, elinewidth=1
    )
    for at, mean, half, end in zip(place, means, halves, ends, strict=True):
        text = f"{mean:.1f} ± {half:.1f}" if np.isfinite(half) else f"{mean:.1f}"
        axes.annotate(text, (end, at), (5, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set_yticks(place, list(results))
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.25 * float(ends.max()), 1.0))
    axes.set_xlabel("accuracy [%]")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _points(embeddings: object, labels: object) -> tuple[np.ndarray, np.ndarray]:
    points, of_class = np.asarray(embeddings, np.float64), np.asarray(labels)
    if points.ndim != 2 or len(points) < 2 or not points.shape[1]:
        raise ValueError(f"embeddings must be (N, D) with two rows at least, got shape {points.shape}")
    if of_class.shape != (len(points),):
        raise ValueError(f"labels must be ({len(points)},), one for each embedding, got {of_class.shape}")
    if not np.isfinite(points).all():
        wrong = np.count_nonzero(~np.isfinite(points).all(axis=1))
        raise ValueError(f"embeddings must be finite: {wrong} of {len(points)} rows are not")
    return points, of_class


def _stars(
    representatives: object, mode_mask: object, count: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The representatives that exist (S, D), and the class of each (S,)."""
    if representatives is None:
        return np.zeros((0, width)), np.zeros(0, int)
    stars = np.asarray(representatives, np.float64)
    if stars.ndim != 3 or stars.shape[0] != count or stars.shape[2] != width:
        raise ValueError(f"representatives must be ({count}, K, {width}), got {stars.shape}")
    exist = np.ones(stars.shape[:2], bool) if mode_mask is None else np.asarray(mode_mask, bool)
    if exist.shape != stars.shape[:2]:
        raise ValueError(f"mode_mask must be {stars.shape[:2]} as representatives, got {exist.shape}")
    if not np.isfinite(stars[exist]).all():
        raise ValueError("representatives must be finite where mode_mask is True")
    return stars[exist], np.nonzero(exist)[0]


def _principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two orthonormal directions (2, D) of the largest variance, the mean (D,), and their shares of it (2,).

    The largest entry of a direction is positive, so that a picture does not turn over between two runs.
    """
    centre = points.mean(axis=0)
    _, values, rows = np.linalg.svd(points - centre, full_matrices=False)
    share = values**2 / max(np.sum(values**2), np.finfo(np.float64).tiny)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    directions = np.zeros((2, points.shape[1]))  # of one number each there is one direction alone
    directions[: len(rows)] = (rows * np.where(largest < 0, -1.0, 1.0))[:2]
    return directions, centre, np.pad(share, (0, 2))[:2]


def _tsne(points: np.ndarray, seed: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ImportError("t-SNE needs scikit-learn: pip install 'frugaljax[pretrained]'") from None
    if len(points) < 4:
        raise ValueError(f"t-SNE needs 4 points at least, got {len(points)}: use method='pca'")
    # Its usual 30 neighbours; of few points, a third of them.
    perplexity = min(30.0, (len(points) - 1) / 3)
    how = "exact" if len(points) <= 300 else "barnes_hut"  # for so few no slower, and without its threads
    return TSNE(perplexity=perplexity, init="pca", method=how, random_state=seed).fit_transform(points)
