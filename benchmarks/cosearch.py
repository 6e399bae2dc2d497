"""Bits and placement searched together, against one after the other, at equal evaluations.

Four objectives: KL from full precision, model ratio, bit-operation ratio, latency.
  co-search             bits, with the latency as the density rule places them: the row that is compared
  in turn               bits at a fixed placement, placements at fixed bits, twice
  joint genomes         bits and memories in one genome; no warm start, but the uniform configurations
  bits, then placement  bits as if there were no chip with half of the budget; then that whole front as the
                        density rule places it, and evolutions of placements at its most valuable points
  placement, then bits  a placement at 8 bits with half of the budget, then bits with that wish
  at 4 bits, then bits  likewise, with the placement made at 4 bits: capacities are shares of the bytes at 8
                        bits, where less fits into the fast memories
What is compared is the hypervolume of the pairs that no other one dominates, up to the reference of the task:
co-search with the best of the last three. All bit-width searches but the joint one begin with the same warm
start, which takes no evaluation.

An evaluation is a configuration whose error is worked out, with or without a placement, or one more placement
at given bits whose latency is (see nemojax/cosearch.py). So the first half of "bits, then placement" counts
in full though it sees no chip, and a placement counts as much as a run of the network, which takes far
longer. Hypervolume grows with the number of pairs, too. For each row the table therefore tells the runs of
the network, the seconds, and from how many pairs the front was chosen; it equals neither.

Networks are EfficientNet-Lite0 at 96 pixels and the CIFAR network of small_networks.py; chips have the
bandwidths of two presets. Their capacities are ours, an eighth and a half of what the network's tensors take
at 8 bits, so that memories bind; so are their rates: narrower operands are multiplied faster in proportion.
Runs are kept, so an interrupted table goes on. TABLE_LIMIT_S ends it early; what is missing is said.
TABLE_PART=0/2 runs every second cell, for a process a core; a run without it puts the table together. Needs
FRUGALJAX_DATA. Estimate: 2.4 hours on 2 cores, from the evaluator's speed; not measured as a whole. QUICK=1:
the digits network on one chip, three of the rows, few evaluations and no warm start, which shows that it
works.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import hwmodel as hw
import nemojax as nemo
from nemojax import cosearch

from .common import QUICK, finish, interval, say
from .kept import Kept
from .small_networks import cifar_network, digits_network

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))
BUDGET, SEEDS, POPULATION = (60, 2, 10) if QUICK else (480, 5, 30)
RESOLUTION, CALIBRATION, SEARCHED = 96, 64, 32
SHARES = (0.125, 0.5)  # of all bytes at 8 bits: capacity of the fastest memory, and of the one below
OPS_PER_S = {"imxrt1170": 1e11, "nnp_i_tight": 92e12}  # at 8 x 8 bits; the first is ours
PAIRS = ((8, 8), (4, 8), (4, 4), (2, 4), (2, 2))
ONE_AFTER_THE_OTHER: tuple[str, ...] = ("bits, then placement", "placement, then bits")
if not QUICK:
    ONE_AFTER_THE_OTHER += ("at 4 bits, then bits",)
WARM_START = None if QUICK else "fisher"
SPECIES = ("continuous",) if QUICK else nemo.PRESETS["guided"].species
VERSION = 2  # of the arms: 1 evolved too few placements after the bits, and placed no other point
SHARE, ROWS = 0.5, 20
TURNS: dict[str, Any] = {"rounds": 2, "share": 0.75, "rows": 8}


class Cell(NamedTuple):
    network: str
    chip: str

    @property
    def name(self) -> str:
        return f"{self.network}, {self.chip}"


def cells() -> list[Cell]:
    if QUICK:
        return [Cell("digits", "imxrt1170")]
    return [Cell(network, chip) for network in ("cifar10", "efficientnet_lite0") for chip in OPS_PER_S]


def quantized(name: str) -> tuple[nemo.QuantizedNetwork, np.ndarray]:
    """A network, and the images that it is searched on."""
    if name == "digits":
        trained = digits_network(jax.random.key(0))
    elif name == "cifar10":
        trained = cifar_network(jax.random.key(0), os.environ["FRUGALJAX_DATA"])
    else:
        net = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
        photos = Path(os.environ["FRUGALJAX_DATA"]) / "imagenet_samples" / "images.zip"
        images = nemo.load_labelled(photos, net.preprocess).images
        chosen = np.random.default_rng(0).permutation(len(images))[: CALIBRATION + SEARCHED]
        return nemo.quantize(net, images[chosen[:CALIBRATION]]), images[chosen[CALIBRATION:]]
    return nemo.quantize(trained.network, trained.train.images[:CALIBRATION]), trained.search.images[
        :SEARCHED
    ]


def tight(name: str, workload: hw.Workload) -> hw.Chip:
    """A preset's bandwidths, with capacities that bind for this network and rates for narrow operands."""
    most = OPS_PER_S[name]
    rates = [hw.Rate(w, a, most * 8 / max(w, a)) for w, a in PAIRS]
    chip = hw.load_chip(name, rates, warn=False)
    total = sum(tensor.bytes for tensor in hw.tensors(workload))
    store, slow, fast = chip.levels
    fast_bytes, slow_bytes = (max(64, int(share * total) // 64 * 64) for share in SHARES)
    levels = (store, replace(slow, capacity_bytes=slow_bytes), replace(fast, capacity_bytes=fast_bytes))
    return replace(chip, name=f"{name}, tight", levels=levels)


def arms() -> dict[str, Callable[[jax.Array, nemo.Task], cosearch.CoFound]]:
    """name -> (key, task) -> what came of BUDGET evaluations."""
    options: dict[str, Any] = {
        "config": nemo.NemoConfig(population=POPULATION, species=SPECIES),
        "warm_start": WARM_START,
    }
    joint = nemo.NemoConfig(population=POPULATION, species=cosearch.JOINT.species)

    def together(key: jax.Array, task: nemo.Task) -> cosearch.CoFound:
        return cosearch.CoFound.of(task, [cosearch.searched_bits(key, task, BUDGET, **options)])

    made: dict[str, Callable[[jax.Array, nemo.Task], cosearch.CoFound]] = {
        "co-search": together,
        "bits, then placement": lambda key, task: cosearch.bits_then_placement(
            key, task, BUDGET, share=SHARE, rows=ROWS, **options
        ),
        "placement, then bits": lambda key, task: cosearch.placement_then_bits(
            key, task, BUDGET, share=SHARE, **options
        ),
    }
    if not QUICK:  # each takes long to compile
        made["at 4 bits, then bits"] = lambda key, task: cosearch.placement_then_bits(
            key, task, BUDGET, share=SHARE, width=4, **options
        )
        made["in turn"] = lambda key, task: cosearch.alternate(key, task, BUDGET, **TURNS, **options)
        made["joint genomes"] = lambda key, task: cosearch.searched_jointly(key, task, BUDGET, config=joint)
    return made


def make_task(cell: Cell) -> nemo.Task:
    network, images = quantized(cell.network)
    chip = tight(cell.chip, network.workload)
    costs = {name: nemo.costs_by_name(network)[name] for name in ("model_ratio", "bitops_max")}
    return nemo.fidelity(network, images, costs={**costs, "latency": nemo.latency(network, chip, "density")})


def row(kept: Kept, cell: Cell) -> dict[str, Any] | None:
    """One cell: hypervolumes of all rows, what they took, and what co-search gains on the best rival."""
    volumes, took = {}, {}
    for arm in arms():
        names = [f"{cell.name}, {arm}, seed {seed}" for seed in range(SEEDS)]
        runs = [kept.done[name] for name in names if name in kept.done]
        if len(runs) == SEEDS:
            volumes[arm] = np.array([run["hypervolume"] for run in runs])
            counts = ("evaluations", "network_runs", "pairs", "front", "seconds")
            took[arm] = {name: round(float(np.mean([run[name] for run in runs])), 1) for name in counts}
    if not {"co-search", *ONE_AFTER_THE_OTHER} <= set(volumes):
        return None
    best = max(ONE_AFTER_THE_OTHER, key=lambda arm: volumes[arm].mean())
    return {
        "hypervolume": {arm: interval(values) for arm, values in volumes.items()},
        "mean": took,
        "best_rival": best,
        "gain": {
            arm: interval(values / volumes[best] - 1)
            for arm, values in volumes.items()
            if arm not in ONE_AFTER_THE_OTHER
        },
    }


def main() -> None:
    if not QUICK and not os.environ.get("FRUGALJAX_DATA"):
        raise SystemExit("set FRUGALJAX_DATA to the folder with imagenet_samples/images.zip, cifar10.tar.xz")
    start, missing = time.monotonic(), []
    settings = {
        "version": VERSION,
        "budget": BUDGET,
        "population": POPULATION,
        "species": {"bits": list(SPECIES), "joint": list(cosearch.JOINT.species)},
        "warm_start": WARM_START,
        "one_after_the_other": {"share": SHARE, "rows": ROWS},
        "in_turn": TURNS,
        "least_evolution": cosearch.EVOLUTION,
        "images": {"resolution": RESOLUTION, "calibration": CALIBRATION, "search": SEARCHED},
        "chips": {"capacity_shares": list(SHARES), "ops_per_s": OPS_PER_S, "pairs": [list(p) for p in PAIRS]},
        "interval": "95 %, Student's t over seeds",
    }
    kept = Kept("cosearch", settings)
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    for cell in cells()[part::parts]:
        names = [(arm, seed, f"{cell.name}, {arm}, seed {seed}") for arm in arms() for seed in range(SEEDS)]
        todo = [item for item in names if item[2] not in kept.done]
        if not todo:
            continue
        if time.monotonic() - start > LIMIT_S:
            missing += [name for *_, name in todo]
            continue
        task = make_task(cell)
        corner = nemo.reference(task)
        for arm, seed, name in todo:
            if time.monotonic() - start > LIMIT_S:
                missing.append(name)
                continue
            begun = time.monotonic()
            found = arms()[arm](jax.random.key(seed), task)
            figures = {
                "hypervolume": found.hypervolume(corner),
                "evaluations": found.evaluations,
                "network_runs": found.runs,
                "pairs": found.pairs,
                "front": len(found.costs),
                "lowest": found.costs.min(axis=0).tolist(),
                "seconds": round(time.monotonic() - begun, 1),
            }
            kept.add(name, figures)
            say(f"{name}: {figures}")
        jax.clear_caches()
    if parts > 1:
        return
    rows = {cell.name: told for cell in cells() if (told := row(kept, cell)) is not None}
    lows = [told["gain"]["co-search"]["low"] for told in rows.values()]
    finish(
        "cosearch",
        {
            "settings": {**settings, "seeds": SEEDS},
            "cells": rows,
            "cosearch_gain_low": min(lows) if lows else None,  # of the cell where it is lowest
            "missing": missing,
            "complete": not missing and len(rows) == len(cells()),
            "runs": kept.done,
        },
    )


if __name__ == "__main__":
    main()
