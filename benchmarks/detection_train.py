"""Networks of detection_table: pyramids trained as classifiers, detectors on them, embeddings of crops."""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fewshotjax as few
from fewshotjax import detection as de

from .common import QUICK, peak_gib, say
from .detection_cells import (
    CE,
    CHOICE_KEY,
    CROP,
    EPOCH_EPISODES,
    EPOCH_IMAGES,
    EXTERNAL,
    EXTERNALS,
    MAIN,
    OBJECTIVES,
    PILOT_SEED,
    PILOT_STEPS,
    PRETRAINING,
    PYRAMID,
    QUERIES,
    SCENES,
    SHOTS,
    SOFTMAX,
    TRAINING,
    WAYS,
    Candidate,
    Objective,
    built,
    candidates,
    first_of_each,
    novel,
    photographs,
)
from .repmet_runs import Runs

TELL_S = 60.0  # between lines that say how far a training is
BUSY_S = 60.0  # since its last checkpoint, in which a training is taken to be still running


def pretrained(runs: Runs, seed: int) -> few.Backbone | None:
    """The pyramid of a seed, a classifier of the base classes' photographs, for all objectives."""
    images = functools.partial(labelled, photographs("base_train"))
    start = functools.partial(untrained, seed, 64)
    return _trained(runs, f"pyramid, seed {seed}", seed, start, images, few.softmax_objective(), PRETRAINING)


def external(runs: Runs, seed: int, kind: str) -> few.Backbone | None:
    """The same network on crops of the base classes' boxes: a classifier, and what DML makes of that one."""
    options = seed, functools.partial(untrained, seed, CROP), crops
    softmax = _trained(runs, f"external, seed {seed}", *options, EXTERNALS[SOFTMAX](), EXTERNAL)
    if kind == SOFTMAX or softmax is None:
        return softmax
    return _trained(
        runs, f"external {kind}, seed {seed}", seed, lambda: softmax, crops, EXTERNALS[kind](), EXTERNAL
    )


def untrained(seed: int, pixels: int) -> few.Backbone:
    options = {key: value for key, value in PYRAMID.items() if key != "name"}
    key = jax.random.fold_in(jax.random.key(seed), pixels)
    return few.backbone(PYRAMID["name"], key=key, pixels=pixels, **options)


def _trained(
    runs: Runs,
    name: str,
    seed: int,
    start: Callable[[], few.Backbone],
    images: Callable[[], few.LabelledImages],
    objective: few.Objective,
    config: few.TrainConfig,
) -> few.Backbone | None:
    path, state = runs.file(name, "network.safetensors"), runs.file(name, "state")

    def work() -> dict[str, Any]:
        found = few.train(
            jax.random.key(seed),
            start(),
            images(),
            objective,
            config,
            checkpoint=state,
            on_chunk=Teller(name, runs),
        )
        assert found.backbone is not None
        few.save_backbone(path, found.backbone)
        state.unlink(missing_ok=True)
        last = found.history[-1]
        spent = sum(epoch.seconds for epoch in found.history)
        return {"loss": last.loss, "training_error": last.error, "training_s": spent}

    await_other(runs, name, state)
    return few.load_backbone(path) if attempt(runs, name, work) else None


def await_other(runs: Runs, name: str, state: Path) -> None:
    """Until another process, which has written a checkpoint in the last minute, has trained this."""
    while runs.known(name) is None and not runs.late():
        if not state.exists() or time.time() - state.stat().st_mtime > BUSY_S:
            return
        time.sleep(BUSY_S / 6)
        runs.reload()


class Late(Exception):
    """It is too late to go on; the checkpoint is written."""


class Teller:
    """Says how a training goes, and stops it when it is too late."""

    def __init__(self, name: str, runs: Runs):
        self._name, self._runs, self._told = name, runs, time.monotonic()

    def __call__(self, chunk: Any) -> None:
        if time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            say(f"  {self._name}: {chunk.done} of {chunk.total} steps, {chunk.note}")
        if self._runs.late() and chunk.done < chunk.total:
            raise Late


def attempt(runs: Runs, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """The run, or None where it was too late to begin or to end it."""
    try:
        return runs.run(name, work)
    except Late:
        runs.missing.append(name)
        return None


def labelled(found: de.data.BoxedImages) -> few.LabelledImages:
    assert isinstance(found.images, np.ndarray)
    return few.LabelledImages(found.images, found.labels[:, 0], found.classes)


def crops() -> few.LabelledImages:
    """Of the base classes' boxes, stretched to squares as `external_pool` does."""
    found = photographs("base_train")

    @jax.jit
    def cut(images: Any, boxes: Any) -> Any:
        return jax.vmap(lambda image, box: de.roi_align(image, box[None], CROP)[0])(images, boxes)

    parts, size = [], 500
    for start in range(0, len(found), size):
        rows = np.minimum(np.arange(start, start + size), len(found) - 1)
        images = jnp.asarray(found.images[rows], jnp.float32)  # type: ignore[call-overload]
        made = np.asarray(cut(images, jnp.asarray(found.boxes[rows, 0])))
        parts.append(np.clip(np.round(made), 0, 255).astype(np.uint8)[: len(found) - start])
    return few.LabelledImages(np.concatenate(parts), found.labels[:, 0], found.classes)


def start_of(
    runs: Runs, objective: Objective, candidate: Candidate, seed: int, own: int
) -> de.Detector | None:
    """A detector on the pyramid of a seed; what is drawn besides follows from `own`."""
    network = pretrained(runs, seed)
    if network is None:
        return None
    key = jax.random.fold_in(jax.random.key(own), 7)
    return de.init_detector(
        key,
        de.pyramid_of(network, frozen=True),
        built(objective, candidate),
        photographs("base_train").classes,
    )


def source() -> de.Source:
    return de.mosaics(photographs("base_train"), SCENES, novel=novel())


@functools.cache
def epoch_images() -> de.data.BoxedImages:
    return first_of_each(photographs("novel_val"), EPOCH_IMAGES)


def error(detector: de.Detector, method: str) -> float:
    """1 - AP at the most shots on single photographs of novel_val: chooses candidates and the epoch."""
    pool = de.detection_pool(detector, epoch_images())
    found = de.evaluate_detection(
        jax.random.key(CHOICE_KEY),
        method,
        pool,
        ways=WAYS,
        shots=SHOTS[1],
        queries=QUERIES,
        episodes=EPOCH_EPISODES,
    )
    return 1 - found.figure("repmet_pooled_ap", resamples=0).value


def ranked(runs: Runs, objective: Objective) -> list[Candidate] | None:
    """Candidates, the best first, by short runs; those that diverged come last."""
    made = candidates()
    if len(made) == 1:
        return made
    if objective.chosen_as is not None:
        return ranked(runs, OBJECTIVES[objective.chosen_as])
    seed = list(OBJECTIVES).index(objective.name)  # so that two parts do not wait for one pyramid
    config = replace(TRAINING, epochs=1, steps_per_epoch=PILOT_STEPS, keep="last", ema=0.98)
    errors = []
    for candidate in made:
        name = f"pilot, {objective.name}, {candidate.told}"

        def work(candidate: Candidate = candidate, name: str = name) -> dict[str, Any]:
            start = start_of(runs, objective, candidate, seed, PILOT_SEED)
            if start is None:
                raise Late
            rate = replace(config, learning_rate=candidate.learning_rate)
            try:
                found = de.train_detector(
                    jax.random.key(PILOT_SEED), start, source(), rate, on_chunk=Teller(name, runs)
                )
            except ValueError as problem:
                return {"error": None, "diverged": diverged(problem)}
            return {"error": error(found.detector, objective.epoch_method)}

        run = attempt(runs, name, work)
        if run is None:
            return None
        errors.append(np.inf if run["error"] is None else run["error"])
        tidy()
    return [made[i] for i in np.argsort(errors, kind="stable")]


def tidy() -> None:
    """Compiled programs go; a quick run has few, of shapes that it meets again."""
    if not QUICK:
        jax.clear_caches()


def diverged(problem: ValueError) -> str:
    """The message, if training diverged; other errors are raised."""
    if "diverged" not in str(problem):
        raise problem
    return str(problem)


def run_name(objective: Objective, seed: int) -> str:
    return f"train, {objective.name}, seed {seed}"


def path_of(runs: Runs, objective: Objective, seed: int) -> Any:
    return runs.file(objective.name, seed, "detector.safetensors")


def train(runs: Runs, objective: Objective, seed: int) -> dict[str, Any] | None:
    """Trains with the best candidate that does not diverge, and leaves the detector in a file."""
    name = run_name(objective, seed)
    if (done := runs.known(name)) is not None:
        return done
    order = ranked(runs, objective)
    if order is None or pretrained(runs, seed) is None:
        runs.missing.append(name)
        return None

    def work() -> dict[str, Any]:
        for candidate in order:
            start = start_of(runs, objective, candidate, seed, seed)
            assert start is not None, "trained by now"
            state = runs.file(objective.name, seed, f"{candidate.told}.state")
            config = replace(TRAINING, learning_rate=candidate.learning_rate)
            validation = None  # in a quick run
            if config.keep == "best":
                validation = functools.partial(error, method=objective.epoch_method)
            try:
                found = de.train_detector(
                    jax.random.key(seed),
                    start,
                    source(),
                    config,
                    validation=validation,
                    checkpoint=state,
                    on_chunk=Teller(name, runs),
                )
            except ValueError as problem:
                diverged(problem)
                state.unlink(missing_ok=True)
                continue
            chance = math.log(len(found.detector.classes))
            if not QUICK and found.history[-1].losses["linear"] > chance - 0.05:
                continue  # it tells no class from another: as bad as a divergence
            de.save_detector(path_of(runs, objective, seed), found.detector)
            state.unlink(missing_ok=True)
            return {
                "candidate": candidate.told,
                "training_s": sum(epoch.seconds for epoch in found.history),
                "peak_gib": round(peak_gib(), 2),
                "epochs": [
                    {"validation_error": epoch.validation_error, **epoch.losses} for epoch in found.history
                ],
            }
        return {"diverged": True}  # with every candidate: the table goes on without

    found = attempt(runs, name, work)
    tidy()
    return found


def detector(runs: Runs, objective: Objective, seed: int) -> de.Detector | None:
    """The trained one; None where there is none yet, or training diverged."""
    known = runs.known(run_name(objective, seed))
    if known is None or "diverged" in known:
        return None
    return de.load_detector(path_of(runs, objective, seed))


def owner(objective: str, seed: int, seeds: int, parts: int) -> int:
    """The part that trains a detector and evaluates it: by seed, those that are left over by objective."""
    return seed % parts if seed < seeds // parts * parts else list(OBJECTIVES).index(objective) % parts


def all_of(runs: Runs, part: int, parts: int, seeds: int) -> None:
    """The part's share: pyramids, pilots, detectors, classifiers of crops."""
    part %= parts
    for seed in range(part, seeds, parts):
        pretrained(runs, seed)
    turned = [*MAIN[part % len(MAIN) :], *MAIN[: part % len(MAIN)]]  # parts do not need the same pilot first
    for seed in range(seeds):
        for objective in turned:
            if owner(objective.name, seed, seeds, parts) == part:
                runs.reload()
                train(runs, objective, seed)
    for seed in range(seeds):
        if owner(CE, seed, seeds, parts) == part:  # its regions are looked at
            for kind in EXTERNALS:
                external(runs, seed, kind)
    runs.reload()
