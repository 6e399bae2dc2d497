"""What delta_table trains on and trains: features of repmet_table's backbones, and Delta-encoders."""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

import fewshotjax as few
from fewshotjax import delta as de

from . import repmet_table, repmet_train
from .common import QUICK
from .repmet_cells import CHOICE_KEY, OMNIGLOT, SMALL, TINY, Bed
from .repmet_runs import Runs, images, labelled

SEEDS = 1 if QUICK else 5  # backbones that repmet_table has not trained are trained here, and kept there
BEDS = (SMALL,) if QUICK else tuple(replace(bed, seeds=SEEDS) for bed in (TINY, OMNIGLOT))
HIDDEN = 32 if QUICK else 1_024
TRUNKS = ("softmax",) if QUICK else ("softmax", "prototypical")  # validation chooses one for each bed
PROTONET = "prototypical"


class Grid(NamedTuple):
    """What validation chooses a Delta-encoder from, on a bed."""

    scalings: tuple[str, ...]
    rates: tuple[float, ...]
    codes: tuple[int, ...]
    epochs: tuple[int, ...]  # that are tried, the last is the length of the training


# A first grid, of three scalings, rates 1e-4 and 1e-3 and 12 epochs, had its best points at its edges on
# validation classes: rate 1e-4 on Tiny-ImageNet (standardised far behind), 1e-3 and 12 epochs on Omniglot.
GRIDS = {
    SMALL.name: Grid(("none",), (1e-3,), (16,), (2,)),
    TINY.name: Grid(("none", "l2"), (3e-5, 1e-4, 3e-4), (4, 16), (4, 12)),
    OMNIGLOT.name: Grid(("none", "l2", "standard"), (1e-3, 3e-3), (4, 16), (6, 24)),
}


@dataclass(frozen=True)
class Plan:
    """A Delta-encoder that is trained."""

    told: str
    config: de.DeltaConfig
    train: de.DeltaTrainConfig
    classes: int | None = None  # the first so many of the base classes


def plan(told: str, rate: float, epochs: int, classes: int | None = None, **config: Any) -> Plan:
    made = de.DeltaConfig(**{"hidden": HIDDEN, **config})
    return Plan(told, made, de.DeltaTrainConfig(learning_rate=rate, epochs=epochs), classes)


def candidates(bed: Bed) -> list[Plan]:
    """Trainings that validation chooses from."""
    grid = GRIDS[bed.name]
    return [
        plan(f"{scaling}, rate {rate:g}, code {code}", rate, grid.epochs[-1], scaling=scaling, code=code)
        for scaling in grid.scalings
        for rate in grid.rates
        for code in grid.codes
    ]


class Sources:
    """Features of a bed and seed, from repmet_table's kept runs, or trained as these and kept among them."""

    def __init__(self, runs: Runs, late: Callable[[], bool]):
        self._runs = runs
        self._repmet = Runs("repmet_table", repmet_table.settings(), late)

    def reload(self) -> None:
        """Also what other processes have trained since."""
        self._repmet.reload()

    def trunk(self, bed: Bed) -> str | None:
        """Whose features have the best class means on validation classes, seed 0, 1- and 5-shot; kept.

        None: it is too late.
        """

        def work() -> dict[str, Any]:
            scores = {}
            for trunk in TRUNKS:
                x, labels, _ = repmet_train.load_features(self._repmet, bed, trunk, 0, "val")
                key, options = jax.random.key(CHOICE_KEY), {"queries": bed.queries, "episodes": 600}
                found = (
                    few.evaluate(key, few.prototypes(), x, labels, shots=shots, **options) for shots in (1, 5)
                )
                scores[trunk] = float(np.mean([one.accuracy.mean for one in found]))
            return {"trunk": max(scores, key=scores.__getitem__), "scores": scores}

        for trunk in TRUNKS:
            known = repmet_train.train(self._repmet, bed, trunk, 0)
            if known is None or "diverged" in known:
                return None
        found = self._runs.run(f"{bed.name}, trunk", work)
        return None if found is None else found["trunk"]

    def features(self, bed: Bed, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
        """base (all training images), val, test, and closed where there is one: features and labels.

        None: it is too late to train the backbone, or it diverged.
        """
        name = self.trunk(bed)
        if name is None:
            return None
        path = self._runs.file("features", bed.name, name, f"{seed}.npz")
        parts = ("base", "val", "test", *(("closed",) if bed.data == "tiny_imagenet" else ()))
        if not path.exists():
            known = repmet_train.train(self._repmet, bed, name, seed)
            if known is None or "diverged" in known:
                return None
            # Neither objective has layers below its head: features are its embeddings.
            trunk = few.load_backbone(self._repmet.file(bed.name, name, f"{seed}.safetensors"))
            arrays = {"base": few.features(trunk, labelled(bed, "train"))}
            for part in ("val", "test"):
                arrays[part] = repmet_train.load_features(self._repmet, bed, name, seed, part)[0]
            if "closed" in parts:
                arrays["closed"] = few.features(trunk, labelled(bed, "closed"))
            beside = path.with_suffix(f".{uuid.uuid4().hex[:12]}.new.npz")
            np.savez(beside, **arrays)
            os.replace(beside, path)
        names = {"base": "train"}
        with np.load(path) as stored:
            return {part: (stored[part], images(bed.data, names.get(part, part)).labels) for part in parts}

    def protonet(self, bed: Bed, seed: int, part: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Embeddings of a trained prototypical network, where repmet_table has one and it is another."""
        if self.trunk(bed) == PROTONET:
            return None
        path = self._repmet.file(bed.name, PROTONET, f"{seed}.features.npz")
        if not path.exists():
            return None
        return repmet_train.load_features(self._repmet, bed, PROTONET, seed, part)[:2]


def trained(runs: Runs, bed: Bed, seed: int, found: Plan, base: tuple[np.ndarray, np.ndarray]) -> list[Any]:
    """The Delta-encoder as it was after each epoch; kept in files."""
    paths = [
        runs.file("delta", bed.name, found.told, seed, f"{n + 1}.safetensors")
        for n in range(found.train.epochs)
    ]
    if not paths[-1].exists():
        x, y = base
        if found.classes is not None:
            x, y = x[y < found.classes], y[y < found.classes]
        written = iter(paths)

        def keep(delta: de.DeltaEncoder) -> float:
            de.save_delta(next(written), delta)
            return 0.0

        de.train_delta(jax.random.key(seed), x, y, found.config, found.train, validation=keep)
    return [de.load_delta(path) for path in paths]


def settings() -> dict[str, Any]:
    return {"hidden": HIDDEN, "trunks": TRUNKS, "grids": {bed.name: repr(GRIDS[bed.name]) for bed in BEDS}}
