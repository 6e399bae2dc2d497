"""What a backbone is trained for: a loss on features and labels, with parameters of its own."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .distances import squared_distances


class Objective(NamedTuple):
    """Pure functions; hashable, so that a step compiles once for one objective."""

    init: Callable[[PRNGKeyArray, int, int], Any]  # key, width of the features, classes -> parameters
    # parameters, features (B, F), labels (B,) -> loss (), log-probabilities (B, classes)
    loss: Callable[[Any, Float[Array, "B F"], Int[Array, " B"]], tuple[jax.Array, jax.Array]]
    embed: Callable[[Any, Float[Array, "B F"]], Float[Array, "B D"]]  # what episodes compare
    # parameters, features (B, F) -> log-probabilities of the trained classes (B, classes); None: it has none
    predict: Callable[[Any, Float[Array, "B F"]], Float[Array, "B classes"]] | None = None


def softmax_objective(smoothing: float = 0.0) -> Objective:
    """Cross-entropy of a dense layer: the usual classifier, whose features episodes then compare.

    Args:
        smoothing: of the labels (Szegedy et al. 2016).
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    return _softmax(float(smoothing))


@cache  # the same functions for equal settings, so that a training step compiles once for them
def _softmax(smoothing: float) -> Objective:
    def init(key: PRNGKeyArray, width: int, classes: int) -> Any:
        return nn.Dense(classes).init(key, jnp.zeros((1, width)))["params"]

    def predict(params: Any, features: Float[Array, "B F"]) -> Float[Array, "B classes"]:
        return jax.nn.log_softmax(features @ params["kernel"] + params["bias"][None])

    def loss(params: Any, features: Float[Array, "B F"], labels: Int[Array, " B"]) -> tuple[Array, Array]:
        found = predict(params, features)
        wanted = jax.nn.one_hot(labels, found.shape[1], dtype=found.dtype)
        wanted = (1 - smoothing) * wanted + smoothing / found.shape[1]
        return -jnp.mean(_known(labels, found.shape[1], jnp.sum(wanted * found, axis=1))), found

    return Objective(init, loss, _unchanged, predict)


@cache
def prototypical_objective() -> Objective:
    """Prototypical networks' episodic loss (Snell et al. 2017, Eq. 2) on class-balanced batches.

    Departs from the paper: each embedding is compared with the means of all others of its batch, its own
    class's
    without itself, in place of a split of the batch into support and queries: every image is a query once.
    Train it with `TrainConfig(ways=, per_class=)`; a class that is in a batch once has nothing to be compared
    with. Its log-probabilities are over the classes of the batch alone.
    """

    def init(key: PRNGKeyArray, width: int, classes: int) -> Any:
        return {"classes": jnp.zeros((classes, 0))}  # nothing to learn; its shape says how many there are

    def loss(params: Any, features: Float[Array, "B F"], labels: Int[Array, " B"]) -> tuple[Array, Array]:
        member = jax.nn.one_hot(labels, len(params["classes"]), dtype=features.dtype)  # (B, classes)
        total, count = member.T @ features, jnp.sum(member, axis=0)
        centres = total / jnp.maximum(count, 1.0)[:, None]
        squared = squared_distances(features, centres)
        own_count = member @ count
        own = (member @ total - features) / jnp.maximum(own_count - 1, 1.0)[:, None]
        own_squared = jnp.sum((features - own) ** 2, axis=1)
        squared = jnp.where(member > 0, own_squared[:, None], squared)
        there = (count > 0)[None] & ((member == 0) | (own_count > 1)[:, None])
        found = jax.nn.log_softmax(jnp.where(there, -squared, -jnp.inf), axis=1)
        chosen = jnp.take_along_axis(jnp.where(there, found, 0.0), labels[:, None], axis=1)
        counted = jnp.sum(own_count > 1)
        chosen = _known(labels, found.shape[1], chosen[:, 0])
        return -jnp.sum(chosen) / jnp.maximum(counted, 1).astype(found.dtype), found

    return Objective(init, loss, _unchanged)


def _known(labels: Int[Array, " B"], classes: int, values: Float[Array, " B"]) -> Float[Array, " B"]:
    """NaN where a label is out of range, which JAX would clamp."""
    return jnp.where((labels >= 0) & (labels < classes), values, jnp.nan)


def _unchanged(params: Any, features: Float[Array, "B F"]) -> Float[Array, "B F"]:
    return features
