"""The fine-tuned detector: a new last layer over classes and background, trained on the support."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ...distances import l2_normalize
from ..detector import Net
from ..support import SupportBoxes
from ..tuning import joined_features, support_targets
from .method import DetectionMethod, Scores


class Layer(NamedTuple):
    """Scores x @ weights + bias of W classes and, last, the background."""

    weights: Float[Array, "F N"]
    bias: Float[Array, " N"]


@cache
def linear(
    net: Net,
    *,
    steps: int = 200,
    learning_rate: float = 2.0,
    momentum: float = 0.9,
    decay: float = 0.0,
    regions: int = 32,
    share: float = 0.5,
) -> DetectionMethod:
    """A softmax layer on the trunk's features at unit length, by gradient descent from 0 on the regions of
    all support photographs, labelled by IoU; boxes stay the detector's.

    Args:
        steps, learning_rate, momentum: of descent on the weighted mean cross-entropy, whose curvature is at
            most 1/2: rates up to 4 · (1 + momentum) are stable.
        decay: of the weights' squared length, times a half.
        regions: of a photograph: those on its boxes first, then the likeliest objects of the rest.
        share: weight of the classes' regions in the mean, against the background's.

    Raises:
        ValueError: an argument out of range; it is named.
    """
    if steps < 1 or regions < 1:
        raise ValueError(f"steps and regions must be at least 1, got {steps} and {regions}")
    if not learning_rate > 0 or not 0 <= momentum < 1 or not decay >= 0:
        raise ValueError(
            "learning_rate must be above 0, momentum in [0, 1), decay not negative, "
            f"got {learning_rate}, {momentum}, {decay}"
        )
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")

    def fit(key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> Layer:
        targets = support_targets(shown, ways, net.config)
        objects = jnp.pad(shown.regions.objectness, ((0, 0), (0, 1)))
        rank = jnp.where(targets.foreground, 2.0, objects)
        _, index = jax.lax.top_k(jnp.where(targets.mask, rank, -1.0), min(regions, rank.shape[1]))
        x = jnp.take_along_axis(joined_features(shown), index[..., None], axis=1)
        labels, mask, front = (
            jnp.take_along_axis(each, index, axis=1).reshape(-1)
            for each in (targets.labels, targets.mask, targets.foreground)
        )
        x = l2_normalize(x.reshape(-1, x.shape[-1]))
        weight = _weights(front, mask & ~front, share)
        wanted = jax.nn.one_hot(labels, ways + 1, dtype=x.dtype)

        def step(carry: tuple[Layer, Layer], _: None) -> tuple[tuple[Layer, Layer], None]:
            layer, speed = carry
            p = jax.nn.softmax(x @ layer.weights + layer.bias[None], axis=1)
            residual = (p - wanted) * weight[:, None]
            slope = Layer(x.T @ residual + decay * layer.weights, jnp.sum(residual, axis=0))
            speed = jax.tree.map(lambda v, g: momentum * v + g, speed, slope)
            return (jax.tree.map(lambda w, v: w - learning_rate * v, layer, speed), speed), None

        start = Layer(jnp.zeros((x.shape[1], ways + 1), x.dtype), jnp.zeros(ways + 1, x.dtype))
        (layer, _), _ = jax.lax.scan(step, (start, start), length=steps)
        return layer

    def predict(params: Any, layer: Layer, features: Array, objectness: Array) -> Scores:
        log_p = jax.nn.log_softmax(l2_normalize(features) @ layer.weights + layer.bias[None], axis=1)
        return log_p[:, :-1], log_p[:, -1]

    return DetectionMethod(fit, predict)


def _weights(front: Array, back: Array, share: float) -> Float[Array, " M"]:
    """Of sum 1: `share` for the first, the rest for the second; all for one where the other is empty."""
    of_front, of_back = (
        each.astype(jnp.float32) / jnp.maximum(jnp.sum(each), 1).astype(jnp.float32) for each in (front, back)
    )
    weight = share * of_front + (1 - share) * of_back
    return weight / jnp.maximum(jnp.sum(weight), 1e-12)
