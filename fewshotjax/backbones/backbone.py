"""What few-shot methods need of a network: images to features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from .preprocess import Preprocess

Apply = Callable[..., Any]  # of a linen module: (variables, images, train=, mutable=)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network as a function of its variables; called on uint8 images it gives their features.

    `apply` is that of a linen module: `apply(variables, x)` gives the features (B, width) of normalised
    images x (B, H, W, C), `apply(variables, x, train=True, mutable=["batch_stats"])` these and
    {"batch_stats": ...}. So any linen module becomes a backbone by this constructor.
    """

    name: str
    apply: Apply  # hashable, as bound methods are
    variables: Any  # {"params": ..., "batch_stats": ...} or {"params": ...}
    preprocess: Preprocess
    width: int  # of the features
    options: Mapping[str, Any] = field(default_factory=dict)  # what it was built with, JSON values

    def __call__(self, images: UInt8[np.ndarray | Array, "N H W C"]) -> Float[Array, "N width"]:
        """float32 features of all images at once; `features` is for many.

        Raises:
            ValueError: images of another type, size or number of channels.
        """
        self.preprocess.check(images)
        return forward(self.apply, self.preprocess, self.variables, jnp.asarray(images))


@partial(jax.jit, static_argnums=(0, 1))
def forward(
    apply: Apply, preprocess: Preprocess, variables: Any, images: UInt8[Array, "N H W C"]
) -> Float[Array, "N width"]:
    """Features of uint8 images, compiled for each number of them."""
    return apply(variables, preprocess.normalize(images)).astype(jnp.float32)
