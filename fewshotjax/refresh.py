"""k-means refresh: RepMet's representatives moved to where the embeddings of their classes now are.

At an epoch's start the modes of each class become k-means centres of embeddings of its examples (the authors'
code: of 200 a class). Off by default, here as in effect there: in that code's main config the refresh starts
at epoch 9 and stops at epoch 3, so that it never runs; in its other config it runs at every epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .backbones import Backbone, features as features_of
from .data.labelled import LabelledImages
from .kmeans import kmeans
from .repmet_model import RepMetConfig, embed


def kmeans_refresh(
    images: LabelledImages,
    config: RepMetConfig,
    *,
    every: int = 1,
    per_class: int = 200,
    seed: int = 0,
) -> Callable[[int, Backbone, Any], Any]:
    """`refresh` of `train` with `repmet_objective(config)`: modes from the embeddings as they are by then.

    A class with fewer distinct embeddings than modes keeps old modes for the rest, one without examples all.
    The optimizer's momentum of the old modes stays.

    Args:
        images: those that are trained on.
        config: of the objective.
        every: epochs from one refresh to the next; there is none before the first epoch.
        per_class: examples of each class at most, drawn anew each time.
        seed: of the draws and of k-means; a refresh follows from it and the epoch's number.

    Raises:
        ValueError: tied representatives, which are no modes of their own; `every` below 1, `per_class` below
            the number of modes; when called, a head of another number of classes or modes.
    """
    drawn = _Drawn(config, every, per_class, seed, images.labels, len(images.classes))
    return _OfImages(drawn, images.images)


def kmeans_refresh_head(
    features: Float[np.ndarray, "N F"],
    labels: Int[np.ndarray, " N"],
    config: RepMetConfig,
    *,
    classes: int | None = None,
    every: int = 1,
    per_class: int = 200,
    seed: int = 0,
) -> Callable[[int, Any], Any]:
    """`kmeans_refresh` for `train_head`, of the features and labels that it trains on.

    Args:
        classes: as of `train_head`; None: the largest label and one.
    """
    many = int(labels.max(initial=0)) + 1 if classes is None else classes
    return _OfFeatures(_Drawn(config, every, per_class, seed, labels, many), features)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Which examples a refresh looks at, and what it makes of their features."""

    config: RepMetConfig
    every: int
    per_class: int
    seed: int
    labels: np.ndarray
    classes: int

    def __post_init__(self):
        if self.config.tied:
            raise ValueError(
                "tied must be False for a refresh: tied representatives share the offsets of their modes"
            )
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        if self.per_class < self.config.modes:
            raise ValueError(
                f"per_class must be at least modes, {self.config.modes}, got {self.per_class}: raise it"
            )

    def due(self, number: int) -> bool:
        return number % self.every == 0

    def rows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(classes, P) rows of the examples, and which of them are no padding."""
        random = np.random.default_rng((self.seed, number))
        counts = np.bincount(self.labels, minlength=self.classes)
        most = min(self.per_class, int(counts.max(initial=1)))
        rows, mask = np.zeros((self.classes, most), np.int64), np.zeros((self.classes, most), bool)
        for label in range(self.classes):
            found = random.permutation(np.flatnonzero(self.labels == label))[:most]
            rows[label, : len(found)], mask[label, : len(found)] = found, True
        return rows, mask

    def head(self, number: int, head: Any, of_class: np.ndarray, mask: np.ndarray) -> Any:
        """The head with new modes, from features (classes, P, F)."""
        had, wanted = head["modes"].shape[:2], (self.classes, self.config.modes)
        if had != wanted:
            raise ValueError(
                f"the head has {had[0]} classes of {had[1]} modes, the refresh is of {wanted[0]} of "
                f"{wanted[1]}: make it of the same images and config"
            )
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        return {**head, "modes": _centres(key, head, jnp.asarray(of_class), jnp.asarray(mask), self.config)}


@dataclass(frozen=True, eq=False)
class _OfImages:
    drawn: _Drawn
    images: np.ndarray

    def __call__(self, number: int, backbone: Backbone, head: Any) -> Any:
        if not self.drawn.due(number):
            return head
        rows, mask = self.drawn.rows(number)
        of_class = np.zeros((*rows.shape, backbone.width), np.float32)
        of_class[mask] = features_of(backbone, self.images[rows[mask]])
        return self.drawn.head(number, head, of_class, mask)


@dataclass(frozen=True, eq=False)
class _OfFeatures:
    drawn: _Drawn
    features: np.ndarray

    def __call__(self, number: int, head: Any) -> Any:
        if not self.drawn.due(number):
            return head
        rows, mask = self.drawn.rows(number)
        return self.drawn.head(number, head, self.features[rows], mask)


@partial(jax.jit, static_argnums=4)
def _centres(
    key: PRNGKeyArray,
    head: Any,
    of_class: Float[Array, "N P F"],
    mask: Bool[Array, "N P"],
    config: RepMetConfig,
) -> Float[Array, "N K D"]:
    embeddings = embed(head, config, of_class.reshape(-1, of_class.shape[2]))
    one = partial(kmeans, clusters=config.modes, normalize=config.normalize_representatives)
    keys = jax.random.split(key, len(of_class))
    found = jax.vmap(one)(keys, embeddings.reshape(*of_class.shape[:2], -1), mask)
    return jnp.where(found.valid[:, :, None], found.centres, head["modes"])
