"""Closed-set half of repmet_table on cached features: heads alone, and what each part of RepMet's brings.

The trunk is the softmax backbone of the seed, trained on the plain labels, which favours softmax; heads are
trained on its features of the images that trained it, chosen among four candidates each on held-out images
(seed 0), and report their error on the test images. Ablations change one field of "repmet K=3" as chosen and
choose nothing anew, which favours the one they are compared with.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

import fewshotjax as few
from fewshotjax.refresh import kmeans_refresh_head

from .repmet_cells import NO_LOSS, Bed, candidates, digest, head
from .repmet_runs import Runs, groups, labelled, likeliest, spread
from .repmet_train import is_trained, usable

CONFIG = few.TrainConfig(epochs=3, batch=128, padding=0, mirror=False)
RATES = (0.03, 0.3)
MAIN = (
    "softmax",
    "soft_triple",
    "repmet K=1",
    "repmet K=3",
    "repmet K=5",
    f"repmet K=3{NO_LOSS}",
    "repmet K=3, refresh",
    "repmet K=5, refresh",
)
# One field of "repmet K=3" as chosen.
ABLATIONS: dict[str, dict[str, Any]] = {
    **{f"sigma {s}": {"sigma": s} for s in (0.1, 0.25, 0.5, 1.0)},
    "sigma learned": {"learn_sigma": True},
    **{f"margin {m}": {"margin": m} for m in (0.25, 1.0)},
    "plain distance": {"distance": "plain"},
    "posterior maximum": {"posterior": "maximum"},
    "posterior softmax": {"posterior": "softmax"},
    "posterior softmax with background": {"posterior": "softmax", "background": True},
    "free initialization": {"initialization": "free"},
}
LABELLINGS = {
    "tiny_imagenet": ("plain", "random pairs"),
    "cifar10": ("plain", "random pairs"),
}
ABLATED, ABLATED_BED = "random pairs", "tiny_imagenet"  # the labelling of the ablations, and the bed


class Part(NamedTuple):
    features: np.ndarray
    labels: np.ndarray


def settings() -> dict[str, Any]:
    base = few.RepMetConfig()
    return {
        "config": repr(CONFIG),
        "rates": RATES,
        "variants": {name: [c.told for c in candidates(name, 1, RATES)] for name in MAIN},
        "ablations": {name: str(fields) for name, fields in ABLATIONS.items()},
        "ablated": [ABLATED_BED, ABLATED],
        "labellings": LABELLINGS,
        "digest": digest(
            [
                *(c.objective for name in MAIN for c in candidates(name, 1, RATES)),
                *(few.repmet_objective(replace(base, **fields)) for fields in ABLATIONS.values()),
            ]
        ),
    }


def ready(runs: Runs, bed: Bed) -> bool:
    trained = all(is_trained(runs, bed, "softmax", seed) for seed in range(bed.seeds))
    return trained and "softmax" in usable(runs, bed)


def parts_of(runs: Runs, bed: Bed, seed: int) -> dict[str, Part]:
    """Trunk features of train, held and closed, from a file that is made once."""
    path = runs.file(bed.name, "softmax", f"{seed}.trunk.npz")
    names = ("train", "held", "closed")
    if not path.exists():
        trunk = few.load_backbone(runs.file(bed.name, "softmax", f"{seed}.safetensors"))
        beside = path.with_suffix(".new.npz")
        np.savez(beside, **{name: few.features(trunk, labelled(bed, name)) for name in names})
        beside.rename(path)
    with np.load(path) as stored:
        return {name: Part(stored[name], labelled(bed, name).labels) for name in names}


def merged(part: Part, bed: Bed, labelling: str, seed: int) -> Part:
    labels = groups(part.labels, len(labelled(bed, "train").classes), labelling, seed)
    return Part(part.features[labels >= 0], labels[labels >= 0])


def fit(
    parts: dict[str, Part],
    objective: few.Objective,
    rate: float,
    seed: int,
    report: str,
    refreshed: few.RepMetConfig | None,
) -> float | None:
    """The error on `report` of a head; None where training diverged."""
    train, classes = parts["train"], int(parts["train"].labels.max()) + 1
    refresh = None
    if refreshed is not None:
        refresh = kmeans_refresh_head(train.features, train.labels, refreshed, classes=classes, seed=seed)
    config = replace(CONFIG, learning_rate=rate)
    try:
        found = few.train_head(
            jax.random.key(seed), *train, objective, config, classes=classes, refresh=refresh
        )
    except ValueError as error:
        if "diverged" not in str(error):
            raise
        return None
    best = likeliest(objective, found.head, parts[report].features)
    return float((best != parts[report].labels).mean())


def refresh_config(name: str, width: int, told: str) -> few.RepMetConfig | None:
    """Of the candidate that is told "sigma 0.5, rate 0.3"."""
    if "refresh" not in name:
        return None
    return head(name, width, float(told.split(",")[0].split()[1]))


def main_rows(runs: Runs, bed: Bed, labelling: str, load: Callable[[int], dict[str, Part]]) -> None:
    for name in MAIN:
        made = candidates(name, bed.width, RATES)
        start = f"heads, {bed.name}, {labelling}, {name}"

        def parts(seed: int) -> dict[str, Part]:
            return {key: merged(part, bed, labelling, seed) for key, part in load(seed).items()}

        def choice(made: Any = made, name: str = name, parts: Any = parts) -> dict[str, Any]:
            errors = [
                fit(
                    parts(0), c.objective, c.learning_rate, 0, "held", refresh_config(name, bed.width, c.told)
                )
                for c in made
            ]
            best = int(np.argmin([np.inf if error is None else error for error in errors]))
            return {"candidate": best, "told": made[best].told, "held_errors": errors}

        chosen = runs.run(f"{start}, choice", choice)
        if chosen is None:
            continue
        one = made[chosen["candidate"]]
        refreshed = refresh_config(name, bed.width, one.told)
        for seed in range(bed.seeds):

            def work(seed: int = seed, one: Any = one, refreshed: Any = refreshed, parts: Any = parts) -> Any:
                return {
                    "error": fit(parts(seed), one.objective, one.learning_rate, seed, "closed", refreshed)
                }

            runs.run(f"{start}, seed {seed}", work)


def ablations(runs: Runs, bed: Bed, load: Callable[[int], dict[str, Part]]) -> None:
    chosen = runs.known(f"heads, {bed.name}, {ABLATED}, repmet K=3, choice")
    if chosen is None:
        return
    sigma, rate = (float(text.split()[1]) for text in chosen["told"].split(", "))
    base = head("repmet K=3", bed.width, sigma)
    for name, fields in ABLATIONS.items():
        objective = few.repmet_objective(replace(base, **fields))
        for seed in range(bed.seeds):

            def work(seed: int = seed, objective: few.Objective = objective) -> dict[str, Any]:
                parts = {key: merged(part, bed, ABLATED, seed) for key, part in load(seed).items()}
                return {"error": fit(parts, objective, rate, seed, "closed", None)}

            runs.run(f"heads, {bed.name}, {ABLATED}, {name}, seed {seed}", work)


def work_of(runs: Runs, bed: Bed) -> None:
    """All heads of a data set; the features of each seed are read once."""
    loaded: dict[int, dict[str, Part]] = {}

    def load(seed: int) -> dict[str, Part]:
        if seed not in loaded:
            loaded[seed] = parts_of(runs, bed, seed)
        return loaded[seed]

    for labelling in LABELLINGS[bed.name]:
        main_rows(runs, bed, labelling, load)
    if bed.name == ABLATED_BED:
        ablations(runs, bed, load)


def summary(runs: Runs, bed: Bed) -> dict[str, Any]:
    """labelling -> row -> error over seeds, with paired differences; of what diverged there is no error."""
    out: dict[str, Any] = {}
    for labelling in LABELLINGS[bed.name]:
        ablated = (bed.name, labelling) == (ABLATED_BED, ABLATED)
        rows = (*MAIN, *(ABLATIONS if ablated else ()))
        errors = {name: _errors(runs, bed, labelling, name) for name in rows}
        out[labelling] = {
            name: {
                "error": spread(list(one.values())),
                "seeds": len(one),
                "diverged": sum(error is None for error in one.values()),
                **{
                    f"minus {rival}": spread(differences(one, errors[rival]))
                    for rival in ("softmax", "soft_triple", "repmet K=1", "repmet K=3")
                    if rival != name
                },
                "chosen": (runs.known(f"heads, {bed.name}, {labelling}, {name}, choice") or {}).get("told"),
            }
            for name, one in errors.items()
            if one
        }
    return out


def differences(one: dict[int, float | None], other: dict[int, float | None]) -> list[float]:
    """Of the seeds that both have."""
    pairs = [(one[seed], other.get(seed)) for seed in one]
    return [a - b for a, b in pairs if a is not None and b is not None]


def _errors(runs: Runs, bed: Bed, labelling: str, name: str) -> dict[int, float | None]:
    found = {s: runs.known(f"heads, {bed.name}, {labelling}, {name}, seed {s}") for s in range(bed.seeds)}
    return {s: one["error"] for s, one in found.items() if one is not None}
