"""Choices of repmet_table: options and objectives of few-shot methods, on validation episodes alone."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np

import fewshotjax as few

from .repmet_cells import CHOICE_EPISODES, CHOICE_KEY, CHOICE_SEEDS, Bed, Cell, is_repmet
from .repmet_methods import Option, methods, modes_chosen
from .repmet_runs import Runs
from .repmet_train import load_features, usable

Choices = Mapping[str, dict[str, Any]]


class Pool:
    """Embeddings of one trained backbone in all transforms, padded to one number of rows.

    The padding rows have a label of their own, which no episode draws: so validation and test have arrays of
    one shape, and a method is compiled once for both.
    """

    def __init__(self, runs: Runs, bed: Bed, objective: str, seed: int, part: str):
        raw, labels, middle = load_features(runs, bed, objective, seed, part)
        most = max(len(load_features(runs, bed, objective, seed, other)[0]) for other in ("val", "test"))
        self.classes = list(range(int(labels.max()) + 1))
        extra = most - len(raw)
        self.labels = np.concatenate([labels, np.full(extra, len(self.classes), np.int32)])
        padding = np.random.default_rng(0).normal(size=(extra, raw.shape[1]))  # no two rows are alike
        filled = np.concatenate([raw, padding.astype(np.float32)])
        centred = filled - middle[None]
        self.features = {
            "raw": filled,
            "centred": centred,
            "unit": _unit(filled),
            "centred unit": _unit(centred),
        }

    def evaluate(self, bed: Bed, cell: Cell, option: Option, key: int, episodes: int) -> few.EpisodeResult:
        return few.evaluate(
            jax.random.key(key),
            option.method,
            self.features[option.transform],
            self.labels,
            classes=self.classes,
            episodes=episodes,
            **cell.options(bed.queries),
        )


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def choose(runs: Runs, bed: Bed, cell: Cell) -> dict[str, dict[str, Any]] | None:
    """Per method: its option for every objective (seed 0), and the objective (mean of the first seeds)."""
    pools = cache(lambda objective, seed: Pool(runs, bed, objective, seed, "val"))
    found: dict[str, dict[str, Any]] = {}
    for name, options in methods(cell).items():

        def accuracy(objective: str, seed: int, option: Option) -> float:
            pool = pools(objective, seed)
            return pool.evaluate(bed, cell, option, CHOICE_KEY, CHOICE_EPISODES).accuracy.mean

        def work(options: list[Option] = options, accuracy: Any = accuracy) -> dict[str, Any]:
            by_objective = {}
            for objective in usable(runs, bed):
                first = [accuracy(objective, 0, option) for option in options]
                best = int(np.argmax(first))
                rest = [accuracy(objective, s, options[best]) for s in range(1, min(CHOICE_SEEDS, bed.seeds))]
                by_objective[objective] = {
                    "option": best,
                    "told": options[best].told,
                    "validation": float(np.mean([first[best], *rest])),
                }
            chosen = max(by_objective, key=lambda o: by_objective[o]["validation"])
            return {"objective": chosen, "by_objective": by_objective}

        run = runs.run(f"{bed.name}, {cell.name}, choice, {name}", work)
        if run is None:
            return None
        found[name] = run
    return found


def best_of(
    choices: Choices, rows: Sequence[str], allowed: Callable[[str], bool] = lambda objective: True
) -> tuple[str, str] | None:
    """The row and the objective with the best validation accuracy; None where no objective is allowed."""
    validation = {
        (name, objective): one["validation"]
        for name in rows
        for objective, one in choices[name]["by_objective"].items()
        if allowed(objective)
    }
    return max(validation, key=validation.__getitem__, default=None)


def rows_of(choices: Choices) -> tuple[list[str], list[str], str, str]:
    """RepMet's rows, the baselines, RepMet with the K that validation chose, and the best baseline there."""
    ours = [name for name in choices if is_repmet(name)]
    theirs = [name for name in choices if not is_repmet(name)]
    row, rival = best_of(choices, [name for name in ours if modes_chosen(name)]), best_of(choices, theirs)
    assert row is not None, "no objective was trained"
    assert rival is not None
    return ours, theirs, row[0], rival[0]


def apart(choices: Choices) -> tuple[tuple[str, str] | None, tuple[str, str] | None]:
    """RepMet's best row on one of RepMet's objectives, the best baseline on one of the others."""
    mine = best_of(choices, [name for name in choices if modes_chosen(name)], is_repmet)
    theirs = [name for name in choices if not is_repmet(name)]
    return mine, best_of(choices, theirs, lambda objective: not is_repmet(objective))
