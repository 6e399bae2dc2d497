"""Kept runs of repmet_table, the images that they need, and means over seeds."""

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fewshotjax as few

from .common import QUICK, interval, say
from .kept import FOLDER, Kept
from .repmet_cells import Bed

HELD_OUT = {"tiny_imagenet": 20, "cifar10": 500}  # last training images of each class: closed-set choices


def settings() -> dict[str, Any]:
    return {"held_out": HELD_OUT}


class Runs:
    """Named runs: kept figures, or those of `work`; None where it is too late to begin."""

    def __init__(self, table: str, settings: Mapping[str, Any], late: Callable[[], bool]):
        self._table, self._settings = table, settings
        self.kept, self.late = Kept(table, settings), late
        self.missing: list[str] = []
        self._temporary = tempfile.TemporaryDirectory() if QUICK else None
        # Of these settings alone: what others trained would be taken for this table's.
        mark = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = Path(self._temporary.name) if self._temporary else FOLDER / f"{table}-{mark}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def reload(self) -> None:
        """Also what other processes have kept since; a quick run keeps nothing but here."""
        if not QUICK:
            self.kept = Kept(self._table, self._settings)

    def known(self, name: str) -> dict[str, Any] | None:
        return self.kept.done.get(name)

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        if name not in self.kept.done:
            if self.late():
                self.missing.append(name)
                return None
            start = time.monotonic()
            figures = work()
            seconds = round(time.monotonic() - start, 1)
            self.kept.add(name, {**figures, "seconds": seconds})
            shown = ", ".join(f"{k} {v:.4f}" for k, v in figures.items() if isinstance(v, float))
            say(f"{name}: {shown + ', ' if shown else ''}{seconds} s")
        return self.kept.done[name]

    def file(self, *name: Any) -> Path:
        """Where something of this name lies; spaces and the like are not in it."""
        text = "-".join(map(str, name))
        return self.folder / "".join(c if c.isalnum() or c in "-._" else "_" for c in text)


@functools.cache
def images(data: str, part: str) -> few.LabelledImages:
    """Images of 32 pixels, Omniglot's of 28; "train" leaves out what "held" has, "closed" is the same
    classes' test set."""
    root = os.environ["FRUGALJAX_DATA"]
    if data == "omniglot":
        names = {"train": "base", "val": "val", "test": "test"}
        turned = part == "train" and not QUICK
        return few.omniglot(root, names[part], 28, rotations=turned)
    tiny = data == "tiny_imagenet"
    if part in ("train", "held"):
        whole = _read(data, "base_train" if tiny else "train")
        held = np.zeros(len(whole), bool)
        for label in range(len(whole.classes)):
            held[np.flatnonzero(whole.labels == label)[-HELD_OUT[data] :]] = True
        return whole.take(held if part == "held" else ~held)
    names = {"val": "novel_val", "test": "novel_test", "closed": "base_test"} if tiny else {"closed": "test"}
    return _read(data, names[part])


@functools.cache
def _read(data: str, part: str) -> few.LabelledImages:
    root = os.environ["FRUGALJAX_DATA"]
    return few.tiny_imagenet(root, part, pixels=32) if data == "tiny_imagenet" else few.cifar10(root, part)


def labelled(bed: Bed, part: str) -> few.LabelledImages:
    """The images of a bed's data, with its labels."""
    return relabelled(images(bed.data, part), bed.labelling, 0)


def groups(labels: np.ndarray, classes: int, labelling: str, seed: int) -> np.ndarray:
    """New labels; -1 where the class is left out.

    plain         as they are
    pairs         class i of n with class i + n/2
    random pairs  classes in random pairs, others for each seed; one that is left over belongs to none
    """
    if labelling == "plain":
        return labels
    if labelling == "pairs":
        return (labels % (classes // 2)).astype(np.int32)
    place = np.random.default_rng(seed).permutation(classes) // 2
    place[place == classes // 2] = -1
    return place[labels].astype(np.int32)


def relabelled(found: few.LabelledImages, labelling: str, seed: int) -> few.LabelledImages:
    if labelling == "plain":
        return found
    labels = groups(found.labels, len(found.classes), labelling, seed)
    names = tuple(f"group {i}" for i in range(int(labels.max()) + 1))
    return few.LabelledImages(found.images[labels >= 0], labels[labels >= 0], names)


def embedded(objective: few.Objective, head: Any, features: np.ndarray) -> np.ndarray:
    """Embeddings of features."""
    return _in_batches(objective.embed, head, features)


def likeliest(objective: few.Objective, head: Any, features: np.ndarray) -> np.ndarray:
    """The trained class that each feature is most likely of."""
    assert objective.predict is not None, "the prototypical objective knows no classes"
    return np.argmax(_in_batches(objective.predict, head, features), axis=1)


def _in_batches(function: Callable[..., Any], head: Any, x: np.ndarray, batch: int = 1_000) -> np.ndarray:
    """The last batch is padded, so that all are of one shape."""
    whole = np.concatenate([x, np.zeros((-len(x) % batch, x.shape[1]), np.float32)])
    parts = [_applied(function, head, jnp.asarray(whole[i : i + batch])) for i in range(0, len(whole), batch)]
    return np.concatenate([np.asarray(part) for part in parts])[: len(x)]


@functools.partial(jax.jit, static_argnums=0)
def _applied(function: Callable[..., Any], head: Any, x: jax.Array) -> jax.Array:
    return function(head, x)


def spread(values: Sequence[float | None]) -> Any:
    """Mean and 95 % interval over the seeds that did not diverge; of one seed its value."""
    known = [value for value in values if value is not None]
    return interval(known) if len(known) > 1 else {"mean": known[0]} if known else None


def over_seeds(pairs: list[list[float]]) -> dict[str, Any]:
    """Of (mean, half of the interval over episodes) of each seed."""
    return {
        **spread([mean for mean, _ in pairs]),
        "episodes_half": float(np.mean([half for _, half in pairs])),
    }


def excludes(gap: Mapping[str, float], value: float) -> bool:
    """Whether both intervals of a difference, over seeds and over episodes, leave the value out."""
    away = abs(gap["mean"] - value)
    over = gap["mean"] - gap["low"] if "low" in gap else 0.0  # of one seed: that of the episodes alone
    return away > max(over, gap["episodes_half"])
