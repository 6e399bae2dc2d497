"""Fronts of real networks: error at given sizes and bit-operations, after the search, after PTQ, after QAT.

Every network is searched once a seed, for KL from full precision on images without labels, the model ratio
and both definitions of the bit-operation ratio together. For each cost and each limit on it the point with
the least KL within the limit is taken, and its bit-widths are run
  searched  as the search ran them: weights rounded to nearest, calibrated ranges
  ptq       after `ptq.improve`: biases corrected, blocks reconstructed, step sizes of activations learned
  qat       after `qat`: trained at those bits, distilled from full precision, ranges learned
and all three report top-1 error on images that none of them saw. The PTQ and the QAT front are what of all
points the others do not dominate, each among its own.

CIFAR-10 networks are those that `nemojax train` left in benchmarks/kept/NAME (recipe in docs/deploy.md); one
that is not there is left out and said so. EfficientNet-Lite0 takes ImageNet photographs, the even ones for
calibration, search and training, the odd ones for the report: few to train on, so its QAT is a trial.
Runs are kept by network and checksum of its weights, and stored with the table, so that an interrupted one
goes on and another network can come later. TABLE_PART=1/2 and 2/2 share
the searches, a process each: run both, then once without, which does what is left and puts the table
together. About an hour of one core a seed. Needs FRUGALJAX_DATA; with QUICK=1 a network for scikit-learn's
digits takes the place of all.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nemojax as nemo
from nemojax.ptq import PTQConfig, improve

from .common import QUICK, finish, interval, say
from .kept import FOLDER, Kept
from .small_networks import digits_network

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))  # what is not begun by then is left out, and said so
LIMITS = (0.25, 0.125, 0.09, 0.075)
COSTS = ("model_ratio", "bitops_max", "bitops_product")
SEEDS = 1 if QUICK else int(os.environ.get("TABLE_SEEDS", "5"))
BUDGET = 400
CALIBRATION, SEARCHED = 128, 128
REPORTED = 2_000  # of CIFAR-10's test images
PTQ = PTQConfig(
    reconstruct="block",
    correct_bias=True,
    learn_activations=True,
    steps=60,
    step_elements=100_000,
)


PHOTOGRAPHS = {"resolution": 128, "qat": nemo.QATConfig(steps=60, batch=16, learning_rate=1e-4)}
CIFAR_QAT = nemo.QATConfig(steps=120, batch=64)


class Case(NamedTuple):
    """A network with images for each purpose, normalised."""

    network: nemo.Network
    calibration: np.ndarray
    searched: np.ndarray
    training: np.ndarray
    reported: np.ndarray
    labels: np.ndarray
    qat: nemo.QATConfig
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None


def mirrored(key: jax.Array, images: jax.Array) -> jax.Array:
    """Half of the images, left to right."""
    flip = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images)


def digits() -> Case:
    trained = digits_network(jax.random.key(0))
    known, searched, report = trained.train.images, trained.search.images[:SEARCHED], trained.report
    cut, qat = CALIBRATION, nemo.QATConfig(steps=300, batch=64)
    return Case(trained.network, known[:cut], searched, known[cut:], report.images, report.labels, qat, None)


def photographs(data: Path) -> Case:
    net = nemo.efficientnet_lite0("imagenet", resolution=PHOTOGRAPHS["resolution"])
    photos = nemo.load_labelled(data / "imagenet_samples" / "images.zip", net.preprocess)
    even, reported = photos.take(np.arange(0, len(photos), 2)), photos.take(np.arange(1, len(photos), 2))
    few = len(even) * 2 // 5  # calibrate on two fifths, search on the rest, train on both
    known, images = even.images, reported.images
    config = PHOTOGRAPHS["qat"]
    return Case(net, known[:few], known[few:], known, images, reported.labels, config, mirrored)


def cifar_member(folder: Path, parts: Any) -> Case:
    record = json.loads((folder / "metrics.json").read_text())
    weights = folder / "weights.safetensors"
    net = nemo.networks.by_name(record["network"], weights, **record["options"])
    (train, test), normalize = parts, net.preprocess.normalize
    rng = np.random.default_rng(0)  # the pictures come class by class
    rows = rng.permutation(len(train.labels))[:20_000]
    some = np.sort(rng.permutation(len(test.labels))[:REPORTED])
    known = normalize(train.images[rows])
    cut = CALIBRATION + SEARCHED
    return Case(
        net,
        known[:CALIBRATION],
        known[CALIBRATION:cut],
        known[cut:],
        normalize(test.images[some]),
        test.labels[some],
        CIFAR_QAT,
        mirrored,
    )


def members() -> list[Path]:
    """Folders of the networks for 32x32 images that are trained."""
    folders = [FOLDER / name for name in nemo.networks.NETWORKS if name.endswith("_cifar")]
    return [folder for folder in folders if (folder / "metrics.json").exists()]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()[:12]


def cases(data: Path) -> Iterator[tuple[str, str, Callable[[], Case]]]:
    """Name, checksum of weights that a training left, and what makes the case."""
    parts: list[Any] = []  # read once, when the first network wants it

    def member(folder: Path) -> Callable[[], Case]:
        def make() -> Case:
            if not parts:
                parts.append(nemo.data.cifar10(data / "cifar10.tar.xz"))
            return cifar_member(folder, parts[0])

        return make

    if QUICK:
        yield "digits", "", digits
        return
    for folder in members():
        yield folder.name, digest(folder), member(folder)
    yield "efficientnet_lite0", "", lambda: photographs(data)


def choose(front: nemo.Front) -> dict[str, int]:
    """The row with the least error by "cost <= limit"; limits that no row keeps are left out."""
    found = {}
    for cost in COSTS:
        column = front.costs[:, front.objectives.index(cost)]
        for limit in LIMITS:
            within = np.flatnonzero(column <= limit + 1e-6)
            if len(within):
                found[f"{cost} <= {limit}"] = int(within[front.costs[within, 0].argmin()])
    return found


class Bench:
    """One network: its searches, and the errors of chosen points."""

    def __init__(self, name: str, make: Callable[[], Case], kept: Kept, late: Callable[[], bool]):
        self.name, self.kept, self.late = name, kept, late
        self.make, self.case, self.missing = make, None, 0

    def prepare(self) -> Case:
        """The case and what is made of it, once something is to run."""
        if self.case is None:
            self.case = self.make()
            self.quantized = nemo.quantize(self.case.network, self.case.calibration)
            self.task = nemo.fidelity(self.quantized, self.case.searched, costs=COSTS)
            self.report = self.task.on(self.case.reported, self.case.labels, nemo.TopKError(1))
        return self.case

    def run(self, what: str, work: Callable[[Case], dict[str, Any]]) -> dict[str, Any] | None:
        """The kept figures of a run, or those of `work`; None when it is too late to begin."""
        name = f"{self.name}, {what}"
        if name not in self.kept.done:
            if self.late():
                self.missing += 1
                return None
            case, start = self.prepare(), time.monotonic()
            figures = work(case)
            seconds = round(time.monotonic() - start, 1)
            self.kept.add(name, {**figures, "seconds": seconds})
            say(f"{name}: {seconds} s" + (f", error {figures['error']:.4f}" if "error" in figures else ""))
        return self.kept.done[name]

    def error(self, network: nemo.QuantizedNetwork, bits: np.ndarray) -> float:
        task = self.report.replace(network=jax.tree.map(jnp.asarray, network))  # type: ignore[attr-defined]
        return float(nemo.Evaluator(task)(bits[None])[0, 0])

    def search(self, seed: int) -> dict[str, Any] | None:
        def work(_: Case) -> dict[str, Any]:
            front = nemo.search(jax.random.key(seed), self.task, budget=BUDGET).front
            rows = sorted(set(choose(front).values()))
            return {"bits": front.bits[rows].tolist(), "costs": front.costs[rows].tolist()}

        return self.run(f"seed {seed}, search", work)

    def point(self, seed: int, row: int, bits: np.ndarray) -> dict[str, float | None]:
        """Top-1 errors of one configuration, however it is run; None for what was not run."""
        key = jax.random.fold_in(jax.random.key(seed), row)

        def searched(_: Case) -> dict[str, Any]:
            return {"error": self.error(self.quantized, bits)}

        def ptq(case: Case) -> dict[str, Any]:
            better = improve(key, self.quantized, bits, case.calibration, PTQ)
            return {"error": self.error(better, bits)}

        def qat(case: Case) -> dict[str, Any]:
            options = {"config": case.qat, "augment": case.augment}
            return {"error": self.error(nemo.qat(key, self.quantized, bits, case.training, **options), bits)}

        figures = {}
        for way in (searched, ptq, qat):
            run = self.run(f"seed {seed}, point {row}, {way.__name__}", way)
            figures[way.__name__] = None if run is None else run["error"]
        return figures


def fronts(points: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Of each way of running: its points that none of its others dominates, by size."""
    found = {}
    for way in ("searched", "ptq", "qat"):
        ran = [p for p in points if p[way] is not None]
        costs = np.array([[p[way], *(p[cost] for cost in COSTS)] for p in ran]).reshape(len(ran), -1)
        stay = np.asarray(nemo.non_dominated(jnp.asarray(costs))) if ran else []
        kept = [
            {"error": p[way], **{cost: p[cost] for cost in COSTS}}
            for p, s in zip(ran, stay, strict=True)
            if s
        ]
        found[way] = sorted(kept, key=lambda p: p["model_ratio"])
    return found


def table(bench: Bench, seeds: Iterable[int]) -> dict[str, Any]:
    """Full precision, and what the searches of `seeds` found."""
    full = bench.run("full precision", lambda _: {"error": float(bench.report.full_precision()[0])})
    cells: dict[str, list[dict[str, Any]]] = {}
    all_points = []
    for seed in seeds:
        found = bench.search(seed)
        if found is None:
            continue
        names = tuple(map(str, range(len(found["bits"][0]))))
        front = nemo.Front(np.array(found["bits"]), np.array(found["costs"]), ("kl", *COSTS), names)
        chosen, points = choose(front), {}
        for row in dict.fromkeys(chosen.values()):
            costs = dict(zip(COSTS, front.costs[row, 1:].tolist(), strict=True))
            points[row] = {"seed": seed, "row": row, **costs, **bench.point(seed, row, front.bits[row])}
        all_points += points.values()
        for cell, row in chosen.items():
            cells.setdefault(cell, []).append(points[row])
    return {
        "full_precision_error": None if full is None else full["error"],
        "cells": {cell: summary(rows) for cell, rows in cells.items()},
        "fronts_of_all_points": fronts(all_points),
        "points": all_points,
        "missing_runs": bench.missing,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds with a 95 % interval where there are two and more."""
    out: dict[str, Any] = {"seeds": len(rows)}
    for what in (*COSTS, "searched", "ptq", "qat"):
        values = [row[what] for row in rows if row[what] is not None]
        out[what] = interval(values) if len(values) > 1 else (values[0] if values else None)
    return out


def main() -> None:
    place = os.environ.get("FRUGALJAX_DATA")
    if not place and not QUICK:
        raise SystemExit("set FRUGALJAX_DATA to the folder with imagenet_samples/images.zip, cifar10.tar.xz")
    start = time.monotonic()
    settings = {
        "budget": BUDGET,
        "cifar_images": {"calibration": CALIBRATION, "search": SEARCHED, "report": REPORTED},
        "ptq": str(PTQ),
        "qat": {"cifar": str(CIFAR_QAT), "photographs": str(PHOTOGRAPHS)},
        "costs": list(COSTS),
        "limits": list(LIMITS),
        "interval": "95 %, Student's t over seeds",
    }
    kept = Kept("nemo_table", settings)
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    rows = {}
    for i, (name, weights, make) in enumerate(cases(Path(place or "."))):
        mine = [seed for seed in range(SEEDS) if (seed + i) % parts == part % parts]
        bench = Bench(f"{name} {weights}".strip(), make, kept, lambda: time.monotonic() - start > LIMIT_S)
        rows[name] = {"weights": weights, **table(bench, mine)}
        jax.clear_caches()
    if parts > 1:
        say(f"part {part}/{parts}: {sum(row['missing_runs'] for row in rows.values())} runs are missing")
        return
    untrained = [
        name for name in nemo.networks.NETWORKS if name.endswith("_cifar") and name not in rows and not QUICK
    ]
    finish(
        "nemo_table",
        {
            "settings": {**settings, "seeds": SEEDS},
            "networks": rows,
            "untrained": untrained,
            "complete": not untrained and not any(row["missing_runs"] for row in rows.values()),
            "runs": kept.done,
            "seconds": round(sum(run["seconds"] for run in kept.done.values())),
        },
    )


if __name__ == "__main__":
    main()
