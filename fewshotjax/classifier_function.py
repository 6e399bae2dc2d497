"""A fitted classifier as one plain JAX function, for tools that compress, compile or export networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .backbones import Backbone
from .classifier import Classifier
from .classifier_method import Modes
from .distances import l2_normalize


class ClassifierFunction(NamedTuple):
    """`apply(params, images)` gives log-odds (B, N) whose softmax are the classifier's probabilities."""

    apply: Callable[[Any, Float[Array, "B H W C"]], Float[Array, "B N"]]  # images as `Preprocess.normalize`s
    params: dict[str, Any]  # of the backbone and of the last layer: a pytree


def as_function(classifier: Classifier, backbone: Backbone | None = None) -> ClassifierFunction:
    """The backbone with the classes' representatives as its last layer.

    Features x and modes m have unit length, so that -‖x - m‖²/2σ² = x·m/σ² - 1/σ²: the mixture of RepMet
    (Karlinsky et al. 2019) is a dense layer without anything that a constant does not cancel, and a sum of
    exponentials over the modes of each class where there are several. Classes with fewer modes than others
    show some of theirs c times, with a bias of -log c.

    What is left out is the threshold, beyond which `predict` says "none of these".

    Args:
        backbone: what made the features of a classifier of features (`fit_features`); None: the classifier's.

    Raises:
        ValueError: a classifier of features without a backbone, or of features of another width; another
            method than the default.
    """
    network = classifier.backbone if backbone is None else backbone
    if network is None:
        raise ValueError("the classifier is of features: give the backbone that made them")
    if network.width != classifier.support.shape[1]:
        raise ValueError(
            f"backbone gives {network.width} features, the classifier is of {classifier.support.shape[1]}"
        )
    if not isinstance(classifier.model, Modes) or classifier.sigma is None:
        raise ValueError(f"method must be the default, 'repmet', got {classifier.method_name or 'your own'}")
    modes, bias = _full(classifier.model)
    ways, each, width = modes.shape
    layer = {
        "kernel": jnp.asarray(modes.reshape(-1, width).T / classifier.sigma**2, jnp.float32),
        "bias": jnp.asarray(bias.reshape(-1), jnp.float32),
    }
    return ClassifierFunction(
        _Apply(network.apply, ways, each), {"backbone": network.variables, "representatives": layer}
    )


@dataclass(frozen=True)
class _Apply:
    """Compared by value, so that an equal one compiles nothing anew."""

    features: Callable[..., Any]
    ways: int
    modes: int  # of each class

    def __call__(self, params: dict[str, Any], images: Float[Array, "B H W C"]) -> Float[Array, "B N"]:
        unit = l2_normalize(self.features(params["backbone"], images))
        layer = params["representatives"]
        scores = unit @ layer["kernel"] + layer["bias"][None, :]
        if self.modes == 1:
            return scores
        return jax.nn.logsumexp(scores.reshape(-1, self.ways, self.modes), axis=2)


def _full(model: Modes) -> tuple[np.ndarray, np.ndarray]:
    """Modes (N, K, F) that all exist, and their biases (N, K); K is the most that a class has."""
    found, mask = np.asarray(model.found.modes), np.asarray(model.found.mask)
    most = int(mask.sum(axis=1).max())
    shown = [np.resize(np.flatnonzero(row), most) for row in mask]  # a class's modes in turn
    times = [np.bincount(places, minlength=mask.shape[1])[places] for places in shown]
    return np.stack([found[n, places] for n, places in enumerate(shown)]), -np.log(np.stack(times))
