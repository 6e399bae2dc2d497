"""Figures of a front, of a configuration, of the progress of a search and of its species.

Each function returns a matplotlib Figure of its own and leaves pyplot alone: `figure.savefig("front.png")`,
or in a notebook `%matplotlib inline` and the figure as a cell's last line. Drawn for 900 pixels; colours of
Okabe & Ito 2008, which colour-blind readers tell apart, and a different mark for each series.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import moocore
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from nemojax.configuration import Configuration
from nemojax.front import Front
from nemojax.front_table import number_text
from nemojax.history import hypervolumes

BLUE, ORANGE, VERMILLION, GREY = "#0072B2", "#E69F00", "#D55E00", "#8C8C8C"
UNITS = {
    "top1_error": "share of images",
    "top5_error": "share of images",
    "disagreement": "share of images",
    "kl": "nat",
    "model_ratio": "bytes, over 32-bit bytes",
    "bitops_max": "MAC·max(w, a), over 32-bit",
    "bitops_product": "MAC·w·a, over 32-bit",
}
_CHAINS = (("s", ORANGE), ("D", "black"))  # marks of baselines with one bit-width a row
_CLOUDS = (("x", GREY), ("^", "#009E73"), ("v", "#CC79A7"), ("+", "#56B4E9"))  # of the others
_SPECIES = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", VERMILLION, "#F0E442", GREY)
_MARKS = "osD^vXP*"  # of the same species
_DECADES = 100.0  # an objective that spans this factor, and is no share, gets a logarithmic axis

Baseline = np.ndarray | tuple[np.ndarray | None, np.ndarray]


def plot_front(
    front: Front, against: Mapping[str, Baseline] | None = None, knee: Configuration | None = None
) -> Figure:
    """Each pair of the first three objectives: the front, its knee, and other configurations.

    The line in a panel is the best that the front reaches in those two objectives alone.

    Args:
        against: name -> (P, M) costs, or (bits (P, n), costs (P, M)). Where most of every row of bits is
            one bit-width, the points are joined and labelled with it. Failed rows are not drawn.
        knee: the point to mark, at its own costs (it may have been chosen on other images, and be dominated
            here); default: the front's knee.

    Raises:
        ValueError: a single objective, costs that do not fit the objectives, bits that do not fit the costs.
    """
    if len(front.objectives) < 2:
        raise ValueError(f"plot_front needs 2 objectives at least, the front has {front.objectives}")
    series = _all_series(front, against or {})
    everything = np.concatenate([front.costs, *(one.costs for one in series)])
    knee = knee or front.knee()
    star = np.array([knee.costs[name] for name in front.objectives])
    facts = "\n".join(["knee", *(f"{n} {number_text(cost)}" for n, cost in knee.costs.items())])
    if len(front.objectives) == 2:
        figure = Figure(figsize=(9, 5.4), dpi=100, layout="constrained")
        panels = {(1, 0): figure.subplots()}
    else:
        figure = Figure(figsize=(9, 7.4), dpi=100, layout="constrained")
        (upper_left, upper_right), (lower_left, corner) = figure.subplots(2, 2)
        panels = {(1, 0): upper_left, (2, 0): upper_right, (1, 2): lower_left}
        corner.set_axis_off()
    for (x, y), axes in panels.items():
        _draw_front(axes, front, x, y, star)
        for one in series:
            _draw_series(axes, one, x, y)
        _label(axes, "x", front.objectives[x], everything[:, x])
        _label(axes, "y", front.objectives[y], everything[:, y])
        axes.margins(0.07)
        _grid(axes)
    handles, labels = axes.get_legend_handles_labels()
    if len(front.objectives) == 2:
        axes.legend(handles, labels, title=facts, frameon=False, loc="upper right", alignment="left")
    else:
        corner.legend(handles, labels, frameon=False, loc="upper left", fontsize=11)
        corner.text(0.04, 0.02, facts, transform=corner.transAxes, va="bottom", linespacing=1.5)
    return figure


def plot_bits(configuration: Configuration) -> Figure:
    """The bit-width of each weight and each activation, by operation in execution order.

    An activation stands at the operation whose output it is.
    """
    rows = configuration.operations()
    figure = Figure(figsize=(max(9.0, 0.13 * len(rows)), 6), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    top = int(configuration.bits.max())
    for axes, kind, color, widths, mean in (
        (upper, "weight", BLUE, [row.weight for row in rows], configuration.mean_bits()[0]),
        (lower, "activation", ORANGE, [row.activation for row in rows], configuration.mean_bits()[1]),
    ):
        place = [i for i, bits in enumerate(widths) if bits is not None]
        handles: list[Any] = [axes.bar(place, [widths[i] for i in place], color=color, label=kind)]
        if place:
            text = f"mean {number_text(mean)}"
            handles.append(axes.axhline(mean, color="black", lw=1, ls="--", label=text))
        axes.set_ylabel(f"{kind} [bit]")
        axes.set_ylim(0, top + 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
        _grid(axes, "y")
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    lower.set_xticks(range(len(rows)), [row.operation for row in rows], rotation=90, fontsize=8)
    lower.set_xlim(-0.7, len(rows) - 0.3)
    lower.set_xlabel("operation, in execution order")
    costs = ", ".join(f"{name} {number_text(cost)}" for name, cost in configuration.costs.items())
    figure.suptitle(costs, fontsize=11)
    return figure


def plot_progress(history: Mapping[str, Any], reference: float | Sequence[float] | None = None) -> Figure:
    """Hypervolume of the front so far against the evaluations carried out.

    Args:
        history: "evaluations" and "hypervolume", (T,) each.
        reference: the point that the hypervolume was taken to, for the label.

    Raises:
        ValueError: one of the two is missing, or their lengths differ.
    """
    evaluations, volume = hypervolumes(history)
    figure = Figure(figsize=(9, 4.5), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.plot(evaluations, volume, color=BLUE, lw=2, drawstyle="steps-post", label="front so far")
    axes.set_xlabel("evaluations")
    axes.set_ylabel("hypervolume" if reference is None else f"hypervolume, up to {reference}")
    _grid(axes)
    return figure


@runtime_checkable
class Course(Protocol):
    """What `plot_species` reads of a search's outcome, `Found`."""

    @property
    def history(self) -> Mapping[str, Any]:
        """Columns "alloc" and "r2", (T, S) each: T generations of S species."""

    @property
    def species(self) -> tuple[str, ...]:
        """(S,) names."""


def plot_species(found: Course) -> Figure:
    """How many members each species had after each generation, stacked, and beside it their R2.

    Args:
        found: of `search`.

    Raises:
        ValueError: the history lacks one of the two, has no generation, or is not of these species.
    """
    for name in ("alloc", "r2"):
        if name not in found.history:
            raise ValueError(f"history lacks {name!r}: it has {sorted(found.history)}")
    sizes, indicator = np.asarray(found.history["alloc"]), np.asarray(found.history["r2"])
    count = len(found.species)
    if sizes.ndim != 2 or sizes.shape != indicator.shape or sizes.shape[1] != count or not len(sizes):
        raise ValueError(
            f"alloc and r2 must be of one generation at least and {count} species, "
            f"got shapes {sizes.shape} and {indicator.shape}"
        )
    figure = Figure(figsize=(9, 4.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    generations = np.arange(1, len(sizes) + 1)
    colors = [_SPECIES[s % len(_SPECIES)] for s in range(count)]
    left.stackplot(generations, sizes.T, labels=found.species, colors=colors, ec="white", lw=0.6)
    left.set(ylabel="members", xlim=(1, max(2, len(sizes))), ylim=(0, sizes.sum(axis=1).max()))
    for s, name in enumerate(found.species):
        right.plot(
            generations,
            indicator[:, s],
            color=colors[s],
            marker=_MARKS[s % len(_MARKS)],
            markevery=max(1, len(sizes) // 8),
            ms=5,
            lw=1.4,
            label=name,
        )
    right.set_ylabel("R2, lower is better")
    for axes in (left, right):
        axes.set_xlabel("generation")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _grid(right)
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper left", ncols=6, frameon=False)
    return figure


class _Series(NamedTuple):
    """A baseline, failed rows left out."""

    name: str
    marker: str
    color: str
    costs: np.ndarray  # (P, M)
    widths: np.ndarray | None  # (P,) the one bit-width of each row, ascending; None: rows are mixed


def _all_series(front: Front, against: Mapping[str, Baseline]) -> list[_Series]:
    series: list[_Series] = []
    for name, given in against.items():
        bits, costs = given if isinstance(given, tuple) else (None, given)
        costs = np.asarray(costs, np.float64)
        if costs.ndim != 2 or costs.shape[1] != len(front.objectives):
            wanted = ", ".join(front.objectives)
            raise ValueError(f"costs of {name!r} must have the columns {wanted}, got shape {costs.shape}")
        if bits is not None and (np.ndim(bits) != 2 or len(bits) != len(costs)):
            raise ValueError(f"bits of {name!r} must be {len(costs)} rows as its costs, got {np.shape(bits)}")
        alive = np.flatnonzero(np.isfinite(costs).all(axis=1))
        widths = None if bits is None else _one_width(np.asarray(bits)[alive])
        if widths is not None:
            order = np.argsort(widths, kind="stable")
            alive, widths = alive[order], widths[order]
        used = sum((one.widths is None) == (widths is None) for one in series)
        marks = _CLOUDS if widths is None else _CHAINS
        series.append(_Series(name, *marks[used % len(marks)], costs[alive], widths))
    return series


def _one_width(bits: np.ndarray) -> np.ndarray | None:
    """(P,) the bit-width that more than half of each row has; None where a row has no such."""
    middle = np.median(bits, axis=1)  # a majority is the median
    return middle.astype(int) if ((bits == middle[:, None]).mean(axis=1) > 0.5).all() else None


def _draw_series(axes: Axes, series: _Series, x: int, y: int) -> None:
    both = series.costs[:, [x, y]]
    look: dict[str, Any] = {"ls": "none", "ms": 4.5, "zorder": 2}
    if series.widths is not None:
        look = {"ls": ":", "lw": 0.9, "ms": 6, "zorder": 4}
        for point, width in zip(both, series.widths, strict=True):
            note = axes.annotate(str(width), point, (5, 4), textcoords="offset points", fontsize=9, zorder=6)
            note.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    axes.plot(*both.T, series.marker, color=series.color, label=series.name, **look)


def _draw_front(axes: Axes, front: Front, x: int, y: int, star: np.ndarray) -> None:
    both = front.costs[:, [x, y]]
    edge = both[moocore.is_nondominated(both)]
    edge = edge[np.argsort(edge[:, 0])]
    axes.plot(*both.T, "o", color=BLUE, ms=4, mew=0, alpha=0.6, label=f"front, {len(front)} points", zorder=3)
    if len(front.objectives) > 2:
        text = "its best in two objectives alone"
        axes.plot(*edge.T, color=BLUE, lw=1.2, drawstyle="steps-post", label=text)
    axes.plot(star[x], star[y], "*", color=VERMILLION, ms=15, mec="white", label="knee", ls="none", zorder=5)


def _label(axes: Axes, which: Literal["x", "y"], name: str, values: np.ndarray) -> None:
    unit = UNITS.get(name, "")
    axes.set(**{f"{which}label": f"{name} [{unit}]" if unit else name})
    axes.locator_params(axis=which, nbins=6)
    positive = values[values > 0]
    spans = positive.size and positive.max() >= _DECADES * positive.min()
    if not spans or values.min() < 0 or unit.startswith("share"):
        return
    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    if values.min() > 0:
        set_scale("log")
    else:
        set_scale("symlog", linthresh=positive.min())  # zero has a place of its own


def _grid(axes: Axes, which: Literal["both", "x", "y"] = "both") -> None:
    axes.grid(axis=which, color="0.9", lw=0.8)
    axes.set_axisbelow(True)
