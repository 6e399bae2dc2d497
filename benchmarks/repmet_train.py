"""Backbones of repmet_table: pilots that choose a learning rate and the like, then a run a seed."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

import fewshotjax as few

from .common import QUICK
from .repmet_cells import CHOICE_EPISODES, CHOICE_KEY, PILOT_SEED, Bed, Candidate, candidates
from .repmet_runs import Runs, embedded, images, labelled, likeliest

BASE_IMAGES = 5_000  # of the base classes at most, whose mean feature centres
# Of each class, where a large frozen network makes the features.
FROZEN_IMAGES = {"val": 30, "test": 30, "base": 5}


def settings() -> dict[str, Any]:
    return {"base_images": BASE_IMAGES, "frozen_images": FROZEN_IMAGES}


def backbone(bed: Bed, seed: int) -> few.Backbone:
    """The same start for every objective."""
    return few.backbone("conv4", key=jax.random.fold_in(jax.random.key(seed), 1), **bed.network)


def fit(bed: Bed, candidate: Candidate, seed: int, config: few.TrainConfig, **options: Any) -> few.Trained:
    rate = replace(config, learning_rate=candidate.learning_rate)
    key = jax.random.key(seed)  # so that batches and augmentation are the same for every objective
    return few.train(key, backbone(bed, seed), labelled(bed, "train"), candidate.objective, rate, **options)


def ranked(runs: Runs, bed: Bed, name: str) -> list[int] | None:
    """Candidates, the best first, by short runs; those that diverged come last.

    Score: accuracy of class means over validation episodes, 1-shot and 5-shot, of raw or of unit embeddings,
    whichever is better; in a bed without episodes, that of the classes of the held-out images.
    """
    made = candidates(name, bed.width)
    if QUICK:
        return [0]
    scores = []
    for candidate in made:

        def work(candidate: Candidate = candidate) -> dict[str, Any]:
            try:
                found = fit(bed, candidate, PILOT_SEED, bed.pilot)
            except ValueError as error:
                return {"score": None, "error": _diverged(error)}
            return {"score": _score(bed, candidate.objective, found)}

        run = runs.run(f"{bed.name}, pilot, {name}, {candidate.told}", work)
        if run is None:
            return None
        scores.append(-np.inf if run["score"] is None else run["score"])
    return np.argsort(-np.array(scores), kind="stable").tolist()


def _score(bed: Bed, objective: few.Objective, found: few.Trained) -> float:
    part = labelled(bed, "val" if bed.cells else "held")
    features = few.features(found.backbone, part)
    if not bed.cells:
        return float((likeliest(objective, found.head, features) == part.labels).mean())
    e = embedded(objective, found.head, features)
    unit = e / np.maximum(np.linalg.norm(e, axis=1, keepdims=True), 1e-6)
    key, options = jax.random.key(CHOICE_KEY), {"queries": bed.queries, "episodes": CHOICE_EPISODES}
    return max(
        float(
            np.mean(
                [
                    few.evaluate(
                        key, few.prototypes(), x, part.labels, ways=5, shots=shots, **options
                    ).accuracy.mean
                    for shots in (1, 5)
                ]
            )
        )
        for x in (e, unit)
    )


def _diverged(error: ValueError) -> str:
    """The message, if training diverged; other errors are raised."""
    if "diverged" not in str(error):
        raise error
    return str(error)


def train(runs: Runs, bed: Bed, name: str, seed: int) -> dict[str, Any] | None:
    """Trains with the best candidate that does not diverge, and leaves backbone, head and embeddings."""
    if bed.contaminated:
        return runs.run(f"{bed.name}, features, {name}", lambda: _frozen(runs, bed, name))
    done = runs.known(_run_name(bed, name, seed))
    if done is not None:
        return done
    order = ranked(runs, bed, name)
    if order is None:
        runs.missing.append(_run_name(bed, name, seed))
        return None

    def work() -> dict[str, Any]:
        for index in order:
            candidate = candidates(name, bed.width)[index]
            state = runs.file(bed.name, name, seed, f"{index}.state")
            try:
                found = fit(bed, candidate, seed, bed.config, checkpoint=state)
            except ValueError as error:
                _diverged(error)
                state.unlink(missing_ok=True)
                continue
            figures = _finished(runs, bed, name, seed, candidate.objective, found)
            state.unlink(missing_ok=True)
            last = found.history[-1]
            return {"candidate": candidate.told, "loss": last.loss, "training_error": last.error, **figures}
        return {"diverged": True}  # with every candidate: the table goes on without

    return runs.run(_run_name(bed, name, seed), work)


def _finished(
    runs: Runs, bed: Bed, name: str, seed: int, objective: few.Objective, found: few.Trained
) -> dict[str, Any]:
    assert found.backbone is not None
    few.save_backbone(runs.file(bed.name, name, f"{seed}.safetensors"), found.backbone)
    few.save_head(runs.file(bed.name, name, f"{seed}.head.safetensors"), found.head)
    figures: dict[str, Any] = {}
    if objective.predict is not None and bed.data != "omniglot":
        part = labelled(bed, "closed")
        best = likeliest(objective, found.head, few.features(found.backbone, part))
        figures["closed_error"] = float((best != part.labels).mean())
    if bed.cells:
        base = labelled(bed, "train")
        rows = np.linspace(0, len(base) - 1, min(BASE_IMAGES, len(base)), dtype=int)
        parts = {"val": labelled(bed, "val"), "test": labelled(bed, "test"), "base": base.take(rows)}
        arrays = {
            part: embedded(objective, found.head, few.features(found.backbone, some))
            for part, some in parts.items()
        }
        _save_features(runs, bed, name, seed, arrays)
    return figures


def _frozen(runs: Runs, bed: Bed, name: str) -> dict[str, Any]:
    """Features of a pretrained network, of the first images of each class."""
    from fewshotjax.plugins import plugin_backbone

    network, arrays = plugin_backbone(name), {}
    stored_as = {"val": "novel_val", "test": "novel_test", "base": "base_train"}
    for part, many in FROZEN_IMAGES.items():
        stored = stored_as[part]
        small = few.tiny_imagenet(None, stored, pixels=32)
        rows = np.concatenate([np.flatnonzero(small.labels == c)[:many] for c in range(len(small.classes))])
        found = []
        for label in range(len(small.classes)):  # a class at a time: large images of all would take 1 GB
            one = few.tiny_imagenet(
                None, stored, pixels=network.preprocess.pixels, classes=[small.classes[label]]
            )
            found.append(few.features(network, one.images[:many], batch=20))
        arrays[part] = np.concatenate(found)
        arrays[f"{part}_labels"] = small.labels[rows]
    counts = {part: len(arrays[part]) for part in FROZEN_IMAGES}
    _save_features(runs, bed, name, 0, arrays)
    return {"width": network.width, "images": counts}


def _save_features(runs: Runs, bed: Bed, name: str, seed: int, arrays: dict[str, np.ndarray]) -> None:
    middle = arrays.pop("base").mean(axis=0)
    np.savez(runs.file(bed.name, name, f"{seed}.features.npz"), base_mean=middle, **arrays)


def load_features(
    runs: Runs, bed: Bed, name: str, seed: int, part: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of val or test, their labels, and the mean embedding of the base classes."""
    with np.load(runs.file(bed.name, name, f"{seed}.features.npz")) as stored:
        labels = stored[f"{part}_labels"] if bed.contaminated else images(bed.data, part).labels
        return stored[part], labels, stored["base_mean"]


def is_trained(runs: Runs, bed: Bed, name: str, seed: int) -> bool:
    """Whether the run is through, be it that it diverged."""
    return _known(runs, bed, name, seed) is not None


def usable(runs: Runs, bed: Bed) -> list[str]:
    """Objectives that did not diverge; all are trained by then."""
    runs_of = {name: [_known(runs, bed, name, seed) for seed in range(bed.seeds)] for name in bed.objectives}
    return [name for name, found in runs_of.items() if not any(one and "diverged" in one for one in found)]


def _known(runs: Runs, bed: Bed, name: str, seed: int) -> dict[str, Any] | None:
    frozen = f"{bed.name}, features, {name}"
    return runs.known(frozen if bed.contaminated else _run_name(bed, name, seed))


def _run_name(bed: Bed, name: str, seed: int) -> str:
    return f"{bed.name}, train, {name}, seed {seed}"
