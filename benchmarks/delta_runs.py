"""What delta_table trains on and trains: features of repmet_table's softmax backbones, and Delta-encoders."""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

import fewshotjax as few
from fewshotjax import delta as de

from . import repmet_table, repmet_train
from .common import QUICK
from .repmet_cells import OMNIGLOT, SMALL, TINY, Bed
from .repmet_runs import Runs, images, labelled

SEEDS = 1 if QUICK else 5  # backbones that repmet_table has not trained are trained here, and kept there
BEDS = (SMALL,) if QUICK else tuple(replace(bed, seeds=SEEDS) for bed in (TINY, OMNIGLOT))
HIDDEN, EPOCHS = (32, 2) if QUICK else (1_024, 12)
TRUNK, PROTONET = "softmax", "prototypical"


@dataclass(frozen=True)
class Plan:
    """A Delta-encoder that is trained."""

    told: str
    config: de.DeltaConfig
    train: de.DeltaTrainConfig
    classes: int | None = None  # the first so many of the base classes


def plan(
    told: str, rate: float = 1e-4, epochs: int = EPOCHS, classes: int | None = None, **config: Any
) -> Plan:
    made = de.DeltaConfig(**{"hidden": HIDDEN, **config})
    return Plan(told, made, de.DeltaTrainConfig(learning_rate=rate, epochs=epochs), classes)


def candidates() -> list[Plan]:
    """What validation chooses from, with the number of epochs."""
    rates, scalings = ((1e-3,), ("none",)) if QUICK else ((1e-4, 1e-3), ("none", "l2", "standard"))
    return [plan(f"{s}, rate {r:g}", r, scaling=s) for s in scalings for r in rates]


class Sources:
    """Features of a bed and seed, from repmet_table's kept runs, or trained as these and kept among them."""

    def __init__(self, runs: Runs, late: Callable[[], bool]):
        self._runs = runs
        self._repmet = Runs("repmet_table", repmet_table.settings(), late)

    def reload(self) -> None:
        """Also what other processes have trained since."""
        self._repmet.reload()

    def features(self, bed: Bed, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
        """base (all training images), val, test, and closed where there is one: features and labels.

        None: it is too late to train the backbone, or it diverged.
        """
        path = self._runs.file("features", bed.name, f"{seed}.npz")
        parts = ("base", "val", "test", *(("closed",) if bed.data == "tiny_imagenet" else ()))
        if not path.exists():
            known = repmet_train.train(self._repmet, bed, TRUNK, seed)
            if known is None or "diverged" in known:
                return None
            # The softmax objective has no layers below its head: features are its embeddings.
            trunk = few.load_backbone(self._repmet.file(bed.name, TRUNK, f"{seed}.safetensors"))
            arrays = {"base": few.features(trunk, labelled(bed, "train"))}
            for part in ("val", "test"):
                arrays[part] = repmet_train.load_features(self._repmet, bed, TRUNK, seed, part)[0]
            if "closed" in parts:
                arrays["closed"] = few.features(trunk, labelled(bed, "closed"))
            beside = path.with_suffix(f".{uuid.uuid4().hex[:12]}.new.npz")
            np.savez(beside, **arrays)
            os.replace(beside, path)
        names = {"base": "train"}
        with np.load(path) as stored:
            return {part: (stored[part], images(bed.data, names.get(part, part)).labels) for part in parts}

    def protonet(self, bed: Bed, seed: int, part: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Embeddings of a trained prototypical network, where repmet_table has one."""
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
    return {
        "hidden": HIDDEN,
        "epochs": EPOCHS,
        "trunk": TRUNK,
        "candidates": [repr(one) for one in candidates()],
    }
