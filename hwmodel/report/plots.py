"""Pictures of an explanation: memory over time, roofline, time by operation, placement.

Each draws on `ax`, or on a figure of its own that leaves pyplot alone, and returns the axes:
`plot_latency(explanation).figure.savefig("latency.png")`. Colours of Okabe & Ito 2008, which colour-blind
readers tell apart; a level has the same one in all pictures.
"""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from .explain import Explanation, Peak

COMPUTE, OVER, GREY = "#555555", "#B00020", "#8C8C8C"
LEVELS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
_MOST_NAMES = 64  # of operations along an axis
_LONGEST_NAME = 20  # characters of each
_LABELLED = 5  # of the longest operations where there are more
_NEAR = 3.0  # a capacity within this factor of the peak is drawn, one beyond it is written


def plot_memory(explanation: Explanation, level: str | int = -1, ax: Axes | None = None) -> Axes:
    """Bytes held on a level while each operation runs: weights below, live outputs above, and the capacity.

    Args:
        explanation: of a placement.
        level: name or index.
        ax: where to draw.

    Raises:
        ValueError: an unknown level.
    """
    index = _level(explanation, level)
    axes = ax or _axes(9.0, 3.2)
    held, peak = explanation.held_bytes[:, index], explanation.peaks[index]
    top = max(peak.held_bytes + peak.reserved_bytes, 1)
    limit = peak.capacity_bytes if peak.capacity_bytes and peak.capacity_bytes <= _NEAR * top else None
    factor, unit = _byte_unit(max(top, limit or 0))
    edges = np.arange(len(held) + 1)
    base = peak.reserved_bytes / factor
    weights = base + explanation.weight_bytes[index] / factor
    colour = _colour(index)
    if base:
        axes.fill_between(edges[[0, -1]], 0, base, color=GREY, lw=0, label="reserved")
    axes.fill_between(edges[[0, -1]], base, weights, color=colour, lw=0, label="weights")
    outputs = np.append(held, held[-1]) / factor + base
    axes.fill_between(
        edges, weights, outputs, step="post", color=colour, alpha=0.45, lw=0, label="live outputs"
    )
    if limit:
        axes.axhline(
            limit / factor,
            color="black",
            lw=1.2,
            ls="--",
            label=f"capacity {limit / factor:.4g} {unit.split()[0]}",
        )
        over = np.maximum(outputs, limit / factor)
        if (over > limit / factor).any():
            axes.fill_between(
                edges, limit / factor, over, step="post", fc="none", ec=OVER, hatch="////", lw=0,
                label="does not fit",
            )  # fmt: skip
    if peak.held_bytes:
        _mark_peak(axes, peak, len(held), factor, unit)
    axes.set(xlim=(0, len(held)), ylabel=unit)
    axes.set_ylim(0, 1.22 * max(top, limit or 0) / factor)
    axes.set_title(_memory_title(peak, limit), loc="left", fontsize=10)
    _step_axis(axes)
    axes.legend(loc="upper right", ncols=5, fontsize=8, frameon=False, borderaxespad=0.1)
    return axes


def memory_figure(explanation: Explanation) -> Figure:
    """`plot_memory` of all levels, one above the other, the last level on top."""
    count = len(explanation.peaks)
    figure = Figure(figsize=(9, 1 + 2.1 * count), dpi=100, layout="constrained")
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    for index, axes in zip(reversed(range(count)), panels, strict=True):
        plot_memory(explanation, index, axes)
        if index:
            axes.set_xlabel("")
    return figure


def plot_roofline(explanation: Explanation, ax: Axes | None = None) -> Axes:
    """Operations per second that each operation reaches, over its operations per byte through each level.

    An operation has a point for each level that it uses, filled where that level binds, with an area by its
    time. The roofs are the levels' bandwidths (the sum of both directions where dual-ported, else the
    greater one) and each rate of compute, the fastest drawn thicker. Operations without arithmetic are
    not drawn.
    """
    axes = ax or _axes(8.0, 5.2)
    axes.set(xscale="log", yscale="log")  # first, for nothing is drawn yet that it would rescale
    reached, area = explanation.reached_ops_per_s, _areas(explanation.time_s)
    peak_ops = max(rate.ops_per_s for rate in explanation.chip.compute)
    drawn = explanation.intensity[np.isfinite(explanation.intensity) & (explanation.intensity > 0)]
    low, high = (drawn.min(), drawn.max()) if len(drawn) else (1.0, 1.0)
    speeds = [_bandwidth(explanation, k) for k in range(len(explanation.peaks))]
    span = np.geomspace(low / 3, max(high, peak_ops / min(speeds)) * 3, 200)
    handles: list[Artist] = []
    for k, name in enumerate(explanation.chip.level_names):
        axes.plot(span, np.minimum(speeds[k] * span, peak_ops), color=_colour(k), lw=1.3, zorder=1)
        handles.append(Patch(color=_colour(k), label=f"{name}, {speeds[k] / 1e9:,.4g} GB/s"))
        x = explanation.intensity[:, k]
        shown = np.isfinite(x) & (x > 0) & (reached > 0)
        for binds in (False, True):
            rows = shown & ((explanation.binding == 1 + k) == binds)
            fill = _colour(k) if binds else "none"
            axes.scatter(
                x[rows], reached[rows], s=area[rows], c=fill, edgecolors=_colour(k), lw=0.8, alpha=0.8
            )
    for rate in explanation.chip.compute:
        axes.axhline(rate.ops_per_s, color=COMPUTE, lw=1.3 if rate.ops_per_s == peak_ops else 0.8, zorder=1)
    handles += [
        Line2D([], [], color=COMPUTE, lw=1.3, label=f"compute, {peak_ops / 1e9:,.6g} GOPS"),
        Line2D([], [], color="black", marker="o", ls="", ms=5, label="that level binds"),
        Line2D([], [], color="black", marker="o", ls="", ms=5, mfc="none", label="another term binds"),
    ]
    axes.set_xlim(span[0], span[-1])
    positive = reached[reached > 0]
    axes.set_ylim(min(positive.min(initial=peak_ops), peak_ops / 30) / 3, peak_ops * 2)
    axes.set_xlabel("operational intensity (operations per byte through the level)")
    axes.set_ylabel("reached (operations / s)")
    axes.set_title(_title(explanation), loc="left", fontsize=10)
    axes.grid(alpha=0.25, lw=0.5)
    axes.legend(
        handles=handles, loc="lower right", fontsize=8, frameon=True, framealpha=0.85, edgecolor="none"
    )
    return axes


def plot_latency(explanation: Explanation, ax: Axes | None = None) -> Axes:
    """Time of each operation, coloured by the term that binds; a line marks what compute alone would take.

    The legend gives each term's share of the time and the number of operations that it binds.
    """
    axes = ax or _axes(11.0, 4.4)
    time_s, count = explanation.time_s, len(explanation.operations)
    factor, unit = _time_unit(float(time_s.max()))
    total = float(time_s.sum()) or 1.0
    steps = np.arange(count) + 0.5
    for term, name in enumerate(explanation.term_names):
        rows = explanation.binding == term
        if rows.any():
            share = time_s[rows].sum() / total
            colour = COMPUTE if term == 0 else _colour(term - 1)
            axes.bar(
                steps[rows], time_s[rows] * factor, 0.86 if count <= _MOST_NAMES else 1.0, color=colour, lw=0,
                label=f"{name} binds, {share:.1%} ({rows.sum()})",
            )  # fmt: skip
    axes.stairs(
        explanation.terms.compute_s * factor, np.arange(count + 1), color="black", lw=0.9, baseline=None,
        label="compute alone",
    )  # fmt: skip
    if count > _MOST_NAMES:
        for i in _longest_apart(time_s):
            axes.annotate(
                explanation.operations[i], (steps[i], time_s[i] * factor), (0, 3), textcoords="offset points",
                rotation=35, fontsize=7, ha="left", va="bottom",
            )  # fmt: skip
    axes.set(xlim=(0, count), ylabel=f"time ({unit})")
    axes.set_ylim(0, (time_s.max() * factor or 1.0) * 1.35)
    axes.set_title(_title(explanation), loc="left", fontsize=10)
    _name_axis(axes, explanation)
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=8, columnspacing=1.4)
    return axes


def plot_placement(explanation: Explanation, ax: Axes | None = None) -> Axes:
    """The level of each operation's weights and output along the network; blank where it has no weights."""
    axes = ax or _axes(11.0, 2.6)
    strip = explanation.placement.T.astype(float)
    strip[0, ~explanation.terms.holds_weights] = np.nan
    names, count = explanation.chip.level_names, len(explanation.operations)
    colours = ListedColormap([_colour(k) for k in range(len(names))])
    edge = {"edgecolors": "white", "linewidth": 0.6} if count <= _MOST_NAMES else {"linewidth": 0.0}
    axes.pcolormesh(
        np.arange(count + 1), [0, 1, 2], strip[::-1], cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, **edge
    )
    axes.axhline(1, color="white", lw=3)
    axes.set_yticks([0.5, 1.5], ["outputs", "weights"])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, count)
    axes.set_title(_title(explanation), loc="left", fontsize=10)
    _name_axis(axes, explanation)
    axes.legend(
        handles=[Patch(color=_colour(k), label=name) for k, name in enumerate(names)],
        loc="lower right", bbox_to_anchor=(1, 1), ncols=len(names), fontsize=8, frameon=False,
    )  # fmt: skip
    return axes


def _axes(width: float, height: float) -> Axes:
    return Figure(figsize=(width, height), dpi=100, layout="constrained").subplots()


def _level(explanation: Explanation, level: str | int) -> int:
    if isinstance(level, str):
        return explanation.chip.level_index(level)
    count = len(explanation.peaks)
    if not -count <= level < count:
        raise ValueError(f"level must be a name or an index below {count}, got {level}")
    return level % count


def _colour(level: int) -> str:
    return LEVELS[level % len(LEVELS)]


def _bandwidth(explanation: Explanation, k: int) -> float:
    level = explanation.chip.levels[k]
    if level.ports == "dual":
        return level.read_bytes_per_s + level.write_bytes_per_s
    return max(level.read_bytes_per_s, level.write_bytes_per_s)


def _areas(time_s: np.ndarray) -> np.ndarray:
    return 10 + 150 * time_s / max(float(time_s.max()), 1e-300)


def _longest_apart(time_s: np.ndarray) -> list[int]:
    """The longest operations, leaving out those whose names would overlap."""
    chosen: list[int] = []
    for i in np.argsort(-time_s, kind="stable").tolist():
        if all(abs(i - other) > len(time_s) / 15 for other in chosen):
            chosen.append(i)
        if len(chosen) == _LABELLED:
            break
    return chosen


def _mark_peak(axes: Axes, peak: Peak, count: int, factor: float, unit: str) -> None:
    height = (peak.held_bytes + peak.reserved_bytes) / factor
    late = peak.step > count / 2
    axes.annotate(
        f"{peak.held_bytes / factor:.4g} {unit.split()[0]} at {peak.operation}", (peak.step + 0.5, height),
        (-6 if late else 6, 4), textcoords="offset points", ha="right" if late else "left", va="bottom",
        fontsize=8, bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.6},
    )  # fmt: skip
    axes.plot([peak.step + 0.5], [height], marker="v", color="black", ms=4, clip_on=False)


def _memory_title(peak: Peak, limit: int | None) -> str:
    if peak.capacity_bytes is None:
        return f"{peak.level}, unlimited"
    if limit:
        return peak.level
    factor, unit = _byte_unit(peak.capacity_bytes)
    return f"{peak.level}, capacity {peak.capacity_bytes / factor:.4g} {unit.split()[0]}"


def _title(explanation: Explanation) -> str:
    factor, unit = _time_unit(explanation.latency_s)
    return f"{explanation.workload} on {explanation.chip.name}, {explanation.latency_s * factor:.4g} {unit}"


def _name_axis(axes: Axes, explanation: Explanation) -> None:
    """Names under the bars where there is room, else numbers of steps."""
    count = len(explanation.operations)
    if count <= _MOST_NAMES:
        names = [_short(name) for name in explanation.operations]
        axes.set_xticks(np.arange(count) + 0.5, names, rotation=90, fontsize=7)
        axes.tick_params(axis="x", length=0)
    else:
        _step_axis(axes)


def _short(name: str) -> str:
    """The end of a path that would leave no room for the bars."""
    if len(name) <= _LONGEST_NAME:
        return name
    cut = name[1 - _LONGEST_NAME :]
    return "…" + cut[cut.find("/", 0, _LONGEST_NAME // 2) + 1 :]


def _step_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("operation, in execution order")


def _byte_unit(size: int) -> tuple[float, str]:
    for factor, name, power in ((1e9, "GB", 9), (1e6, "MB", 6), (1e3, "kB", 3)):
        if size >= factor:
            return factor, f"{name} ($10^{power}$ bytes)"
    return 1.0, "bytes"


def _time_unit(seconds: float) -> tuple[float, str]:
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return factor, name
    return 1e9, "ns"
