"""The fine-tuned detector: a softmax over classes and background, trained with what lies before it."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ...distances import l2_normalize
from ..detector import Net, box_codes
from ..rpn_losses import smooth_l1
from ..support import SupportBoxes
from ..targets import missing_of, support_regions
from .linear import Layer, scores_of
from .method import DetectionMethod, Scores


class Layers(NamedTuple):
    """What is trained."""

    hidden: Layer  # (F, F), with ReLU on the trunk's features
    last: Layer  # (F, W + 1), on the hidden ones at unit length; the background is last
    box: Any  # the box head, on the hidden ones as they are


class FineTuned(NamedTuple):
    """What an episode learns: layers, and which classes it has no box of, which it never finds."""

    layers: Layers
    missing: Bool[Array, " W"]


def fine_tuned(
    net: Net,
    *,
    steps: int = 100,
    learning_rate: float = 0.02,
    tuned_rate: float = 1e-3,
    box_weight: float = 1.0,
    regions: int = 32,
    share: float = 0.5,
) -> DetectionMethod:
    """Descent by Adam (Kingma & Ba 2015) on the regions of all support photographs, labelled by IoU: of a new
    softmax layer, the detector's box head, and a hidden layer between trunk and these.

    A compromise: the RepMet authors' fine-tuned detector has trunk and more of the network tuned, which needs
    pooled maps of every region. Here the hidden layer stands for that. It starts as the identity, which ReLU
    leaves as it is on a trunk's features, and the box head as the detector's, so that features that are known
    once for all episodes are enough.

    Args:
        steps: of descent, each on all regions.
        learning_rate: of the softmax layer, which starts from 0.
        tuned_rate: of the hidden layer and the box head.
        box_weight: of the smooth L1 loss of the codes, meant over the classes' regions.
        regions, share: as of `linear`.

    Raises:
        ValueError: an argument out of range; it is named.
    """
    if steps < 1 or regions < 1:
        raise ValueError(f"steps and regions must be at least 1, got {steps} and {regions}")
    if not learning_rate > 0 or not tuned_rate >= 0 or not box_weight >= 0:
        raise ValueError(
            "learning_rate must be above 0, tuned_rate and box_weight not negative, "
            f"got {learning_rate}, {tuned_rate}, {box_weight}"
        )
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    return _fine_tuned(net, steps, learning_rate, tuned_rate, box_weight, regions, share)


@cache
def _fine_tuned(
    net: Net,
    steps: int,
    learning_rate: float,
    tuned_rate: float,
    box_weight: float,
    regions: int,
    share: float,
) -> DetectionMethod:
    rule = optax.scale_by_adam()

    def fit(key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> FineTuned:
        taken = support_regions(shown, ways, net.config, regions, share)
        count = jnp.maximum(jnp.sum(taken.front.astype(jnp.float32)), 1.0)

        def loss(layers: Layers) -> Float[Array, ""]:
            h = _hidden(layers, taken.features)
            log_p = jax.nn.log_softmax(_logits(layers, h), axis=1)
            wrong = -jnp.take_along_axis(log_p, taken.labels[:, None], axis=1)[:, 0]
            away = jnp.where(taken.front[:, None], _codes(net, layers, h) - taken.codes, 0.0)
            box = jnp.sum(smooth_l1(away, net.config.box_sharpness)) / count
            return jnp.sum(wrong * taken.weight) + box_weight * box

        def step(carry: tuple[Layers, Any], _: None) -> tuple[tuple[Layers, Any], None]:
            layers, state = carry
            with jax.numpy_dtype_promotion("standard"):
                away, state = rule.update(jax.grad(loss)(layers), state)
            rates = tuned_rate, learning_rate, tuned_rate
            following = [
                jax.tree.map(lambda w, v, rate=rate: w - rate * v, *each)
                for *each, rate in zip(layers, away, rates, strict=True)
            ]
            return (Layers(*following), state), None

        width = taken.features.shape[1]
        identity = Layer(jnp.eye(width, dtype=jnp.float32), jnp.zeros(width, jnp.float32))
        nothing = Layer(jnp.zeros((width, ways + 1), jnp.float32), jnp.zeros(ways + 1, jnp.float32))
        start = Layers(identity, nothing, params["box"])
        (layers, _), _ = jax.lax.scan(step, (start, rule.init(start)), length=steps)
        return FineTuned(layers, missing_of(shown, ways))

    def predict(params: Any, model: FineTuned, features: Array, objectness: Array) -> Scores:
        return scores_of(_logits(model.layers, _hidden(model.layers, features)), model.missing)

    def codes(params: Any, model: FineTuned, features: Array) -> Float[Array, "R 4"]:
        return _codes(net, model.layers, _hidden(model.layers, features))

    return DetectionMethod(fit, predict, codes, missing=lambda model: model.missing)


def _hidden(layers: Layers, features: Float[Array, "R F"]) -> Float[Array, "R F"]:
    return jax.nn.relu(features @ layers.hidden.weights + layers.hidden.bias[None])


def _logits(layers: Layers, h: Float[Array, "R F"]) -> Float[Array, "R N"]:
    return l2_normalize(h) @ layers.last.weights + layers.last.bias[None]


def _codes(net: Net, layers: Layers, h: Float[Array, "R F"]) -> Float[Array, "R 4"]:
    return box_codes({"box": layers.box}, net, h)
