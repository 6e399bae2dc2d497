"""Which backbone and which images a classifier was made with."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from .backbones import Backbone
from .files import digest_of


def fingerprint(backbone: Backbone) -> dict[str, Any]:
    """Name, width, preprocess, options and a digest of the weights, as JSON values.

    A function that holds its weights in a closure is told by the rest alone.
    """
    told = {"name": backbone.name, "width": backbone.width, "options": dict(backbone.options)}
    told["preprocess"] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(backbone.preprocess).items()
    }
    return {**told, "weights": digest_of(jax.tree.leaves(backbone.variables))}


def check_fingerprint(made_with: Mapping[str, Any], backbone: Backbone) -> None:
    """Raises ValueError: the classifier was made with another backbone; what differs is told."""
    given = fingerprint(backbone)
    for field, value in made_with.items():
        if given.get(field) != value:
            raise ValueError(
                f"the classifier was made with {made_with['name']} whose {field} was {value}, and this one's "
                f"is {given.get(field)}: give that backbone, or fit anew"
            )


def image_digests(images: np.ndarray) -> tuple[str, ...]:
    """SHA-256 of each image with its shape, hexadecimal."""
    shape = str(images.shape[1:]).encode()
    return tuple(
        hashlib.sha256(shape + np.ascontiguousarray(image).tobytes()).hexdigest() for image in images
    )
