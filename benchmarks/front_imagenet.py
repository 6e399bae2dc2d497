"""NEMO against random and uniform bit-widths on labelled ImageNet photographs, at equal evaluations.

Searched on one half of the photographs (one a class, so the classes differ too), re-evaluated on the other
half, re-filtered there, and compared by hypervolume up to (1, 1, 1). All rivals hold the uniform
configurations and spend the same number of evaluations:
  random      every quantizer by itself, uniform over 2-8 bits
  perturbed   a level and a spread for the configuration, N(level, spread²) bits for each quantizer, as
              `initial_bits` draws NEMO's first generation: what NEMO gains over it is the evolution's own
Needs FRUGALJAX_DATA. Stored under results/ with every seed's figures.
"""

import os
import time
from pathlib import Path

import jax
import numpy as np

import nemojax as nemo

from .common import QUICK, finish, interval, say

RESOLUTION = 128
CALIBRATION, SEARCHED = (16, 24) if QUICK else (32, 64)
REPORTED = 32 if QUICK else None  # None: the whole other half
BUDGET = 40 if QUICK else 300
POPULATION = 20
SEEDS = 2 if QUICK else 5


def main() -> None:
    place = os.environ.get("FRUGALJAX_DATA")
    if not place:
        raise SystemExit("set FRUGALJAX_DATA to the folder that holds imagenet_samples/images.zip")
    start = time.time()
    net = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
    photos = nemo.load_labelled(Path(place) / "imagenet_samples" / "images.zip", net.preprocess)
    half, other = np.arange(0, len(photos), 2), np.arange(1, len(photos), 2)
    calibration = photos.take(half[:: len(half) // CALIBRATION][:CALIBRATION])
    searched = photos.take(np.setdiff1d(half, half[:: len(half) // CALIBRATION][:CALIBRATION])[:SEARCHED])
    reported = photos.take(other[:REPORTED])
    task = nemo.classification(nemo.quantize(net, calibration.images), searched.images, searched.labels)
    report = task.on(reported.images, reported.labels)
    on_search, on_report = nemo.Evaluator(task), nemo.Evaluator(report)

    def held_out(bits: np.ndarray, costs: np.ndarray) -> dict[str, float]:
        """Hypervolumes of a method's front, as searched and on the other half."""
        front = nemo.Front.of(bits, costs, task.objectives, task.space.names)
        again = nemo.Front.of(front.bits, on_report(front.bits), task.objectives, task.space.names)
        return {"search": front.hypervolume(), "report": again.hypervolume(), "points": len(again)}

    uniform = nemo.uniform_bits(task)
    runs: dict[str, list[dict[str, float]]] = {"nemo": [], "random": [], "perturbed": []}
    for seed in range(SEEDS):
        key = jax.random.key(seed)
        found = nemo.search(key, task, budget=BUDGET, config=nemo.NemoConfig(population=POPULATION))
        spent = len(found.bits)
        runs["nemo"].append({**held_out(found.bits, found.costs), "evaluations": spent})
        drawn = np.asarray(task.space.sample(jax.random.fold_in(key, 1), BUDGET - len(uniform)))
        rivals = {
            "random": np.concatenate([uniform, drawn]),
            "perturbed": nemo.initial_bits(jax.random.fold_in(key, 2), task.space, BUDGET),
        }
        for name, bits in rivals.items():
            runs[name].append({**held_out(bits, on_search(bits)), "evaluations": len(bits)})
        say(
            f"seed {seed}, {time.time() - start:.0f} s: "
            + str({k: round(v[-1]["report"], 4) for k, v in runs.items()})
        )

    volumes = {name: np.array([run["report"] for run in rows]) for name, rows in runs.items()}
    finish(
        "front_imagenet",
        {
            "settings": {
                "resolution": RESOLUTION,
                "images": {"calibration": CALIBRATION, "search": len(searched), "report": len(reported)},
                "budget": BUDGET,
                "population": POPULATION,
                "seeds": SEEDS,
                "objectives": list(task.objectives),
                "reference": [1.0, 1.0, 1.0],
                "quantizers": str(task.network.config),
            },
            "full_precision": {
                "search": task.full_precision().tolist(),
                "report": report.full_precision().tolist(),
            },
            "hypervolume": {name: interval(values) for name, values in volumes.items()},
            "hypervolume_uniform": held_out(uniform, on_search(uniform))["report"],
            "hv_gain_vs_random": interval(volumes["nemo"] - volumes["random"]),
            "hv_gain_vs_perturbed": interval(volumes["nemo"] - volumes["perturbed"]),
            "runs": runs,
            "seconds": round(time.time() - start),
        },
    )


if __name__ == "__main__":
    main()
