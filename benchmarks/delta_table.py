"""The Delta-encoder beside every baseline and control, on the same features and episodes.

Tiny-ImageNet and Omniglot, our splits: Conv-4 backbones that repmet_table trains on the base classes, by
softmax or prototypically, whichever has the better class means on validation classes, five seeds (missing
ones are trained as there and kept there); 5-way 1-shot and 5-shot, the first 1,000 of repmet_table's test
episodes. Not comparable with published numbers: other data, other features.

Choices are made on validation classes, seed 0, 1-shot and 5-shot together, with all samples, and kept before
any test run: scaling of the features, learning rate, code and epochs of the Delta-encoder; scaling of linear
offset, Gaussian noise (with its size), seeds alone, prototypes and nearest neighbour; options of the other
baselines; and then the classifier of the Delta-encoder, linear offset and Gaussian noise each, among the
authors' (25 epochs of Adam), ridge regression, L-BFGS and class means. Noise codes and random-class deltas
are of the chosen Delta-encoder. "protocols" repeats what the authors' code selects on test queries, among all
epochs of the chosen training, on 200 episodes and on the first 10 of them, with the gain of each selection.
Of seeds alone 25 epochs of Adam are 25 steps, which hardly move the first weights; "equal steps" has those of
1,024 samples. Ablations change one thing of the chosen Delta-encoder with the authors' classifier, on 400
episodes of Tiny-ImageNet, 1-shot; fewer seen classes are trained on for as many steps. "checks" say whether
codes carry anything and samples differ.

Intervals are 95 %: Student's t over seeds, which share the episodes; "episodes_half" is half of that over the
episodes of a seed. Differences are paired. Runs are kept, so an interrupted table goes on; TABLE_LIMIT_S ends
it early; what is missing is said. TABLE_PART=1/2 and 2/2 share the work, a process each: run both, then once
without, which does what is left and puts the table together; each takes whole beds and seeds. Needs
FRUGALJAX_DATA. With QUICK=1 a small Omniglot and one seed take the place of all: that shows that it works,
and no more.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fewshotjax as few
from fewshotjax import delta as de

from . import delta_runs
from .common import QUICK, finish, say
from .delta_cells import (
    ABLATION_EPISODES,
    AUTHORS,
    CLASSIFIERS,
    CURVE,
    EPISODES,
    MAIN,
    PROTOCOL_EPISODES,
    PROTONET,
    SAMPLES,
    SAMPLING,
    SHOTS,
    Cell,
    baselines,
    controls,
    fit_of,
    right,
    right_of_method,
    task_of,
    tidy,
)
from .delta_runs import BEDS, GRIDS, SEEDS, Sources, candidates, trained
from .repmet_cells import CHOICE_KEY, EPISODE_KEY, Bed
from .repmet_runs import Runs, excludes, over_seeds

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))
CHOICE_EPISODES = 20 if QUICK else 100  # of each number of shots
PROTOCOL_SEEDS, ABLATION_SEEDS = 1, 1


def settings() -> dict[str, Any]:
    """Everything that a kept run depends on, as JSON values."""
    nothing = np.zeros((1, 1), np.float32), np.zeros(1, np.int32)
    return {
        "delta": delta_runs.settings(),
        "episodes": [EPISODES, CHOICE_EPISODES, ABLATION_EPISODES, PROTOCOL_EPISODES],
        "samples": SAMPLES,
        "classifiers": {name: repr(one) for name, one in CLASSIFIERS.items()},
        "curve": CURVE,
        "keys": [CHOICE_KEY, EPISODE_KEY],
        "baselines": {name: list(options) for name, options in baselines(nothing[0]).items()},
        "controls": {name: list(options) for name, options in controls(nothing, 0).items()},
    }


def choose(runs: Runs, sources: Sources, bed: Bed) -> dict[str, Any] | None:
    """Of the Delta-encoder, each control and each baseline, by the same validation episodes of seed 0."""

    def work() -> dict[str, Any]:
        parts = sources.features(bed, 0)
        assert parts is not None, "its backbone is there by now"
        tasks = [task_of(parts["val"], bed, shots, CHOICE_KEY, CHOICE_EPISODES) for shots in SHOTS]

        def score(name: str, sampler: Any, classifier: str = "adam") -> float:
            """Mean accuracy over both numbers of shots."""
            counts = [
                np.mean(right(task, sampler, fit_of(name, shots, classifier)))
                for shots, task in zip(SHOTS, tasks, strict=True)
            ]
            return float(np.mean(counts)) / tasks[0].config.ways / bed.queries

        scores: dict[str, dict[str, float]] = {MAIN: {}}
        for index, one in enumerate(candidates(bed)):
            deltas = trained(runs, bed, 0, one, parts["base"])
            for epoch in GRIDS[bed.name].epochs:
                told = f"{one.told}, {epoch} epochs"
                scores[MAIN][told] = score(MAIN, de.delta_sampler(deltas[epoch - 1]))
                say(f"  {told}: {scores[MAIN][told]:.4f}")
                if scores[MAIN][told] == max(scores[MAIN].values()):
                    best = {"candidate": index, "epoch": epoch, "told": told}
            tidy()
        found = trained(runs, bed, 0, candidates(bed)[best["candidate"]], parts["base"])
        samplers = {MAIN: de.delta_sampler(found[best["epoch"] - 1])}
        for name, makers in controls(parts["base"], 0).items():
            scores[name] = {told: score(name, make()) for told, make in makers.items()}
            samplers[name] = makers[best_of(scores[name])]()
            tidy()
        classifiers = {}
        for name in (MAIN, *SAMPLING):
            tried = {told: score(name, samplers[name], told) for told in CLASSIFIERS}
            scores[f"{name}, classifier"] = tried
            classifiers[name] = best_of(tried)
            tidy()
        for name, made in baselines(parts["base"][0]).items():
            scores[name] = {
                told: float(np.mean([np.mean(right_of_method(t, m, *parts["val"])) for t in tasks]))
                for told, m in made.items()
            }
        options = {name: best_of(tried) for name, tried in scores.items()}
        return {**best, "classifiers": classifiers, "options": options, "scores": scores}

    if runs.known(f"{bed.name}, choice") is None and sources.features(bed, 0) is None:
        runs.missing.append(f"{bed.name}, choice")
        return None
    return runs.run(f"{bed.name}, choice", work)


def best_of(scores: dict[str, float]) -> str:
    return max(scores, key=scores.__getitem__)


def units(runs: Runs, sources: Sources) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Work after the choices, the most wanted first; each needs its backbone alone."""
    chosen = {bed.name: runs.known(f"{bed.name}, choice") for bed in BEDS}
    cells = [
        Cell(runs, sources, bed, seed, chosen[bed.name])
        for seed in range(SEEDS)
        for bed in BEDS
        if chosen[bed.name] is not None
    ]
    for cell in cells:
        for shots in SHOTS:
            yield f"{cell.bed.name}, {shots}-shot, seed {cell.seed}", lambda c=cell, s=shots: c.main(s)
    for cell in cells:
        bed, seed = cell.bed, cell.seed
        if seed < PROTOCOL_SEEDS:
            for shots in SHOTS:
                yield f"{bed.name}, protocols, seed {seed}", lambda c=cell, s=shots: c.protocols(s)
        if seed == 0:
            yield f"{bed.name}, checks", cell.checks
        if bed is BEDS[0] and seed == 0:
            yield f"{bed.name}, ablations, seed {seed}", cell.ablations
        for shots in () if QUICK else SHOTS:
            yield f"{bed.name}, other codes, seed {seed}", lambda c=cell, s=shots: c.other_codes(s)
    first = [cell for cell in cells if cell.bed is BEDS[0]]
    if first and BEDS[0].data == "tiny_imagenet":
        yield f"{BEDS[0].name}, generalised", first[0].generalised
    for cell in first[1:ABLATION_SEEDS]:  # last: they take long and matter least
        yield f"{cell.bed.name}, ablations, seed {cell.seed}", cell.ablations


def summary(runs: Runs, bed: Bed, start: str, seeds: int, against: str) -> dict[str, Any] | None:
    """Rows of "START, seed N, NAME", with paired differences: `against` minus the row."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for seed in range(seeds):
        prefix = f"{bed.name}, {start}, seed {seed}, "
        for run, figures in runs.kept.done.items():
            if run.startswith(prefix) and "right" in figures:
                counts = np.array(figures["right"].split(), int) / (5 * bed.queries)
                found.setdefault(run.removeprefix(prefix), {})[seed] = counts
    if against not in found:
        return None
    mean_of = few.results.mean_of
    rows = {
        name: {
            **over_seeds([list(mean_of(one)) for one in of_seed.values()]),
            "seeds": len(of_seed),
            "episodes": min(len(one) for one in of_seed.values()),
        }
        for name, of_seed in found.items()
    }
    for name, of_seed in found.items():
        both = [
            list(mean_of(found[against][s][: len(one)] - one[: len(found[against][s])]))
            for s, one in of_seed.items()
            if s in found[against]
        ]
        if name != against and both:
            rows[name][f"{against} minus this"] = over_seeds(both)
    return rows


def main() -> None:
    if not os.environ.get("FRUGALJAX_DATA"):
        raise SystemExit("set FRUGALJAX_DATA to the folder with tiny_imagenet and omniglot")
    start = time.monotonic()
    told = settings()

    def late() -> bool:
        return time.monotonic() - start > LIMIT_S

    runs = Runs("delta_table", told, late)
    sources = Sources(runs, late)
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    for i, bed in enumerate(BEDS):
        if i % parts == part % parts:
            choose(runs, sources, bed)
    runs.reload()
    sources.reload()
    for name, work in list(units(runs, sources)):
        seed = int(name.split("seed ")[1]) if "seed " in name else 0
        index, bed = next((i, b) for i, b in enumerate(BEDS) if name.startswith(f"{b.name}, "))
        index += "generalised" in name  # no more of the same part's
        if (seed * len(BEDS) + index) % parts != part % parts:  # a backbone is trained by one process alone
            continue
        if late() or sources.features(bed, seed) is None:
            runs.missing.append(name)
            continue
        work()
    chosen = {bed.name: runs.known(f"{bed.name}, choice") for bed in BEDS}
    waits = [name for name, choice in chosen.items() if choice is None]
    if parts > 1:
        say(f"part {part}/{parts}: {len(runs.missing)} runs are missing, no choice yet: {', '.join(waits)}")
        return
    few_shot = {
        bed.name: {f"{shots}-shot": summary(runs, bed, f"{shots}-shot", SEEDS, MAIN) for shots in SHOTS}
        for bed in BEDS
    }
    table = {
        "settings": {**told, "seeds": SEEDS},
        "protocol": "honest: options chosen on validation classes, last epoch reported (but protocols)",
        "trunks": {bed.name: runs.known(f"{bed.name}, trunk") for bed in BEDS},
        "choices": chosen,
        "few_shot": few_shot,
        "above_every_baseline_at_1_shot": {
            name: _above(cells["1-shot"]) for name, cells in few_shot.items() if cells["1-shot"]
        },
        "protocols": {
            name: {"all": figures["protocols"], "of_the_first_10": figures["of_the_first_10"]}
            for name, figures in runs.kept.done.items()
            if "protocols" in figures
        },
        "ablations": summary(runs, BEDS[0], "ablation", ABLATION_SEEDS, f"samples {SAMPLES}"),
        "checks": {name: one for name, one in runs.kept.done.items() if ", checks, " in name},
        "generalised": {name: one for name, one in runs.kept.done.items() if ", generalised, " in name},
        "missing": runs.missing + waits,
        "complete": not runs.missing and not waits,
        "seconds": round(sum(run["seconds"] for run in runs.kept.done.values())),
    }
    tell(few_shot)
    if not QUICK:
        table["runs"] = runs.kept.done
    finish("delta_table", table)


def _above(rows: dict[str, Any]) -> dict[str, Any]:
    """Whether the Delta-encoder is above each other row, and by how much: undecided where 0 is in the
    interval over seeds or in that over episodes."""
    key = f"{MAIN} minus this"
    return {
        name: {
            **{part: row[key][part] for part in ("mean", "low", "high") if part in row[key]},
            "verdict": "undecided" if not excludes(row[key], 0.0) else _side(row[key]["mean"]),
        }
        for name, row in rows.items()
        if key in row and name not in (PROTONET, AUTHORS)
    }


def _side(gap: float) -> str:
    return "above" if gap > 0 else "below"


def tell(few_shot: dict[str, Any]) -> None:
    for bed, cells in few_shot.items():
        for cell, rows in cells.items():
            say(f"{bed}, {cell}")
            for name, row in sorted((rows or {}).items(), key=lambda item: -item[1]["mean"]):
                gap = row.get(f"{MAIN} minus this")
                told = "" if gap is None else f"  {MAIN} minus this {100 * gap['mean']:+.2f}"
                say(f"  {name:22} {100 * row['mean']:.2f} %{told}")


if __name__ == "__main__":
    main()
