"""Where the queries lie among the examples."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .classifier import Classifier
from .classifier_predict import NONE, Predictions
from .distances import l2_normalize


def plot_predictions(
    classifier: Classifier, predictions: Predictions, *, method: Any = "pca", seed: int = 0, ax: Any = None
) -> Any:
    """Examples and queries in two dimensions, as features of unit length, by class or what was predicted.

    Representatives, of the default method, are stars; queries that are none of the classes a class of their
    own.

    Args:
        method: "pca" or "tsne"; see `plot_embeddings`.
        seed: of t-SNE.
        ax: matplotlib axes to draw into; None: of a new figure.

    Returns:
        The axes: `axes.figure.savefig("map.png")`.
    """
    from .plots import plot_embeddings  # matplotlib takes a second

    both = np.concatenate([classifier.support, predictions.features])
    points = np.asarray(l2_normalize(jnp.asarray(both)))
    guessed, classes = predictions.labels, classifier.classes
    rejected = bool((guessed < 0).any())
    labels = np.concatenate([classifier.labels, np.where(guessed < 0, len(classes), guessed)])
    names = [*classes, NONE] if rejected else list(classes)
    found, modes, mask = classifier.representatives, None, None
    if found is not None:
        extra = int(rejected)
        modes = np.pad(np.asarray(found.modes), ((0, extra), (0, 0), (0, 0)))
        mask = np.pad(np.asarray(found.mask), ((0, extra), (0, 0)))
    axes = plot_embeddings(points, labels, names, modes, mask, method=method, seed=seed, ax=ax)
    axes.set_title(f"{len(classifier.labels)} examples and {len(guessed)} queries", fontsize="medium")
    return axes
