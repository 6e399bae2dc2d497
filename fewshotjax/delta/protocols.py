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
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ..episode_task import EpisodeTask, episode_task
from ..episodes import FIT, Episode
from ..files import digest_of, write_bytes
from .classifier import ClassifierConfig
from .encoder import DeltaEncoder
from .episode_fit import EpisodeFit, fit_episode
from .methods import epoch_scores
from .protocol_result import ProtocolResult
from .samplers import delta_sampler

SCHEMA = "frugaljax.fewshot.delta_choice/1"
CHUNK = 8  # episodes alive at once, by default


@dataclass(frozen=True)
class Authors:
    """The authors' two selections on test queries, each of which can be left out."""

    max_classifier_epoch: bool = True  # of each episode, the best epoch of its classifier
    max_model_epoch: bool = True  # the best of the Delta-encoders, on these episodes
    episodes: int | None = None  # the first so many alone, 10 in the authors' log; None: all

    def __post_init__(self):
        if self.episodes is not None and self.episodes < 2:
            raise ValueError(f"episodes must be at least 2, or None for all, got {self.episodes}")


@dataclass(frozen=True)
class Choice:
    """What validation chose, as its file holds it."""

    name: str
    digest: str  # of the chosen Delta-encoder's weights and bank
    data: str  # digest of the validation features and labels
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
    chunk: int = CHUNK,
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
        chunk: episodes alive at once.
        options: ways, shots, queries, episodes, classes, as of `evaluate`.

    Raises:
        ValueError: no candidates, a file that exists, or as `evaluate`.
    """
    if not candidates:
        raise ValueError("candidates is empty: give {name: DeltaEncoder}")
    if Path(file).exists():
        raise ValueError(f"{file} exists: a choice is made once; remove the file to make it anew")
    fit = dataclasses.replace(fit or EpisodeFit(), classifier=_last(fit))
    task = episode_task(key, features, labels, **options)
    means = {
        name: float(accuracies_by_epoch(task, delta_sampler(delta, codes), fit, chunk=chunk).mean())
        for name, delta in candidates.items()
    }
    best = max(means, key=means.__getitem__)
    settings = {**task.settings, "fit": dataclasses.asdict(fit), "codes": codes}
    found = Choice(best, _digest(candidates[best]), digest_of([features, labels]), means, settings)
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
    except FileNotFoundError:
        raise ValueError(f"{file}: there is no such choice: {again}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
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
    chunk: int = CHUNK,
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
        fit: samples, classifier (adam) and memory; None: the authors'.
        codes, chunk, options: as of `choose_on_validation`.

    Raises:
        ValueError: no such file, one of other candidates or of these very examples, a classifier without
            epochs, or as `evaluate`.
    """
    found, authors = load_choice(choice), authors or Authors()
    fit = fit or EpisodeFit()
    _check(found, candidates, features, labels, fit)
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
        [accuracies_by_epoch(task, delta_sampler(candidates[n], codes), kept, chunk=chunk) for n in names]
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
    task: EpisodeTask, sampler: Any, fit: EpisodeFit, *, chunk: int = CHUNK
) -> Float[np.ndarray, "E T"]:
    """Accuracy of each episode after each epoch of its classifier, where `fit` keeps these; else T is 1.

    The same episodes, samples and first weights as those of `evaluate` with a method of this sampler. Weights
    are arguments: one compilation for all Delta-encoders of one config.

    Args:
        task: of `episode_task(key, features, labels, ...)`.
        sampler: of `delta_sampler` and the like.
        chunk: episodes alive at once.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    total = len(task.episodes.classes)
    rows = np.minimum(np.arange(chunk * math.ceil(total / chunk)), total - 1)  # the last repeats
    part = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], task.episodes)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(task.key, i), FIT))(rows)
    equal = task.config.shot_range[0] == task.config.most
    return np.asarray(_accuracies(keys, part, jnp.asarray(task.features), sampler, fit, equal, chunk))[:total]


@partial(jax.jit, static_argnums=(4, 5, 6))
def _accuracies(
    keys: Key[Array, " E"],
    episodes: Episode,
    pool: Array,
    sampler: Any,
    fit: EpisodeFit,
    equal_shots: bool,
    chunk: int,
) -> Float[Array, "E T"]:
    ways, shots = episodes.support.shape[1:]
    known = np.repeat(np.arange(ways, dtype=np.int32), shots)
    every = epoch_scores(sampler)

    def one(item: tuple[PRNGKeyArray, Episode]) -> Array:
        key, episode = item
        labels = known if equal_shots else jnp.where(episode.shown.reshape(-1), known, ways)
        support, query = pool[episode.support.reshape(-1)], pool[episode.query.reshape(-1)]
        scores = every(fit_episode(key, sampler, fit, support, labels, ways), query)
        true = np.repeat(np.arange(ways), episode.query.shape[1])
        right = (jnp.argmax(scores, axis=2) == true[None]) & ~jnp.isnan(scores).any(axis=2)
        return jnp.mean(right.astype(jnp.float32), axis=1)

    return jax.lax.map(one, (keys, episodes), batch_size=chunk)


def _last(fit: EpisodeFit | None) -> ClassifierConfig:
    return dataclasses.replace((fit or EpisodeFit()).classifier, keep_epochs=False)


def _digest(delta: DeltaEncoder) -> str:
    return digest_of(jax.tree.leaves(jax.device_get(delta)))


def _check(
    found: Choice,
    candidates: Mapping[str, DeltaEncoder],
    features: np.ndarray,
    labels: np.ndarray,
    fit: EpisodeFit,
) -> None:
    if found.name not in candidates:
        raise ValueError(f"candidates lack {found.name!r}, which validation chose: give the same ones")
    if _digest(candidates[found.name]) != found.digest:
        raise ValueError(f"candidate {found.name!r} is not the one that validation chose: its weights differ")
    if digest_of([features, labels]) == found.data:
        raise ValueError("features are those of the validation: test on classes that chose nothing")
    if fit.classifier.kind != "adam":
        raise ValueError(f"the protocols are of the epochs of adam, got kind={fit.classifier.kind!r}")
