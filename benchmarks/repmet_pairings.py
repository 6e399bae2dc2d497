"""Pairings of repmet_table: each training objective with class means and with RepMet's head, nothing chosen.

What a training brings and what a head brings can be read apart here: every objective, on the first of the
test episodes of the methods that choose, with embeddings as they are, fixed K and both of those methods' σ.
"""

from typing import Any

import fewshotjax as few

from .common import QUICK
from .repmet_cells import (
    EPISODE_KEY,
    NO_LOSS,
    OBJECTIVES,
    PAIRED_EPISODES,
    Bed,
    Cell,
    digest,
    is_repmet,
    modes_of,
)
from .repmet_choices import Pool
from .repmet_methods import Option
from .repmet_runs import Runs, over_seeds
from .repmet_train import usable

SIGMAS = (0.2,) if QUICK else (0.2, 0.5)
MEANS = "class means"
# What every pairing is compared with, on the same episodes; besides, the class means of its own objective,
# and its own head where the objective has no embedding loss.
REFERENCES = {
    "trained ProtoNet": ("prototypical", MEANS),
    "softmax, class means": ("softmax", MEANS),
    "SoftTriple, class means": ("soft_triple", MEANS),
}


def heads(cell: Cell, objective: str) -> dict[str, few.Method]:
    """Class means, and RepMet's head of K = 1, 3 and the objective's own, as far as there are examples."""
    own = {modes_of(objective)} if is_repmet(objective) else set()
    made = {MEANS: few.prototypes()}
    for modes in sorted({min(k, cell.shown) for k in {1, 3} | own}):
        for sigma in SIGMAS if modes > 1 else (0.5,):  # it ranks nothing where there is one mode
            name = f"repmet K={modes}" + (f", sigma {sigma}" if modes > 1 else "")
            made[name] = few.repmet(few.RepMetConfig(modes=modes, embedding=None, sigma=sigma))
    return made


def settings() -> dict[str, Any]:
    widest = Cell("of 5 examples", 5)
    return {
        "references": REFERENCES,
        "sigmas": SIGMAS,
        "digest": digest(method for o in OBJECTIVES for method in heads(widest, o).values()),
    }


def work_of(runs: Runs, bed: Bed, cell: Cell) -> None:
    for seed in range(bed.seeds):

        def work(seed: int = seed) -> dict[str, Any]:
            results = {}
            for objective in usable(runs, bed):
                pool = Pool(runs, bed, objective, seed, "test")
                for name, method in heads(cell, objective).items():
                    option = Option("raw", method, name)
                    results[objective, name] = pool.evaluate(bed, cell, option, EPISODE_KEY, PAIRED_EPISODES)
            found: dict[str, Any] = {}
            for (objective, name), one in results.items():
                others = {
                    **REFERENCES,
                    "its class means": (objective, MEANS),
                    "without embedding loss": (objective + NO_LOSS, name),
                }
                there = {told: of for told, of in others.items() if of in results and of != (objective, name)}
                found.setdefault(objective, {})[name] = {
                    "accuracy": _pair(one.accuracy),
                    "minus": {told: _pair(one.minus(results[of])) for told, of in there.items()},
                }
            return {"pairings": found, "failed_queries": sum(one.failed for one in results.values())}

        runs.run(_run_name(bed, cell, seed), work)


def _pair(mean: few.Mean) -> list[float]:
    return [round(value, 6) for value in mean]


def summary(runs: Runs, bed: Bed, cell: Cell) -> dict[str, Any] | None:
    """objective -> head -> accuracy and paired differences, over the seeds that are there."""
    seeds = [runs.known(_run_name(bed, cell, seed)) for seed in range(bed.seeds)]
    there = [one for one in seeds if one is not None]
    if not there:
        return None
    found = {
        objective: {
            name: {
                "accuracy": over_seeds([one["pairings"][objective][name]["accuracy"] for one in there]),
                "minus": {
                    told: over_seeds([one["pairings"][objective][name]["minus"][told] for one in there])
                    for told in row["minus"]
                },
            }
            for name, row in rows.items()
        }
        for objective, rows in there[0]["pairings"].items()
    }
    failed = sum(one["failed_queries"] for one in there)
    return {"seeds": len(there), "episodes": PAIRED_EPISODES, "failed_queries": failed, "accuracies": found}


def _run_name(bed: Bed, cell: Cell, seed: int) -> str:
    return f"{bed.name}, {cell.name}, pairings, seed {seed}"
