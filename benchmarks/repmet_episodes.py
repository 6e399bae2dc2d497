"""Few-shot half of repmet_table: the methods as validation chose them, once on the test episodes."""

from functools import cache
from typing import Any

import jax
import numpy as np

import fewshotjax as few

from .repmet_cells import EPISODE_KEY, Bed, Cell
from .repmet_choices import Choices, Pool, apart, choose, rows_of
from .repmet_methods import Option, methods
from .repmet_runs import Runs, images, over_seeds
from .repmet_train import is_trained, usable

PIXELS = "raw pixels, class mean"


def ready(runs: Runs, bed: Bed) -> bool:
    """Whether all backbones of the bed are trained."""
    return all(is_trained(runs, bed, name, seed) for name in bed.objectives for seed in range(bed.seeds))


def test(runs: Runs, bed: Bed, cell: Cell, seed: int, choices: Choices) -> Any:
    """Accuracies of all methods as chosen, with the paired differences that the table shows."""

    def work() -> dict[str, Any]:
        pools = cache(lambda objective: Pool(runs, bed, objective, seed, "test"))
        table = methods(cell)

        def evaluated(objective: str, option: Option) -> few.EpisodeResult:
            return pools(objective).evaluate(bed, cell, option, EPISODE_KEY, cell.episodes)

        def chosen(name: str, objective: str) -> Option:
            return table[name][choices[name]["by_objective"][objective]["option"]]

        @cache
        def result(name: str, objective: str) -> few.EpisodeResult:
            return evaluated(objective, chosen(name, objective))

        ours, theirs, _, _ = rows_of(choices)
        results = {name: result(name, choices[name]["objective"]) for name in choices}
        tuned = {}
        for name in choices:
            objective = choices[name]["objective"]
            option = chosen(name, objective)
            if option.before is not None:
                before = evaluated(objective, option._replace(method=option.before))
                tuned[name] = [*before.accuracy, *results[name].minus(before)]
        mine, other = apart(choices)
        return {
            "accuracies": {name: list(one.accuracy) for name, one in results.items()},
            "differences": {
                name: {other: list(results[name].minus(results[other])) for other in theirs} for name in ours
            },
            "tuned minus untuned": tuned,
            "apart": list(result(*mine).minus(result(*other))) if mine and other else None,
            "failed_queries": {name: one.failed for name, one in results.items() if one.failed},
        }

    return runs.run(f"{bed.name}, {cell.name}, test, seed {seed}", work)


def pixels(runs: Runs, bed: Bed, cell: Cell) -> Any:
    """The floor: nearest mean of raw pixels. Also how many of the test's images are copies of others."""

    def work() -> dict[str, Any]:
        part = images(bed.data, "test")
        flat = part.images.reshape(len(part), -1).astype(np.float32) / np.float32(255)
        found = few.evaluate(
            jax.random.key(EPISODE_KEY),
            few.prototypes(),
            flat,
            part.labels,
            episodes=cell.episodes,
            **cell.options(bed.queries),
        )
        return {"accuracy": list(found.accuracy), "copies": len(few.duplicates(part))}

    return runs.run(f"{bed.name}, {cell.name}, {PIXELS}", work)


def work_of(runs: Runs, bed: Bed, cell: Cell) -> None:
    """Everything of one cell but the pairings."""
    if (choices := choose(runs, bed, cell)) is None:
        return
    for seed in range(bed.seeds):
        test(runs, bed, cell, seed, choices)
    if not bed.contaminated:
        pixels(runs, bed, cell)


def summary(runs: Runs, bed: Bed, cell: Cell) -> dict[str, Any] | None:
    """Over the seeds that are there; None where there is none."""
    start = f"{bed.name}, {cell.name}"
    choices = {name: runs.known(f"{start}, choice, {name}") for name in methods(cell)}
    seeds = [runs.known(f"{start}, test, seed {seed}") for seed in range(bed.seeds)]
    there = [one for one in seeds if one is not None]
    if not there or any(one is None for one in choices.values()):
        return None
    known: dict[str, dict[str, Any]] = {name: one for name, one in choices.items() if one is not None}
    ours, theirs, row, rival = rows_of(known)

    def difference(name: str, other: str) -> Any:
        return over_seeds([one["differences"][name][other] for one in there])

    table = {
        name: {
            **over_seeds([one["accuracies"][name] for one in there]),
            "objective": choice["objective"],
            "option": choice["by_objective"][choice["objective"]]["told"],
            "failed_queries": sum(one["failed_queries"].get(name, 0) for one in there),
        }
        for name, choice in known.items()
    }
    floor = runs.known(f"{start}, {PIXELS}")
    if floor is not None:
        table[PIXELS] = {"mean": floor["accuracy"][0], "episodes_half": floor["accuracy"][1]}
    tuned = [one["tuned minus untuned"] for one in there]
    mine, other = apart(known)
    return {
        "parts": cell.parts,
        "seeds": len(there),
        "episodes": cell.episodes,
        "contaminated": bed.contaminated is not None,
        "copies_among_test_images": None if floor is None else floor["copies"],
        "diverged": sorted(set(bed.objectives) - set(usable(runs, bed))),
        "accuracies": table,
        "repmet": row,
        "best_baseline": rival,
        "repmet_minus_best_baseline": difference(row, rival),
        "differences": {name: {other: difference(name, other) for other in theirs} for name in ours},
        "tuned_minus_untuned": {
            name: {
                "untuned": over_seeds([of_seed[name][:2] for of_seed in tuned]),
                "difference": over_seeds([of_seed[name][2:] for of_seed in tuned]),
            }
            for name in tuned[0]
        },
        # Where neither learns from the other's training.
        "repmet_trained_minus_otherwise_trained": {
            "repmet": mine,
            "baseline": other,
            "difference": over_seeds([one["apart"] for one in there]) if mine and other else None,
        },
        "base_objective_validation": {
            name: {o: round(of["validation"], 4) for o, of in choice["by_objective"].items()}
            for name, choice in known.items()
        },
    }
