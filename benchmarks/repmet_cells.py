"""What repmet_table trains and on what it reports: data sets, kinds of episodes, objectives, candidates."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import fewshotjax as few
from fewshotjax.training.describe import describe

from .common import QUICK

# They may be raised later, the runs that are there stay.
SEEDS = 1 if QUICK else int(os.environ.get("TABLE_SEEDS", 5))
WAYS = 5
PILOT_SEED = 100  # of the short runs that choose a learning rate and the like
CHOICE_SEEDS = 1 if QUICK else 3  # on whose validation a method chooses its objective
CHOICE_EPISODES = 500
EPISODES = 500 if QUICK else 10_000  # in a quick run as many, so that nothing is compiled twice
PAIRED_EPISODES = 500 if QUICK else 1_000  # of the pairings, the first ones of the same
CHOICE_KEY, EPISODE_KEY = 1, 2

NO_LOSS = ", no embedding loss"
OBJECTIVES = (
    "softmax",
    "prototypical",
    "soft_triple",
    "repmet K=1",
    "repmet K=3",
    "repmet K=5",
    f"repmet K=3{NO_LOSS}",
)


class Cell(NamedTuple):
    """A kind of episode."""

    name: str
    shots: int  # of each part
    parts: int = 1
    episodes: int = EPISODES
    paired: bool = True  # also each objective with each head, nothing chosen
    tuned: bool = False  # with RepMet tuned inside the episode, which takes long

    @property
    def shown(self) -> int:
        """Examples of each way."""
        return self.shots * self.parts

    def options(self, queries: int) -> dict[str, int]:
        """Of `evaluate`; merged classes share the queries of a plain one."""
        return {
            "ways": WAYS,
            "shots": self.shots,
            "parts": self.parts,
            "queries": queries // self.parts,
        }


CELLS = (
    Cell("1-shot", 1),
    Cell("5-shot", 5, tuned=True),
    Cell("5-shot, classes of 2 parts", 5, 2),
)


@dataclass(frozen=True)
class Bed:
    """A data set with how its backbones are trained: the same steps and batches for every objective."""

    name: str
    data: str  # tiny_imagenet, omniglot or cifar10
    network: Mapping[str, Any]  # options of the Conv-4
    width: int  # of its features, and of every embedding
    config: few.TrainConfig  # but for the learning rate
    pilot_steps: int
    objectives: tuple[str, ...]
    queries: int = 15
    cells: tuple[Cell, ...] = CELLS
    labelling: str = "plain"
    contaminated: str | None = None  # name of a frozen pretrained backbone in place of training
    seeds: int = SEEDS

    @property
    def pilot(self) -> few.TrainConfig:
        return replace(self.config, epochs=1, warmup_epochs=0.2, steps_per_epoch=self.pilot_steps)


PHOTOGRAPHS: dict[str, Any] = {"pixels": 32, "channels": 3}
STROKES: dict[str, Any] = {"pixels": 28, "channels": 1, "mean": 0.0, "scale": 128.0}
BALANCED = few.TrainConfig(epochs=2, ways=16, per_class=4, steps_per_epoch=437, padding=3)
CHARACTERS = replace(BALANCED, epochs=2, steps_per_epoch=175, padding=2, mirror=False)
CLOSED_OBJECTIVES = ("softmax", "soft_triple", "repmet K=1", "repmet K=3")
TINY = Bed(
    "tiny_imagenet",
    "tiny_imagenet",
    PHOTOGRAPHS,
    256,
    BALANCED,
    100,
    OBJECTIVES,
)
OMNIGLOT = Bed("omniglot", "omniglot", STROKES, 64, CHARACTERS, 75, OBJECTIVES, queries=10)
CIFAR = Bed(
    "cifar10",
    "cifar10",
    PHOTOGRAPHS,
    256,
    # All ten classes in every batch.
    replace(BALANCED, epochs=1, ways=10, per_class=6, steps_per_epoch=300, warmup_epochs=0.1),
    80,
    CLOSED_OBJECTIVES,
    cells=(),
)
PAIRS = replace(
    CIFAR, name="cifar10 pairs", labelling="pairs", config=replace(CIFAR.config, ways=5, per_class=12)
)
FROZEN = replace(
    TINY,
    name="contaminated",
    contaminated="efficientnet_lite0",
    objectives=("efficientnet_lite0",),
    cells=tuple(cell._replace(episodes=2_000, paired=False) for cell in CELLS[:2]),
    seeds=1,
)
SMALL = replace(
    OMNIGLOT,
    name="omniglot, small",
    config=replace(CHARACTERS, epochs=1, steps_per_epoch=40, warmup_epochs=0.2),
    objectives=("softmax", "repmet K=3"),
    cells=(CELLS[2],),
)
BEDS = (SMALL,) if QUICK else (TINY, OMNIGLOT, CIFAR, PAIRS)
CONTAMINATED_BEDS = () if QUICK else (FROZEN,)


class Candidate(NamedTuple):
    """An objective with a learning rate, as a pilot run tries it."""

    objective: few.Objective
    learning_rate: float
    told: str


def candidates(name: str, width: int, rates: tuple[float, float] = (0.03, 0.1)) -> list[Candidate]:
    """Four of every objective: two learning rates by two values of what matters most, or four rates."""
    if name == "prototypical":
        slow = tuple(rate / 10 for rate in rates)
        return [Candidate(few.prototypical_objective(), r, f"rate {r:g}") for r in (*slow, *rates)]
    made: dict[str, few.Objective] = {}
    if name == "softmax":
        made = {f"smoothing {s}": few.softmax_objective(s) for s in (0.0, 0.1)}
    elif name == "soft_triple":
        configs = {f"centres {k}": few.SoftTripleConfig(centres=k, dim=width) for k in (3, 10)}
        made = {told: few.soft_triple_objective(config) for told, config in configs.items()}
    else:
        made = {f"sigma {s}": few.repmet_objective(head(name, width, s)) for s in (0.25, 0.5)}
    return [Candidate(made[told], rate, f"{told}, rate {rate:g}") for told in made for rate in rates]


def head(name: str, width: int, sigma: float) -> few.RepMetConfig:
    """RepMet's of "repmet K=3" or "repmet K=3, no embedding loss"."""
    weight = 0.0 if NO_LOSS in name else 1.0
    return few.RepMetConfig(modes=modes_of(name), embedding=width, sigma=sigma, embedding_weight=weight)


def is_repmet(name: str) -> bool:
    """Of a method's row or an objective."""
    return name.startswith("repmet")


def modes_of(name: str) -> int:
    """K of "repmet K=3, ..."."""
    return int(name.split("K=")[1][0])


def digest(values: Iterable[Any]) -> str:
    """Of functions with the settings that they close over: another one where any of these is."""
    return hashlib.sha256("\n".join(map(describe, values)).encode()).hexdigest()[:16]


def settings() -> dict[str, Any]:
    """Everything of these that a kept run depends on, as JSON values."""
    return {
        "backbone": "conv4, 64 channels",
        "beds": {bed.name: _told(bed) for bed in (*BEDS, *CONTAMINATED_BEDS)},
        "choice": {"seeds": CHOICE_SEEDS, "pilot_seed": PILOT_SEED, "pilot_episodes": CHOICE_EPISODES},
        "paired_episodes": PAIRED_EPISODES,
        "keys": {"choice": CHOICE_KEY, "test": EPISODE_KEY},
    }


def _told(bed: Bed) -> dict[str, Any]:
    made = {} if bed.contaminated else {o: candidates(o, bed.width) for o in bed.objectives}
    return {
        "data": bed.data,
        "labelling": bed.labelling,
        "contaminated": bed.contaminated,
        "network": dict(bed.network),
        "width": bed.width,
        "config": repr(bed.config),
        "pilot": repr(bed.pilot),
        "objectives": {o: [c.told for c in made.get(o, [])] for o in bed.objectives},
        "objectives_digest": digest(c.objective for of_one in made.values() for c in of_one),
        "queries": bed.queries,
        "cells": [cell._asdict() for cell in bed.cells],
    }
