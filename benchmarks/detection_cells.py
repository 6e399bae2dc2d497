"""What detection_table trains and reports: photographs, kinds of scenes, detectors, candidates."""

import csv
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fewshotjax as few
from fewshotjax import detection as de
from fewshotjax.detection.data import BoxedImages, MosaicConfig, tiny_imagenet_boxed

from .common import QUICK

SEEDS = 1 if QUICK else int(os.environ.get("TABLE_SEEDS", 3))  # may be raised later, runs that are there stay
PILOT_SEED = 100  # of the short runs that choose a learning rate and the like
CHOICE_KEY, EPISODE_KEY, SCENE_SEED = 1, 2, 3
WAYS, QUERIES = (3, 2) if QUICK else (5, 10)
SHOTS = (1, 2) if QUICK else (1, 5, 10)
EPISODES, CHOICE_EPISODES, ABLATION_EPISODES = (4, 4, 4) if QUICK else (500, 30, 100)
EPOCH_EPISODES = 4 if QUICK else 40  # of single photographs of novel_val, that choose the epoch
EPOCH_IMAGES = 6 if QUICK else 16  # of each class of novel_val, for these
# Of each class in a quick run, of so many classes; None: all.
SMALL = {"base_train": (8, 24), "base_test": (4, 12), "novel_val": (4, 12), "novel_test": (4, 12)}


class Kind(NamedTuple):
    """How a query photograph is shown."""

    name: str
    mosaic: MosaicConfig
    # Probability that another tile is a query of another class of the episode. None: all are distractors, and
    # the scene is the photograph's own, the same in each episode.
    others: float | None = None


MOSAIC2 = Kind("mosaic2", MosaicConfig(grid=2))
SEVERAL = Kind("mosaic2, several objects", MosaicConfig(grid=2), 0.5)
SINGLE = Kind("single", MosaicConfig(grid=1))
PLAIN = Kind("single, no crop, no jitter", MosaicConfig(grid=1, jitter=False, crop=False))


class Split(NamedTuple):
    """Whose classes episodes are of."""

    name: str
    part: str  # of support and queries
    distractors: str = "base_test"  # of classes that no episode of the split has


UNSEEN, SEEN, VALIDATION = (
    Split("unseen", "novel_test"),
    Split("seen", "base_test", "novel_val"),
    Split("validation", "novel_val"),
)


class Cell(NamedTuple):
    """Episodes of a split, with their queries shown in one way."""

    split: Split
    kind: Kind
    shots: tuple[int, ...] = SHOTS
    episodes: int = EPISODES
    external: bool = False  # with the embedding of crops
    variants: bool = False  # with the ablations, on the first episodes of seed 0
    seeds: int | None = None  # trainings that are tested on it, from 0; None: all

    @property
    def name(self) -> str:
        return f"{self.split.name}, {self.kind.name}"


CELLS = (
    Cell(UNSEEN, MOSAIC2, external=True, variants=True),
    Cell(SEEN, MOSAIC2, external=True),
    Cell(
        UNSEEN, SEVERAL, SHOTS[1:2], ABLATION_EPISODES // 2, seeds=1
    ),  # scenes of each episode's own take long
    Cell(UNSEEN, SINGLE, SHOTS[1:2], ABLATION_EPISODES, seeds=1),
    Cell(UNSEEN, PLAIN, SHOTS[1:2], ABLATION_EPISODES, seeds=1),
)
if QUICK:
    CELLS = (
        Cell(UNSEEN, MOSAIC2, SHOTS[1:], external=True, variants=True),
        Cell(SEEN, MOSAIC2, SHOTS[1:]),
    )
# Detections of an image that are kept, the surest; no scene has more than four objects. Fewer than COCO's
# 100, as metrics of many detections take long.
SCORING = de.Scoring(per_image=25)


@functools.cache
def photographs(part: str) -> BoxedImages:
    """Those of 64 pixels whose box has sides of 8 pixels and more."""
    root = os.environ["FRUGALJAX_DATA"]
    if not QUICK:
        return tiny_imagenet_boxed(root, part)
    classes, many = SMALL[part]
    split = {"novel_val": "val_novel", "novel_test": "test_novel"}.get(part, "base")
    with (Path(root) / "tiny_imagenet" / "classes.csv").open() as table:
        wnids = [row["wnid"] for row in csv.DictReader(table) if row["split"] == split]
    return first_of_each(tiny_imagenet_boxed(root, part, classes=wnids[:classes]), many)


def first_of_each(found: BoxedImages, many: int) -> BoxedImages:
    """The first photographs of each class."""
    labels = found.labels[:, 0]
    rows = [np.flatnonzero(labels == label)[:many] for label in range(len(found.classes))]
    return found.take(np.sort(np.concatenate(rows)))


def novel() -> tuple[str, ...]:
    """Names that training must not see."""
    return tuple(sorted({*photographs("novel_val").classes, *photographs("novel_test").classes}))


WIDTH = 0.125 if QUICK else 0.5
PYRAMID: dict[str, Any] = {"name": "resnet18_pyramid", "width": WIDTH, "norm": "frozen"}
PRETRAINING = few.TrainConfig(
    epochs=3, ways=16, per_class=4, padding=6, optimizer="adam", learning_rate=2e-3, ema=0.99
)
TRAINING = de.DetectorTrainConfig(
    epochs=3, batch=4, steps_per_epoch=900, optimizer="adamw", learning_rate=1e-3, keep="best"
)
# Less than by default, for a quarter less time a step: 16 proposals for each photograph of a scene.
DETECTOR = de.DetectorConfig(channels=48, before_nms=300, proposals=64, hardest=48)
PILOT_STEPS = 250
# Embeddings of crops of the base classes' boxes, which know nothing of detectors: a softmax classifier's, and
# one learned as a metric by RepMet's own loss.
SOFTMAX, DML = "softmax", "DML"
EXTERNALS: dict[str, Callable[[], few.Objective]] = {
    SOFTMAX: few.softmax_objective,
    DML: lambda: few.repmet_objective(METRIC),
}
METRIC = few.RepMetConfig(embedding=None)
CROP = 64 if QUICK else 32  # pixels; 64: one program for pyramid and crops
EXTERNAL = replace(PRETRAINING, epochs=3, padding=3)
if QUICK:
    PRETRAINING = few.TrainConfig(epochs=1, ways=4, per_class=4, steps_per_epoch=4, warmup_epochs=0.2)
    EXTERNAL = PRETRAINING
    TRAINING = replace(
        TRAINING, epochs=1, batch=2, steps_per_epoch=6, draw_steps=6, warmup_epochs=0.2, keep="last"
    )
    DETECTOR = de.DetectorConfig(
        channels=16, before_nms=60, proposals=16, hidden=(32,), hardest=8, rpn_samples=16
    )
SCENES = MosaicConfig(grid=2)  # that detectors are trained on


@dataclass(frozen=True)
class Objective:
    """What a detector is trained for."""

    name: str
    config: de.DetectorConfig
    chosen_as: str | None = None  # whose candidate is taken; None: this has a pilot of its own

    @property
    def epoch_method(self) -> str:
        """By whose AP on novel_val the epoch is chosen."""
        return "class_mean" if self.name == CE else "repmet"


REPMET, CE = "repmet", "ce"
_width = 16 if QUICK else 128


def _head(**options: Any) -> few.RepMetConfig:
    shape = {
        "modes": 5,
        "embedding": _width,
        "posterior": "softmax",
        "background": True,
        "linear_weight": 1.0,
    }
    return few.RepMetConfig(**{**shape, **options})


def _objective(name: str, config: dict[str, Any], head: dict[str, Any], base: str | None = None) -> Objective:
    return Objective(name, replace(DETECTOR, **config, head=_head(**head)), base)


MAIN = (
    _objective(REPMET, {}, {}),
    _objective(CE, {}, {"modes": 1, "embedding_weight": 0.0}),
)
ABLATIONS = (
    _objective("repmet K=1", {}, {"modes": 1}, REPMET),
    _objective("repmet without OHEM", {"hardest": None}, {}, REPMET),
    _objective("repmet without embedding loss", {}, {"embedding_weight": 0.0}, REPMET),
    _objective("repmet, margin 0.25", {}, {"margin": 0.25}, REPMET),
    _objective("repmet, margin 1", {}, {"margin": 1.0}, REPMET),
    _objective("repmet, learned sigma", {}, {"learn_sigma": True}, REPMET),
    _objective("repmet, deformable pooling", {"roi": "deformable"}, {}, REPMET),
)
OBJECTIVES = {one.name: one for one in (*MAIN, *ABLATIONS)}


class Candidate(NamedTuple):
    """A learning rate, as a pilot run tries it, and σ of the posterior, the authors'."""

    learning_rate: float
    sigma: float

    @property
    def told(self) -> str:
        return f"rate {self.learning_rate:g}, sigma {self.sigma:g}"


def candidates() -> list[Candidate]:
    """The same of each objective."""
    return [Candidate(rate, 0.5) for rate in ((1e-3,) if QUICK else (1e-3, 3e-3))]


def built(objective: Objective, candidate: Candidate) -> de.DetectorConfig:
    head = replace(objective.config.head, sigma=candidate.sigma)
    return replace(objective.config, head=head)


def training_settings() -> dict[str, Any]:
    """Everything that a kept training depends on, as JSON values; seeds may be added."""
    return {
        "data": "Tiny-ImageNet photographs of 64 pixels and mosaics of them",
        "small": SMALL if QUICK else None,
        "seeds": [PILOT_SEED, CHOICE_KEY],
        "pyramid": PYRAMID,
        "pretraining": repr(PRETRAINING),
        "training": repr(TRAINING),
        "scenes": repr(SCENES),
        "pilot_steps": PILOT_STEPS,
        "epoch_choice": [WAYS, SHOTS[1], QUERIES, EPOCH_EPISODES, EPOCH_IMAGES],
        "external": [CROP, repr(EXTERNAL), repr(METRIC)],
        "objectives": {name: repr(one) for name, one in OBJECTIVES.items()},
        "candidates": [one.told for one in candidates()],
    }


def settings() -> dict[str, Any]:
    """Likewise of what is evaluated."""
    return {
        "training": training_settings(),
        "keys": [CHOICE_KEY, EPISODE_KEY, SCENE_SEED],
        "episodes": [WAYS, list(SHOTS), QUERIES, EPISODES, CHOICE_EPISODES, ABLATION_EPISODES],
        "cells": {cell.name: repr(cell) for cell in CELLS},
        "validation": repr((VALIDATION, MOSAIC2)),
        "scoring": repr(SCORING),
    }
