"""RepMet beside every rival, few-shot and closed-set, at equal budgets.

Few-shot: Tiny-ImageNet (trained on base_train, chosen on novel_val, reported on novel_test) and Omniglot by
alphabet; 5-way, 1-shot and 5-shot, and with 5 shots of each of 2 classes that count as one. All methods meet
the same 10,000 episodes. A Conv-4 is trained with seven objectives, a run a seed, all with the same starts,
steps, batches and augmentation; RepMet's and SoftTriple's add a dense layer, their embedding. Trainings are
short (874 steps), so that the table takes three hours. On validation alone
  each objective  chooses among four candidates (learning rate and one more) by a short run, whose score is
                  the accuracy of class means,
  each method     chooses among up to four options, for every objective, and then its objective.
"repmet" is the row of K that is best on validation, "best baseline" likewise; the test is used once. So
"repmet" has more options than one baseline; each row of RepMet is compared with each baseline, too.
Four of the seven objectives are RepMet's, and baselines may choose them, which hides what training brings:
  few_shot  "repmet_trained_minus_otherwise_trained" keeps the two apart, each best on validation;
  pairings  nothing is chosen: each objective with class means (the prototypical one so is a trained ProtoNet)
            and with RepMet's head, and the embedding loss on and off.

Closed set, error on the base classes' test images: end-to-end, the same backbones on Tiny-ImageNet and others
on CIFAR-10, plain and with its classes merged to five of two; and heads alone on features of the softmax
backbone, also with classes merged in random pairs, and the ablations (repmet_heads.py). RepMet of five modes
and without embedding loss was not trained end-to-end on CIFAR-10: there heads alone compare them. Backbones
of Tiny-ImageNet were chosen by few-shot validation, the rest by held-out training images.

Contaminated, and not comparable with the rest: features of an EfficientNet-Lite0 that was trained on
ImageNet, whose classes those of Tiny-ImageNet are.

Intervals are 95 %: Student's t over the seeds, which share the episodes; "episodes_half" is half of that over
the episodes of a run; none is widened for the number of comparisons. Diverged runs are counted, in no mean.
Runs are kept, so an interrupted table goes on, and TABLE_SEEDS can be raised later. TABLE_LIMIT_S ends it
early; what is missing is said.
TABLE_PART=1/2 and 2/2 share the work, a process each: run both twice, as episodes need all backbones, then
once without, which puts the table together; TABLE_BEDS=tiny_imagenet,omniglot does these first. Needs
FRUGALJAX_DATA. With QUICK=1 a small Omniglot, two objectives and one seed take the place of all: that shows
that it works, and no more.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from . import (
    repmet_cells as cells,
    repmet_episodes as episodes,
    repmet_heads as heads,
    repmet_methods as methods,
    repmet_pairings as pairings,
    repmet_runs,
    repmet_train,
)
from .common import QUICK, finish, say
from .repmet_cells import BEDS, CIFAR, CONTAMINATED_BEDS, PAIRS, TINY, Bed, Cell, is_repmet
from .repmet_runs import Runs, excludes, spread
from .repmet_train import train

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))
WORKED = os.environ.get("TABLE_BEDS", "").split(",")  # data sets to work on now; nothing: all
CONTAMINATED = "ImageNet-trained features on ImageNet classes: not few-shot learning of unseen classes"
TOLERANCE = 0.005  # of accuracy, where classes have one part


def settings() -> dict[str, Any]:
    """Everything that a kept run depends on, as JSON values."""
    return {
        **cells.settings(),
        "methods": methods.settings(),
        "pairings": pairings.settings(),
        "heads": heads.settings(),
        "images": repmet_runs.settings(),
        "features": repmet_train.settings(),
    }


def trainings(runs: Runs) -> list[Callable[[], Any]]:
    """A data set and an objective each, with all seeds: one compilation."""

    def one(bed: Bed, name: str) -> Callable[[], Any]:
        def work() -> None:
            for seed in range(bed.seeds):
                train(runs, bed, name, seed)

        return work

    return [one(bed, name) for bed in BEDS if worked(bed) for name in bed.objectives]


def worked(bed: Bed) -> bool:
    return WORKED == [""] or bed.name in WORKED


def shared(items: list[Any], part: int, parts: int) -> list[Any]:
    """Those of one part: dealt to and fro, as neighbours take about as long."""
    turns = [*range(parts), *reversed(range(parts))]
    return [item for i, item in enumerate(items) if turns[i % len(turns)] == part % parts]


class Report(NamedTuple):
    name: str
    ready: Callable[[], bool]  # whether its backbones are there
    work: Callable[[], Any]


def reports(runs: Runs) -> list[Report]:
    """Episodes of each data set and cell, heads, and the frozen network."""

    def of_cell(bed: Bed, cell: Cell) -> Report:
        def work() -> None:
            episodes.work_of(runs, bed, cell)
            if cell.paired:
                pairings.work_of(runs, bed, cell)

        return Report(f"{bed.name}, {cell.name}", partial(episodes.ready, runs, bed), work)

    found = [of_cell(bed, cell) for bed in BEDS if worked(bed) for cell in bed.cells]
    if not QUICK:
        for bed in filter(worked, (CIFAR, TINY)):
            ready, work = partial(heads.ready, runs, bed), partial(heads.work_of, runs, bed)
            found.append(Report(f"heads, {bed.name}", ready, work))
    for bed in filter(worked, CONTAMINATED_BEDS):
        found.append(Report(bed.name, lambda: True, partial(contaminated, runs, bed)))
    return found


def contaminated(runs: Runs, bed: Bed) -> None:
    try:
        for name in bed.objectives:
            train(runs, bed, name, 0)
    except (ImportError, ValueError) as error:
        runs.missing.append(f"{bed.name}: {error}")
        return
    if episodes.ready(runs, bed):
        for cell in bed.cells:
            episodes.work_of(runs, bed, cell)


def closed(runs: Runs, bed: Bed) -> dict[str, Any]:
    """Errors of the backbones that were trained end-to-end, with paired differences."""
    errors: dict[str, dict[int, float | None]] = {}
    for name in bed.objectives:
        found = [runs.known(f"{bed.name}, train, {name}, seed {seed}") for seed in range(bed.seeds)]
        one = {
            s: run.get("closed_error")
            for s, run in enumerate(found)
            if run and ("closed_error" in run or "diverged" in run)
        }
        if one:
            errors[name] = one
    return {
        name: {
            "error": spread(list(one.values())),
            "seeds": len(one),
            "diverged": sum(error is None for error in one.values()),
            **{
                f"minus {rival}": spread(heads.differences(one, errors[rival]))
                for rival in ("softmax", "soft_triple", "repmet K=1", "repmet K=3")
                if rival in errors and rival != name
            },
        }
        for name, one in errors.items()
    }


def aims(few_shot: dict[str, Any]) -> dict[str, Any]:
    """RepMet at least each baseline where classes have parts, and at most half a point below it elsewhere."""
    return {f"{bed}, {cell}": _aim(row) for bed, found in few_shot.items() for cell, row in found.items()}


def _aim(row: dict[str, Any]) -> dict[str, Any]:
    least = 0.0 if row["parts"] > 1 else -TOLERANCE
    against = {
        other: {**gap, "met": gap["mean"] >= least, "interval_excludes_needed": excludes(gap, least)}
        for other, gap in row["differences"][row["repmet"]].items()
    }
    below = sorted(other for other, gap in against.items() if not gap["met"])
    return {
        "needed": least,
        "repmet": row["repmet"],
        "met": not below,
        "below": below,
        "certainly_below": [other for other in below if against[other]["interval_excludes_needed"]],
        "against": against,
        "rows_below": {
            name: sorted(other for other, gap in gaps.items() if gap["mean"] < least)
            for name, gaps in row["differences"].items()
        },
    }


def tell(table: dict[str, Any]) -> None:
    """The accuracies, for who watches."""
    dirty = {f"contaminated ({CONTAMINATED})": table["contaminated"]["cells"]}
    for bed, found in (table["few_shot"] | dirty).items():
        for cell, row in found.items():
            say(f"{bed}, {cell}")
            for name, one in sorted(row["accuracies"].items(), key=lambda item: -item[1]["mean"]):
                say(f"  {'*' if is_repmet(name) else ' '} {name}: {100 * one['mean']:.2f} %")
    for bed, found in table["pairings"].items():
        for cell, row in found.items():
            say(f"{bed}, {cell}: objective + head")
            for objective, of_heads in row["accuracies"].items():
                told = [f"{head} {100 * one['accuracy']['mean']:.2f}" for head, one in of_heads.items()]
                say(f"    {objective}: {', '.join(told)} %")
    for cell, aim in table["aims"].items():
        outcome = "meets the aim" if aim["met"] else f"is below {', '.join(aim['below'])}"
        say(f"{cell}: {aim['repmet']} {outcome}")


def main() -> None:
    if not os.environ.get("FRUGALJAX_DATA"):
        raise SystemExit("set FRUGALJAX_DATA to the folder with tiny_imagenet, omniglot and cifar10.tar.xz")
    start = time.monotonic()
    told = settings()
    runs = Runs("repmet_table", told, lambda: time.monotonic() - start > LIMIT_S)
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    for train_all in shared(trainings(runs), part, parts):
        train_all()
        jax.clear_caches()
    runs.reload()  # what other parts have kept by now
    waits = []
    for report in shared(reports(runs), part, parts):
        if report.ready():
            report.work()
            jax.clear_caches()
        else:
            waits.append(report.name)
            say(f"{report.name}: waits for backbones; run this again when all of them are trained")
    if parts > 1:
        say(f"part {part}/{parts}: {len(waits)} reports wait, {len(runs.missing)} runs are missing")
        return

    def of_cells(beds: tuple[Bed, ...], summary: Callable[..., Any]) -> dict[str, dict[str, Any]]:
        found = {b.name: {c.name: row for c in b.cells if (row := summary(runs, b, c))} for b in beds}
        return {bed: rows for bed, rows in found.items() if rows}

    few_shot = of_cells(BEDS, episodes.summary)
    dirty = of_cells(CONTAMINATED_BEDS, episodes.summary)
    table = {
        "settings": {**told, "seeds": {bed.name: bed.seeds for bed in BEDS}},
        "aims": aims(few_shot),
        "few_shot": few_shot,
        "pairings": of_cells(BEDS, pairings.summary),
        "contaminated": {"note": CONTAMINATED, "cells": dirty.get("contaminated", {})},
        "closed_set_end_to_end": {bed.name: closed(runs, bed) for bed in BEDS if bed in (TINY, CIFAR, PAIRS)},
        "closed_set_heads": {} if QUICK else {bed.name: heads.summary(runs, bed) for bed in (TINY, CIFAR)},
        "missing": runs.missing + waits,
        "complete": not runs.missing and not waits,
        "seconds": round(sum(run["seconds"] for run in runs.kept.done.values())),
    }
    tell(table)
    if not QUICK:
        table["runs"] = runs.kept.done
    finish("repmet_table", table)


if __name__ == "__main__":
    main()
