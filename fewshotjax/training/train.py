"""Training of a backbone on images, or of a head alone on features that are kept."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from ..backbones import Backbone
from ..data.labelled import LabelledImages
from ..objectives import Objective
from .config import TrainConfig
from .loop import Calls, Chunk, Epoch, Trunk, fit, without_empty


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gives."""

    backbone: Backbone | None  # with trained weights; None of `train_head`
    head: Any  # parameters of the objective
    history: tuple[Epoch, ...]  # of the epochs that were finished
    settings: dict[str, Any]  # config, objective, digests of the data: JSON values
    finished: bool  # False: the time limit came first


def train(
    key: PRNGKeyArray,
    backbone: Backbone,
    images: LabelledImages,
    objective: Objective,
    config: TrainConfig | None = None,
    *,
    validation: Callable[[Backbone, Any], float] | None = None,
    on_epoch: Callable[[Epoch], Any] | None = None,
    on_chunk: Callable[[Chunk], Any] | None = None,
    refresh: Callable[[int, Backbone, Any], Any] | None = None,
    every: int = 100,
    checkpoint: str | os.PathLike[str] | None = None,
    time_limit_s: float | None = None,
) -> Trained:
    """Backbone and head trained together: the exponential mean of their weights over the steps.

    Args:
        key: decides the head's start, order and augmentation; the backbone's own weights are its start.
        images: of the size that the backbone takes. With `config.ways`, a batch is the `per_class` images
            of one class after those of another.
        validation: (backbone, head) -> error, of weights so far, called after each epoch. It may look at
            validation data; never at those of a report. `config.keep="best"` chooses by it.
        on_epoch, on_chunk: progress, logs, limits (by raising; the checkpoint is written first).
        refresh: (epochs done, backbone, head) -> head, before each epoch but the first: k-means of the
            embeddings, say. Must follow from its arguments alone, or a resumed run differs.
        every: steps of a chunk at most; slow ones are shorter, about two seconds. Results do not depend on
            it.
        checkpoint: file that is written every few seconds and at the end; if it exists, the run goes on
            from there, bit for bit.
        time_limit_s: seconds of this call after which it stops and gives what there is, `finished=False`;
            with a checkpoint, the same call goes on.

    Raises:
        ValueError: images that do not fit, a class with fewer images than `per_class` (named), keep="best"
            without validation, training that diverged, or another run's checkpoint.
    """
    config = config or TrainConfig()
    if not isinstance(backbone.variables, dict) or "params" not in backbone.variables:
        raise ValueError(
            f"{backbone.name} has no variables {{'params': ...}}: train a linen module's backbone"
        )
    backbone.preprocess.check(images.images)
    _check(images.labels, images.classes, config, validation is not None, every)

    def now(variables: Any) -> Backbone:
        return replace(backbone, variables=variables)

    calls = Calls(
        None if validation is None else lambda variables, head: validation(now(variables), head),
        on_epoch,
        on_chunk,
        None if refresh is None else _Refresh(refresh, now),
        every,
        checkpoint,
        time_limit_s,
    )
    told = {
        "backbone": backbone.name,
        "options": dict(backbone.options),
        "preprocess": _plain(asdict(backbone.preprocess)),
        "classes": len(images.classes),
    }
    trunk = Trunk(backbone.apply, backbone.variables, backbone.preprocess, backbone.width)
    found = fit(key, trunk, images.images, images.labels, len(images.classes), objective, config, calls, told)
    return Trained(
        now(without_empty(found.kept)), found.kept["head"], found.history, found.settings, found.finished
    )


def train_head(
    key: PRNGKeyArray,
    features: Float[np.ndarray, "N F"],
    labels: Int[np.ndarray, " N"],
    objective: Objective,
    config: TrainConfig | None = None,
    *,
    classes: int | None = None,
    validation: Callable[[Any], float] | None = None,
    on_epoch: Callable[[Epoch], Any] | None = None,
    on_chunk: Callable[[Chunk], Any] | None = None,
    refresh: Callable[[int, Any], Any] | None = None,
    every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    time_limit_s: float | None = None,
) -> Trained:
    """`train` without a backbone, on float32 features; `config.padding` and `mirror` are left aside.

    Args:
        labels: int32, 0 to classes - 1.
        classes: None: the largest label and one.
        validation, refresh: as of `train`, without the backbone.

    Raises:
        ValueError: as `train`; features that are not float32 (N, F) and finite, labels that do not fit.
    """
    config = config or TrainConfig()
    if features.ndim != 2 or features.dtype != np.float32:
        raise ValueError(f"features are {features.dtype} of shape {features.shape}: give float32 (N, F)")
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        raise ValueError(f"features: row {wrong[0]} holds NaN or infinite values: leave such examples out")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels are {labels.shape}, features {features.shape}: give one for each row")
    many = int(labels.max(initial=0)) + 1 if classes is None else classes
    if len(labels) and not 0 <= labels.min() <= labels.max() < many:
        raise ValueError(f"labels must be in 0-{many - 1}, got {labels.min()} to {labels.max()}")
    _check(labels, tuple(map(str, range(many))), config, validation is not None, every)
    calls = Calls(
        None if validation is None else lambda _, head: validation(head),
        on_epoch,
        on_chunk,
        None if refresh is None else _Refresh(lambda number, _, head: refresh(number, head), lambda v: v),
        every,
        checkpoint,
        time_limit_s,
    )
    trunk = Trunk(_identity, {"params": {}}, None, features.shape[1])
    told = {"backbone": None, "classes": many}
    found = fit(key, trunk, features, labels.astype(np.int32), many, objective, config, calls, told)
    return Trained(None, found.kept["head"], found.history, found.settings, found.finished)


@dataclass(frozen=True, eq=False)
class _Refresh:
    """A user's refresh as the loop calls it."""

    function: Callable[[int, Any, Any], Any]
    made: Callable[[Any], Any]  # variables -> what it is given

    def __call__(self, number: int, variables: Any, head: Any) -> Any:
        return self.function(number, self.made(without_empty(variables)), head)


def _identity(variables: Any, x: jax.Array, train: bool = False, mutable: Any = ()) -> Any:
    return (x, {}) if mutable else x


def _check(
    labels: np.ndarray, classes: tuple[str, ...], config: TrainConfig, validated: bool, every: int
) -> None:
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if config.keep == "best" and not validated:
        raise ValueError("keep='best' needs validation: give it, or set keep='last'")
    if config.ways is None:
        if len(labels) < config.batch:
            raise ValueError(f"batch is {config.batch} for {len(labels)} examples: lower it")
        return
    counts = np.bincount(labels, minlength=len(classes))
    there = int((counts > 0).sum())
    if config.ways > there:
        raise ValueError(f"ways is {config.ways}, but {there} classes have examples: lower it")
    few = [f"{classes[i]} ({counts[i]})" for i in np.flatnonzero((counts > 0) & (counts < config.per_class))]
    if few:
        named = ", ".join(few[:5]) + (", ..." if len(few) > 5 else "")
        raise ValueError(
            f"per_class is {config.per_class}, more than {len(few)} classes have: {named}: "
            "lower it, or leave these out"
        )


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    return {name: list(one) if isinstance(one, tuple) else one for name, one in value.items()}
