"""A linear probe: a new last layer over classes and background, trained on the support.

All else stays the detector's. The fine-tuned detector, a stronger rival, is `fine_tuned`.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ...distances import l2_normalize
from ..detector import Net
from ..support import SupportBoxes
from ..targets import missing_of, support_regions
from .method import DetectionMethod, Scores


class Layer(NamedTuple):
    """Scores x @ weights + bias of W classes and, last, the background."""

    weights: Float[Array, "F N"]
    bias: Float[Array, " N"]


class Probe(NamedTuple):
    """What an episode learns: the layer, and which classes it has no box of, which it never finds."""

    weights: Float[Array, "F N"]
    bias: Float[Array, " N"]
    missing: Bool[Array, " W"]


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
    return _linear(net, steps, learning_rate, momentum, decay, regions, share)


@cache
def _linear(
    net: Net, steps: int, learning_rate: float, momentum: float, decay: float, regions: int, share: float
) -> DetectionMethod:
    def fit(key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> Probe:
        taken = support_regions(shown, ways, net.config, regions, share)
        x, labels, weight = l2_normalize(taken.features), taken.labels, taken.weight
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
        return Probe(*layer, missing_of(shown, ways))

    def predict(params: Any, probe: Probe, features: Array, objectness: Array) -> Scores:
        return scores_of(l2_normalize(features) @ probe.weights + probe.bias[None], probe.missing)

    return DetectionMethod(fit, predict, missing=lambda probe: probe.missing)


def scores_of(logits: Float[Array, "R N"], missing: Bool[Array, " W"]) -> Scores:
    """Softmax over the classes that are not missing and, last, the background."""
    log_p = jax.nn.log_softmax(jnp.where(jnp.append(missing, False)[None], -jnp.inf, logits), axis=1)
    return log_p[:, :-1], log_p[:, -1]
