"""The honest protocol and the authors', side by side.

The authors' released code selects twice on the very queries it reports: the best epoch of the classifier, in
each episode, and the best epoch of the Delta-encoder, over the episodes. The honest protocol, the default,
does neither: one Delta-encoder, chosen on validation classes and written to a file before the test run, and
the classifier as its last epoch leaves it. What each maximum gains is part of the result.
"""

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..devices import check_mesh, pieces, sharded
from ..episode_task import EpisodeTask, episode_task
from ..episodes import FIT, Episode
from ..fields import check_fields
from ..files import digest_of, write_bytes
from ..memory import chunk_within
from .encoder import DeltaEncoder
from .episode_fit import EpisodeFit, episode_bytes, fit_episode
from .methods import epoch_scores
from .protocol_result import ProtocolResult
from .rows import row_hashes
from .samplers import delta_sampler

SCHEMA = "frugaljax.fewshot.delta_choice/1"
CHUNK = 8  # episodes alive at once, at most, by default


@dataclass(frozen=True)
class Authors:
    """The authors' two selections on test queries, each of which can be left out."""

    max_classifier_epoch: bool = True  # of each episode, the best epoch of its classifier
    max_model_epoch: bool = True  # the best of the Delta-encoders, on these episodes
    episodes: int | None = None  # the first so many alone, 10 in the authors' log; None: all

    def __post_init__(self):
        check_fields(self)
        if self.episodes is not None and self.episodes < 2:
            raise ValueError(f"episodes must be at least 2, or None for all, got {self.episodes}")


@dataclass(frozen=True)
class Choice:
    """What validation chose, as its file holds it."""

    name: str
    digest: str  # of the chosen Delta-encoder: its weights, bank and settings
    rows: str  # hashes of the validation examples, sorted, in hexadecimal
    accuracies: dict[str, float]  # of every candidate, on validation episodes
    settings: dict[str, Any]


def choose_on_validation(
    key: PRNGKeyArray,
    candidates: Mapping[str, DeltaEncoder],
    features: np.ndarray,
    labels: np.ndarray,
    file: str | os.PathLike[str],
    *,
    fit: EpisodeFit | None = None,
    codes: str = "pairs",
    chunk: int | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> Choice:
    """The candidate with the best last classifier epoch on episodes of validation classes; the first of
    equals.

    Args:
        candidates: by name, such as epochs of one training, sizes or losses; not empty.
        features, labels: of validation classes, which neither training nor test have.
        file: to write the choice to, as JSON; `protocols` asks for it.
        fit: samples, classifier and memory; None: the authors'.
        codes: as of `delta_encoder`.
        chunk: as of `accuracies_by_epoch`.
        mesh: devices that share the episodes, as of `evaluate`.
        options: ways, shots, queries, episodes, classes, as of `evaluate`.

    Raises:
        ValueError: no candidates, a file that exists, or as `evaluate`.
    """
    if not candidates:
        raise ValueError("candidates is empty: give {name: DeltaEncoder}")
    if Path(file).exists():
        raise ValueError(f"{file} exists: a choice is made once; remove the file to make it anew")
    fit = fit or EpisodeFit()
    fit = dataclasses.replace(fit, classifier=dataclasses.replace(fit.classifier, keep_epochs=False))
    task = episode_task(key, features, labels, **options)
    means = {
        name: float(
            accuracies_by_epoch(task, delta_sampler(delta, codes), fit, chunk=chunk, mesh=mesh).mean()
        )
        for name, delta in candidates.items()
    }
    best = max(means, key=means.__getitem__)
    settings = {**task.settings, "fit": _settings(fit), "codes": codes}
    rows = " ".join(f"{row:016x}" for row in np.sort(row_hashes(features)).tolist())
    found = Choice(best, _digest(candidates[best]), rows, means, settings)
    told = {"schema": SCHEMA, **dataclasses.asdict(found)}
    write_bytes(file, (json.dumps(told, indent=2) + "\n").encode())
    return found


def load_choice(file: str | os.PathLike[str]) -> Choice:
    """What `choose_on_validation` wrote.

    Raises:
        ValueError: no such file, or not of that kind.
    """
    again = "make it with choose_on_validation, before the test"
    try:
        told = json.loads(Path(file).read_text())
        known = told.pop("schema") == SCHEMA
        choice = Choice(**told) if known else None
        if choice is not None:  # what `protocols` asks of it
            _ = _rows(choice), choice.settings["fit"], choice.settings["codes"]
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no such choice: {again}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        choice = None
    if choice is None:
        raise ValueError(f"{file}: is no choice on validation: {again}")
    return choice


def protocols(
    key: PRNGKeyArray,
    candidates: Mapping[str, DeltaEncoder],
    features: np.ndarray,
    labels: np.ndarray,
    choice: str | os.PathLike[str],
    *,
    authors: Authors | None = None,
    fit: EpisodeFit | None = None,
    codes: str = "pairs",
    chunk: int | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> ProtocolResult:
    """Test episodes by the honest protocol and, on the same, what the authors' selections would report.

    Args:
        key: of the episodes, as of `evaluate`.
        candidates: as of `choose_on_validation`; the chosen one among them. The authors' second maximum is
            over all of them, so that it makes sense where they are the epochs of a training.
        features, labels: of test classes.
        choice: file of `choose_on_validation`.
        authors: which maxima; None: both.
        fit: samples, classifier (adam) and memory, as of the choice but for `keep_epochs`; None: the
            authors'.
        codes: as of the choice.
        chunk, mesh, options: as of `choose_on_validation`.

    Raises:
        ValueError: no such file, one of other candidates, of another `fit` or `codes`, or with any of these
            examples, whatever their labels and order; a classifier without epochs, or as `evaluate`.
    """
    found, authors = load_choice(choice), authors or Authors()
    fit = fit or EpisodeFit()
    _check(found, candidates, features, fit, codes)
    kept = dataclasses.replace(
        fit, classifier=dataclasses.replace(fit.classifier, keep_epochs=authors.max_classifier_epoch)
    )
    names = tuple(candidates) if authors.max_model_epoch else (found.name,)
    task = episode_task(key, features, labels, **options)
    if authors.episodes is not None and authors.episodes > len(task.episodes.classes):
        raise ValueError(
            f"authors.episodes is {authors.episodes}, but there are {len(task.episodes.classes)}: draw more"
        )
    accuracies = np.stack(
        [
            accuracies_by_epoch(task, delta_sampler(candidates[n], codes), kept, chunk=chunk, mesh=mesh)
            for n in names
        ]
    )
    settings = {**task.settings, "fit": dataclasses.asdict(fit), "codes": codes, "chosen": found.name}
    return ProtocolResult(
        accuracies,
        names,
        names.index(found.name),
        authors.max_classifier_epoch,
        authors.max_model_epoch,
        authors.episodes,
        settings,
    )


def accuracies_by_epoch(
    task: EpisodeTask, sampler: Any, fit: EpisodeFit, *, chunk: int | None = None, mesh: Mesh | None = None
) -> Float[np.ndarray, "E T"]:
    """Accuracy of each episode after each epoch of its classifier, where `fit` keeps these; else T is 1.

    The same episodes, samples and first weights as those of `evaluate` with a method of this sampler. Weights
    are arguments: one compilation for all Delta-encoders of one config.

    Args:
        task: of `episode_task(key, features, labels, ...)`.
        sampler: of `delta_sampler` and the like.
        chunk: episodes alive at once, on each device; None: 8, or as many as `memory_budget` has room for.
        mesh: devices that share the episodes by its one axis, "pop": the accuracies of one device, bit for
            bit.
    """
    config = task.config
    if chunk is None:
        width = task.features[0].size
        held = episode_bytes(sampler, fit, config.ways, config.parts * config.most, width)
        chunk = chunk_within(CHUNK, lambda count: count * held)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    check_mesh(mesh)
    total, together = len(task.episodes.classes), chunk * pieces(mesh)
    rows = np.minimum(np.arange(together * math.ceil(total / together)), total - 1)  # the last repeats
    part = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.episodes)
    equal = config.shot_range[0] == config.most
    found, failed = map(
        np.asarray,
        _accuracies(
            task.key,
            jnp.asarray(rows, jnp.int32),
            part,
            jnp.asarray(task.features),
            sampler,
            fit,
            equal,
            chunk,
            mesh,
        ),
    )
    if failed[:total].any():
        warnings.warn(
            f"the classifier {fit.classifier.kind} gave NaN in {failed[:total].sum()} of {total} episodes, "
            "which count as wrong: scale the features, or raise regularization",
            stacklevel=2,
        )
    return found[:total]


@partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _accuracies(
    key: PRNGKeyArray,
    rows: Int[Array, " E"],
    episodes: Episode,
    pool: Array,
    sampler: Any,
    fit: EpisodeFit,
    equal_shots: bool,
    chunk: int,
    mesh: Mesh | None,
) -> tuple[Float[Array, "E T"], Bool[Array, " E"]]:
    ways, shots = episodes.support.shape[1:]
    known = np.repeat(np.arange(ways, dtype=np.int32), shots)

    def one(shared: tuple[PRNGKeyArray, Array, Any], item: tuple[Array, Episode]) -> tuple[Array, Array]:
        key, pool, sampler = shared
        row, episode = item
        k_fit = jax.random.fold_in(jax.random.fold_in(key, row), FIT)
        labels = known if equal_shots else jnp.where(episode.shown.reshape(-1), known, ways)
        support, query = pool[episode.support.reshape(-1)], pool[episode.query.reshape(-1)]
        scores = epoch_scores(sampler)(fit_episode(k_fit, sampler, fit, support, labels, ways), query)
        true = np.repeat(np.arange(ways), episode.query.shape[1])
        failed = jnp.isnan(scores).any(axis=2)
        right = (jnp.argmax(scores, axis=2) == true[None]) & ~failed
        return jnp.mean(right.astype(jnp.float32), axis=1), failed.any()

    def own(shared: Any, items: Any) -> tuple[Array, Array]:
        return jax.lax.map(partial(one, shared), items, batch_size=chunk)

    return sharded(own, mesh)((key, pool, sampler), (rows, episodes))


def _digest(delta: DeltaEncoder) -> str:
    told = [dataclasses.asdict(delta.config), delta.width, delta.scaling.kind]
    settings = np.frombuffer(json.dumps(told, sort_keys=True).encode(), np.uint8)
    return digest_of([*jax.tree.leaves(jax.device_get(delta)), settings])


def _rows(found: Choice) -> np.ndarray:
    return np.array([int(row, 16) for row in found.rows.split()], np.uint64)


def _settings(fit: EpisodeFit) -> dict[str, Any]:
    """Of a fit, but for what changes no figure of the honest protocol."""
    told = {name: value for name, value in dataclasses.asdict(fit).items() if name != "memory"}
    return {**told, "classifier": {**told["classifier"], "keep_epochs": False}}


def _check(
    found: Choice,
    candidates: Mapping[str, DeltaEncoder],
    features: np.ndarray,
    fit: EpisodeFit,
    codes: str,
) -> None:
    if found.name not in candidates:
        raise ValueError(f"candidates lack {found.name!r}, which validation chose: give the same ones")
    if _digest(candidates[found.name]) != found.digest:
        raise ValueError(f"candidate {found.name!r} is not the one that validation chose: they differ")
    known = np.isin(row_hashes(features), _rows(found))
    if known.any():
        raise ValueError(
            f"features are in part those of the validation, {known.sum()} of {len(known)} rows, row "
            f"{int(known.argmax())} the first: test on classes that chose nothing"
        )
    if fit.classifier.kind != "adam":
        raise ValueError(f"the protocols are of the epochs of adam, got kind={fit.classifier.kind!r}")
    for name, now in (("fit", _settings(fit)), ("codes", codes)):
        if found.settings[name] != now:
            raise ValueError(
                f"{name}: validation chose with {found.settings[name]}, this test has {now}: give the same"
            )
