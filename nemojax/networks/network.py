"""What the searches need to know of a network: a function, its parameters, and how its inputs are made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nemojax.preprocess import Preprocess


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network as a plain function of its parameters."""

    name: str
    apply: Callable[..., Any]  # (params, images (N, H, W, 3) float32) -> logits (N, classes) float32
    params: Any  # pytree, passed to `apply` as it is
    preprocess: Preprocess = field(default_factory=Preprocess)
    weights_source: str = "unknown"  # file and start of its SHA-256, or how they were drawn
    config: Any = None  # of a network of this package: what `save_weights` keeps beside the weights
