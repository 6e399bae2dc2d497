"""Pictures of a `Placed`: how the search went. Placement strips and memory over time are hwmodel's."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .placed import Placed

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito: told apart by all


def plot_course(placed: Placed, ax: Axes | None = None) -> Axes:
    """Best latency measured so far over maps measured, with the compilers' and the proven bound as lines.

    Raises:
        ValueError: a placement that no search made.
    """
    if placed.course is None:
        raise ValueError(f"the placement was made by {placed.engine!r}: there is no search to draw")
    axes = ax or Figure(figsize=(7.0, 4.0), dpi=100, layout="constrained").subplots()
    axes.step(
        placed.course.evaluations,
        placed.course.best_s * 1e6,
        where="post",
        color=_COLOURS[0],
        label="EGRL",
        linewidth=2,
    )
    for colour, (name, seconds) in zip(_COLOURS[1:], placed.rules_s.items(), strict=False):
        axes.axhline(seconds * 1e6, color=colour, linestyle="--", linewidth=1, label=name)
    if placed.bound_s:
        axes.axhline(placed.bound_s * 1e6, color="black", linewidth=1, label="proven bound")
    axes.set(
        xlabel="maps measured",
        ylabel="latency, us",
        title=f"{placed.workload.name} on {placed.chip.name}",
    )
    axes.legend(frameon=False, fontsize="small")
    return axes
