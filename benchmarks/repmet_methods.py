"""The few-shot methods of repmet_table, and the options that each chooses from on validation."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import fewshotjax as few

from .common import QUICK
from .repmet_cells import BEDS, CONTAMINATED_BEDS, Cell, digest, is_repmet

RATES, STEPS = (0.01, 0.1), 20  # of tuning inside an episode


class Option(NamedTuple):
    """A method with what is done to the features first: raw, unit, centred, "centred unit"."""

    transform: str
    method: few.Method
    told: str
    before: few.Method | None = None  # the same without its tuning


def methods(cell: Cell) -> dict[str, list[Option]]:
    """Each with up to four options; centring, by the mean feature of the base classes, is open to all."""
    made: dict[str, list[Option]] = {}

    def both(name: str, options: Mapping[str, few.Method], before: few.Method | None = None) -> None:
        made[name] = [
            Option(transform, method, f"{transform}, {told}" if told else transform, before)
            for told, method in options.items()
            for transform in ("raw", "centred")
        ]

    def config(modes: int, sigma: float = 0.5, **more: Any) -> few.RepMetConfig:
        return few.RepMetConfig(modes=modes, embedding=None, sigma=sigma, **more)

    means = {
        "modes of length 1": few.repmet(config(1)),
        "means as they are": few.repmet(config(1, normalize_representatives=False)),
    }
    both("repmet K=1", means)
    # With one example there is nothing to cluster, and sigma ranks nothing where there is one mode.
    several = {f"repmet K={k}": k for k in (3, 5) if k <= cell.shown}
    if cell.parts > 1:
        several["repmet, every example a mode"] = cell.shown
    for name, modes in several.items():
        both(name, {f"sigma {s}": few.repmet(config(modes, s)) for s in (0.2, 0.5)})
    if cell.tuned:
        modes = min(3, cell.shown)
        tuned = {f"rate {r}": few.Tuning(learning_rate=r, steps=STEPS) for r in RATES}
        both(
            f"repmet K={modes}, tuned",
            {told: few.repmet(config(modes), tuning=tuning) for told, tuning in tuned.items()},
            few.repmet(config(modes)),
        )
    # Without options: its distances are the same when all features are shifted.
    made["prototypes"] = [Option("raw", few.prototypes(), "raw")]
    both("simpleshot", {d: few.simpleshot(distance=d) for d in ("euclidean", "cosine")})
    one = few.nearest_neighbour()
    made["nearest_neighbour"] = [Option(t, one, t) for t in ("raw", "unit", "centred unit")]
    both("matching", {f"temperature {t}": few.matching(t) for t in (0.1, 0.5)})
    both("logistic", {f"lambda {r}": few.logistic(r) for r in (0.1, 1.0)})
    both("ridge", {f"lambda {r}": few.ridge(r) for r in (0.3, 3.0)})
    both("linear_head", {f"rate {r}": few.linear_head(100, r) for r in (0.3, 1.0)})
    if QUICK:
        some = ("repmet K=1", "repmet K=3", "prototypes", "nearest_neighbour", "ridge")
        return {name: made[name][:2] for name in some if name in made}
    return made


def modes_chosen(method: str) -> bool:
    """Whether a row is one of those that "repmet", whose K is chosen on validation, chooses from."""
    return is_repmet(method) and "tuned" not in method


def settings() -> dict[str, Any]:
    """The options of each cell."""
    cells = {cell.name: cell for bed in (*BEDS, *CONTAMINATED_BEDS) for cell in bed.cells}
    made = {name: methods(cell) for name, cell in cells.items()}
    every = [option for of_cell in made.values() for options in of_cell.values() for option in options]
    return {
        "options": {
            cell: {name: [option.told for option in options] for name, options in of_cell.items()}
            for cell, of_cell in made.items()
        },
        "digest": digest(every),
    }
