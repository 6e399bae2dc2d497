"""write_report: everything about a search in one HTML file that opens anywhere and asks no network."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from platform import machine, python_version, system
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

import egrljax as egrl

from ..cosearch_outcome import CoFound
from ..front import Front
from ..front_io import write_text
from ..joint import separated
from ..joint_space import JointSpace
from ..plots import Baseline
from ..search import Found
from ..task import Task
from . import figures
from .chip_views import Chips, Network, chip_costs_of, chip_views, detailed_rows
from .page import page
from .sections import Picture, Table

_PACKAGES = ("frugaljax", "jax", "jaxlib", "flax", "evosax", "numpy", "plotly")
Levels = Int[np.ndarray, "K N 2"]


def write_report(
    path: str | os.PathLike[str],
    result: Front | Found | CoFound,
    *,
    title: str | None = None,
    network: Network | None = None,
    chip: Chips | None = None,
    placements: Levels | Mapping[str, Levels] | None = None,
    placed: egrl.Placed | Sequence[egrl.Placed] = (),
    baselines: Mapping[str, Baseline] | None = None,
    baseline_columns: Sequence[str] | None = None,
    knee: int | None = None,
    chosen: int | None = None,
    history: Mapping[str, Any] | None = None,
    species: Sequence[str] = (),
    tables: Sequence[Table] = (),
    pictures: Sequence[Picture] = (),
    settings: Mapping[str, Any] | None = None,
    command: str | None = None,
    date: str | None = None,
    detailed: int = 24,
) -> None:
    """Writes one HTML file about a search, in one step: `write_report("report.html", found, network=task)`.

    A person opens it in any browser, on a phone too, without a network: the front to brush and to click, the
    chosen point's bits, what it does on a chip, learning curves, tables, pictures, settings and versions.
    Equal arguments on one machine give equal pages, but for the date.

    Args:
        path: the file, which is replaced if it is there.
        result: K points: a front, or the outcome of `search`, `alternate` and the like.
        network: quantized, its workload, or the task that was searched. A task shows the chips of its own
            objectives, and tells bits from memories in what `search` found for a joint task.
        chip: one or several: a `hwmodel.Chip`, whose tensors the fastest of the rules places, or what
            `nemo.latency(network, chip, placement)` gives.
        placements: (K, N, 2) levels of a row for each point, of one chip, or by the names of several; what
            does not fit slides to slower levels. A CoFound brings those of its own chip.
        placed: what `egrljax.place` found, at bits of its own: its course, bound and panels.
        baselines: as in `plot_front`: name -> (P, M) costs, or (bits (P, n), costs (P, M)).
        baseline_columns: what these M costs are, among objectives and held-out columns; default: the
            objectives. A baseline is drawn where both axes are among them.
        knee: its row; default: the front's own.
        chosen: the row that is shown first; default: the knee.
        history: of `Found`, which brings its own: evaluations, hypervolume and, with `species`, alloc.
        tables, pictures: results of other kinds by plain values, in this order: few-shot accuracies, say.
        settings: shown with those of the front.
        command: how to do it again.
        date: default: now.
        detailed: points with panels of a chip, at most: the file grows with them. They are the chosen one,
            the knee, the lowest of each objective, the most exact at each step of model_ratio, and others at
            even distances along the front.

    Raises:
        ValueError: a row that is not there, one of these that does not fit the others, with both named, or a
            folder that cannot be written to.
    """
    front, wishes = _front_of(result, network)
    if isinstance(result, Found):
        history = result.history if history is None else history
        species = species or result.species
    best = front.knee().index if knee is None else knee
    first = best if chosen is None else chosen
    for what, row in (("knee", best), ("chosen", first)):
        if row is None or not 0 <= row < len(front):
            raise ValueError(f"{what} must be a row of the front, 0-{len(front) - 1}, got {row}")
    assert best is not None
    assert first is not None
    costs = chip_costs_of(chip, network)
    rows = detailed_rows(front, detailed, first, best)
    if placements is None and isinstance(result, CoFound):
        given: Sequence[Levels | None] = [wishes if cost.chip == result.chip else None for cost in costs]
    else:
        given = _of_each(wishes if placements is None else placements, [cost.chip.name for cost in costs])
    views = chip_views(front, costs, given, rows)
    several = [placed] if isinstance(placed, egrl.Placed) else list(placed)
    if baseline_columns is not None and not baselines:
        raise ValueError("baseline_columns is given without baselines: give both")
    columns = front.objectives if baseline_columns is None else tuple(baseline_columns)
    data = {
        "schema": figures.SCHEMA,
        "front": figures.points_data(front, best, first, views),
        "baselines": figures.baselines_data(front, baselines or {}, columns),
        "chips": [figures.chip_data(view) for view in views],
        "placed": [figures.placed_data(one) for one in several],
        "history": None if history is None else figures.history_data(history, species),
        "tables": [figures.table_data(table) for table in tables],
    }
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC") if date is None else date
    made = {"date": now, "versions": _versions(), "device": _device()}
    facts = {**_facts(result), **(settings or {})}
    text = page(
        title or str(front.settings.get("network", "Bits of a network")),
        data,
        tables=tables,
        pictures=pictures,
        settings=({"result": facts} if facts else {}) | {"search": dict(front.settings), "this page": made},
        command=command,
    )
    write_text(path, text)


def _front_of(result: Front | Found | CoFound, network: Network | None) -> tuple[Front, Levels | None]:
    """The front of bit-widths, and placements where the result has them."""
    if isinstance(result, CoFound):
        return result.front(), result.placement
    front = result.front if isinstance(result, Found) else result
    if (
        isinstance(network, Task)
        and isinstance(network.space, JointSpace)
        and front.names == network.space.names
    ):
        return separated(front, network.space)
    return front, None


def _of_each(placements: Levels | Mapping[str, Levels] | None, chips: list[str]) -> Sequence[Levels | None]:
    """The placements on each chip, None where the caller gives none."""
    if placements is None:
        return [None] * len(chips)
    if isinstance(placements, Mapping):
        for name in placements:
            if name not in chips:
                raise ValueError(f"placements are of chip {name!r}, the report's chips are {chips}")
        return [placements.get(name) for name in chips]
    if len(chips) > 1:
        raise ValueError(f"placements is one array for the chips {chips}: give a mapping, by their names")
    return [placements][: len(chips)]


def _facts(result: Front | Found | CoFound) -> dict[str, Any]:
    if isinstance(result, Front):
        return {}
    facts = {"evaluations": int(result.evaluations), "finished": bool(result.finished)}
    return facts if isinstance(result, Found) else {**facts, "runs of the network": result.runs}


def _versions() -> dict[str, str]:
    found = {"python": python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _device() -> str:
    devices = jax.devices()
    kinds = sorted({f"{device.platform} ({device.device_kind})" for device in devices})
    return f"{len(devices)} x {', '.join(kinds)}; {system()} {machine()}"
