"""Baselines without representatives: class means, all support vectors, prototypes on class-agnostic regions.

All are read off the same support as RepMet's, in the detector's embedding or in the features as they are,
which may be another network's (`external_pool`).
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ...distances import l2_normalize, squared_distances
from ...repmet_model import classify, embed as embedded
from ...representatives import Representatives
from ..detector import Net
from ..support import Support, SupportBoxes, SupportConfig, class_modes, support_features
from .method import DetectionMethod, Scores

_LEAST = 1e-7  # of 1 - objectness, whose logarithm is the background's


class Modes(NamedTuple):
    """What an episode keeps."""

    found: Representatives
    missing: Bool[Array, " W"]


def class_mean(
    net: Net, support: SupportConfig | None = None, *, normalize: bool = True, embed: bool = True
) -> DetectionMethod:
    """One mode a class, the mean of its examples' embeddings, under the detector's posterior.

    With a detector whose embedding was trained by cross-entropy it is the metric baseline.

    Args:
        normalize: the mean to unit length.
        embed: False: of the features as they are, at unit length.
    """
    return _class_mean(net, support or SupportConfig(), normalize, embed)


@cache
def _class_mean(net: Net, config: SupportConfig, normalize: bool, embed: bool) -> DetectionMethod:
    def fit(key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> Modes:
        taken = support_features(shown, ways, config)
        means, there = _means(_points(params, net, taken.features, embed), taken, ways)
        means = l2_normalize(means) if normalize else means
        return Modes(Representatives(means[:, None], there[:, None]), ~there)

    return _of_modes(net, fit, embed)


def nearest(net: Net, support: SupportConfig | None = None, *, embed: bool = True) -> DetectionMethod:
    """Every example is a mode of its class: no k-means, no mean.

    Args:
        embed: as of `class_mean`.
    """
    return _nearest(net, support or SupportConfig(), embed)


@cache
def _nearest(net: Net, config: SupportConfig, embed: bool) -> DetectionMethod:
    def fit(key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> Modes:
        taken = support_features(shown, ways, config)
        e = _points(params, net, taken.features, embed)
        most = len(e) // ways
        found = class_modes(key, e, taken.labels, ways, most, most, net.config.head)
        return Modes(found, ~jnp.any(found.mask, axis=1))

    return _of_modes(net, fit, embed)


def external(net: Net, support: SupportConfig | None = None, *, normalize: bool = True) -> DetectionMethod:
    """Class means of another network's features of crops, as they are in an `external_pool`."""
    return class_mean(net, support, normalize=normalize, embed=False)


def prototype_regions(
    net: Net, support: SupportConfig | None = None, *, embed: bool = True
) -> DetectionMethod:
    """A class-agnostic detector with prototypes: objectness · softmax_n(-‖e - c_n‖² / 2σ²), c_n class means.

    Args:
        embed: as of `class_mean`.
    """
    return _prototype_regions(net, support or SupportConfig(), embed)


@cache
def _prototype_regions(net: Net, config: SupportConfig, embed: bool) -> DetectionMethod:
    def fit(key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> Modes:
        taken = support_features(shown, ways, config)
        means, there = _means(_points(params, net, taken.features, embed), taken, ways)
        return Modes(Representatives(means[:, None], there[:, None]), ~there)

    def predict(params: Any, model: Modes, features: Array, objectness: Array) -> Scores:
        e = _points(params, net, features, embed)
        squared = squared_distances(e, model.found.modes[:, 0])
        there = ~model.missing[None]
        log_sigma = _log_sigma(params, net, embed)
        logits = jnp.where(there, -squared / (2 * jnp.exp(2 * log_sigma)), -1e30)
        log_p = jnp.where(there, jax.nn.log_softmax(logits, axis=1), -jnp.inf)
        sure = jnp.log(jnp.maximum(objectness, _LEAST))[:, None]
        return log_p + sure, jnp.log(jnp.maximum(1 - objectness, _LEAST))

    return DetectionMethod(fit, predict, missing=lambda model: model.missing)


def _of_modes(net: Net, fit: Any, embed: bool) -> DetectionMethod:
    def predict(params: Any, model: Modes, features: Array, objectness: Array) -> Scores:
        e = _points(params, net, features, embed)
        result, _ = classify(net.config.head, model.found, e, _log_sigma(params, net, embed))
        return result.classes, result.background

    return DetectionMethod(fit, predict, missing=lambda model: model.missing)


def _log_sigma(params: Any, net: Net, embed: bool) -> Float[Array, ""]:
    """As it was learned in the detector's embedding; the config's elsewhere."""
    start = jnp.log(jnp.asarray(net.config.head.sigma, jnp.float32))
    return params["repmet"].get("log_sigma", start) if embed else start


def _points(params: Any, net: Net, features: Float[Array, "B F"], embed: bool) -> Float[Array, "B D"]:
    return embedded(params["repmet"], net.config.head, features) if embed else l2_normalize(features)


def _means(
    e: Float[Array, "S D"], taken: Support, ways: int
) -> tuple[Float[Array, "W D"], Bool[Array, " W"]]:
    """Of each class, 0 of one without examples, and which have some."""
    member = (taken.labels[None] == jnp.arange(ways)[:, None]).astype(e.dtype)
    count = jnp.sum(member, axis=1)
    return (member @ e) / jnp.maximum(count, 1.0)[:, None], count > 0
