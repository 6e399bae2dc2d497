"""Whole NEMO against every baseline and with each of its parts taken away, at equal evaluations.

Two tasks: EfficientNet-Lite0 on labelled ImageNet photographs, and a small residual network that we trained
on CIFAR-10. Searched is the divergence (KL) from the full-precision network on a few images, which ranks
finely where the error of so few images is a lottery; with it model_ratio and bitops_max. Every front is
evaluated again on images and labels that no search saw, filtered again there, and compared by hypervolume up
to the costs of a network that always fails at 8 bits everywhere: (1, 0.25, 0.25), as a share of that box.

A run that is stopped goes on where it was: finished searches are kept in build/nemo_ablation.jsonl, and what
was evaluated beside it; delete both after a change of the code.
Needs FRUGALJAX_DATA. The sensitivity table (fisher) costs no evaluation, but about the time of 13.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import moocore
import numpy as np

import nemojax as nemo
from nemojax.baselines import BASELINES

from .common import QUICK, finish, interval, say
from .small_networks import cifar_network

SEEDS = range(200, 202 if QUICK else 205)  # no setting was chosen by a run of these
POPULATION = 20
BUDGET = {"efficientnet": 60, "cifar": 60} if QUICK else {"efficientnet": 300, "cifar": 300}
RESOLUTION = 64 if QUICK else 96
CORNER = np.array([1.0, 0.25, 0.25])
KEPT = Path("build") / "nemo_ablation.jsonl"

WHOLE = nemo.preset("guided", population=POPULATION)
if QUICK:  # the species that compiles longest is left out; the result names those that ran
    WHOLE = replace(WHOLE, species=tuple(name for name in WHOLE.species if name != "unet"))
PUBLISHED = nemo.NemoConfig(population=POPULATION)
PAPER = nemo.preset("paper", population=POPULATION)
COLD: dict[str, Any] = {"warm_start": None}


def of(*species: str) -> nemo.NemoConfig:
    return replace(WHOLE, species=species)


SEARCHES: dict[str, tuple[nemo.NemoConfig, dict[str, Any]]] = {
    "nemo": (WHOLE, {}),
    # parts taken away
    "uncorrected": (WHOLE, {"warm_rounds": 0}),
    "no_guests": (replace(WHOLE, direct=nemo.Direct(guest_rate=0.0)), {}),
    "equal_sizes": (replace(WHOLE, resize=nemo.Resize(rule="equal")), {}),
    "hypervolume_utility": (replace(WHOLE, resize=nemo.Resize(utility="hypervolume")), {}),
    "mlp_for_graphs": (of("continuous", "floor", "mlp", "priced"), {}),
    "shuffled_edges": (replace(WHOLE, graph=replace(WHOLE.graph, edges="shuffled")), {}),
    "without_graphs": (of("continuous", "floor", "priced"), {}),
    "without_prices": (PUBLISHED, {}),
    **{f"{name}_alone": (of(name), {}) for name in WHOLE.species},
    # without the start
    "cold": (PUBLISHED, COLD),
    "cold_paper_preset": (PAPER, COLD),
    # rivals
    "nsga2_direct": (
        replace(PUBLISHED, species=("continuous",), survival="nsga2", direct=nemo.Direct(guest_rate=0.0)),
        COLD,
    ),
}
COMPARED = [name for name in BASELINES if name != "perturbed"]  # left out to keep the table within its hours
METHODS = {
    "efficientnet": [*(name for name in SEARCHES if not name.startswith("cold")), *COMPARED],
    "cifar": [*SEARCHES, *COMPARED],
}
if QUICK:  # each search compiles for ten seconds or more
    METHODS["efficientnet"] = ["nemo", "nsga2_direct", "uniform", "random", "greedy", "proxy"]


class Problem(NamedTuple):
    """A task, and the same bits' error on images that it does not see."""

    task: nemo.Task
    report: nemo.Task
    evaluate: nemo.Evaluator  # shared by the baselines: none depends on what others evaluated
    on_report: nemo.Evaluator


def efficientnet(data: Path) -> Problem:
    net = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
    photos = nemo.load_labelled(data / "imagenet_samples" / "images.zip", net.preprocess)
    half, other = np.arange(0, len(photos), 2), np.arange(1, len(photos), 2)
    calibration = half[::8][: 16 if QUICK else 32]
    searched = photos.take(np.setdiff1d(half, calibration)[: 16 if QUICK else 48])
    reported = photos.take(other[:: 8 if QUICK else 2])
    task = nemo.fidelity(nemo.quantize(net, photos.take(calibration).images), searched.images)
    report = task.on(reported.images, reported.labels, nemo.TopKError(5))
    return Problem(task, report, nemo.Evaluator(task), nemo.Evaluator(report))


def cifar(data: Path) -> Problem:
    trained = cifar_network(jax.random.key(0), data)
    network = nemo.quantize(trained.network, trained.train.images[:200])
    task = nemo.fidelity(network, trained.search.images[: 64 if QUICK else 256])
    count = 200 if QUICK else 1000
    report = task.on(trained.report.images[:count], trained.report.labels[:count], nemo.TopKError(1))
    return Problem(task, report, nemo.Evaluator(task), nemo.Evaluator(report))


PROBLEMS: dict[str, Callable[[Path], Problem]] = {"efficientnet": efficientnet, "cifar": cifar}
if QUICK:
    PROBLEMS = {"efficientnet": efficientnet}


def volume(costs: np.ndarray, corner: np.ndarray) -> float:
    """Hypervolume as a share of the box."""
    return float(moocore.hypervolume(np.asarray(costs, np.float64) / corner, ref=np.ones(len(corner))))


def figures(problem: Problem, bits: np.ndarray, costs: np.ndarray) -> dict[str, Any]:
    """Hypervolumes of a method's front as searched, and evaluated again on the report's images."""
    task = problem.task
    front = nemo.Front.of(bits, costs, task.objectives, task.space.names)
    again = nemo.reevaluate(front, problem.report, problem.on_report)
    scale = nemo.reference(task)
    return {
        "report": volume(again.costs, CORNER),
        "search": volume(front.costs, np.concatenate([scale[:1], CORNER[1:]])),
        "points": len(again),
        "evaluations": len(bits),
    }


def settings_of(name: str, method: str) -> str:
    """A digest of what a kept row depends on besides the code."""
    own = () if method in BASELINES else (SEARCHES[method][0], sorted(SEARCHES[method][1].items()))
    text = repr((name, BUDGET[name], RESOLUTION, CORNER.tolist(), own))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def one_run(problem: Problem, method: str, seed: int, table: nemo.Sensitivity, budget: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    if method in BASELINES:
        bits = BASELINES[method](jax.random.fold_in(key, 1), problem.task, budget, table)
        return figures(problem, bits, problem.evaluate(bits))
    config, options = SEARCHES[method]
    file = KEPT.with_suffix(f".{problem.task.network.name}.cache")
    shared = {} if QUICK else {"cache": file, "cache_is_free": False}
    options = {"warm_start": table, **shared, **options}
    found = nemo.search(key, problem.task, budget=budget, config=config, **options)
    sizes = {name: found.history["alloc"][:, i].tolist() for i, name in enumerate(found.species)}
    return {**figures(problem, found.bits, found.costs), "sizes": sizes}


def main() -> None:
    place = os.environ.get("FRUGALJAX_DATA")
    if not place:
        raise SystemExit("set FRUGALJAX_DATA to the folder that holds imagenet_samples and cifar10.tar.xz")
    wanted = sys.argv[1:] or list(PROBLEMS)  # tasks may run in processes of their own
    kept = {}
    if KEPT.exists() and not QUICK:
        rows = [json.loads(line) for line in KEPT.read_text().splitlines()]
        kept = {(row["task"], row["method"], row["seed"], row["settings"]): row for row in rows}
    KEPT.parent.mkdir(exist_ok=True)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in wanted:
        problem: Problem | None = None  # built where a run is missing
        runs[name] = {method: [] for method in METHODS[name]}
        for seed in SEEDS:
            table: nemo.Sensitivity | None = None
            for method in METHODS[name]:
                digest = settings_of(name, method)
                row = kept.get((name, method, seed, digest))
                if row is None:
                    problem = problem or PROBLEMS[name](Path(place))
                    table = table or nemo.measure_sensitivity(jax.random.key(1000 + seed), problem.task)
                    before = time.time()
                    row = {"task": name, "method": method, "seed": seed, "settings": digest}
                    row |= one_run(problem, method, seed, table, BUDGET[name])
                    row["seconds"] = round(time.time() - before, 1)
                    if not QUICK:
                        with KEPT.open("a") as file:
                            file.write(json.dumps(row) + "\n")
                    say(f"{name} seed {seed} {method}: {row['report']:.4f}, {row['seconds']} s")
                runs[name][method].append(row)
            if not QUICK:  # compiled programs hold memory maps, of which a process may have some 65,000
                jax.clear_caches()
    result: dict[str, Any] = {}
    for name, rows in runs.items():
        report = {method: np.array([row["report"] for row in own]) for method, own in rows.items()}
        result[name] = {
            "report": {method: interval(values) for method, values in report.items()},
            "search": {m: interval([row["search"] for row in own]) for m, own in rows.items()},
            "nemo_minus": {m: interval(report["nemo"] - v) for m, v in report.items() if m != "nemo"},
            "beaten": [m for m, v in report.items() if report["nemo"].mean() > v.mean()],
        }
    finish(
        "nemo_ablation",
        {
            "settings": {
                "population": POPULATION,
                "budget": BUDGET,
                "seeds": list(SEEDS),
                "resolution": RESOLUTION,
                "corner": CORNER.tolist(),
                "species": WHOLE.species,
                "searched": "kl, model_ratio, bitops_max",
                "reported": "top-5 error (efficientnet), top-1 error (cifar), model_ratio, bitops_max",
            },
            "tasks": result,
            "runs": runs,
            "seconds": round(sum(row["seconds"] for own in runs.values() for x in own.values() for row in x)),
        },
    )


if __name__ == "__main__":
    main()
