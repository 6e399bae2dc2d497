"""The space in which the Delta-encoder works: features as they are, of unit length, or standardised."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from ..distances import l2_normalize
from .config import SCALINGS


@struct.dataclass
class Scaling:
    """Statistics of the base features; called, it scales features of any class."""

    mean: Any  # (D,) float32; zeros but for "standard"
    std: Any  # (D,) float32; ones but for "standard"
    kind: str = struct.field(pytree_node=False, default="none")  # "none", "l2" or "standard"

    def __call__(self, x: Float[Array | np.ndarray, "B D"]) -> Float[Array, "B D"]:
        x = jnp.asarray(x)
        if self.kind == "l2":
            return l2_normalize(x)
        if self.kind == "standard":
            return (x - self.mean[None]) / self.std[None]
        return x


def fit_scaling(kind: str, features: Float[np.ndarray, "N D"]) -> Scaling:
    """By the features of the base classes. A feature that is the same in all of them keeps its unit.

    Raises:
        ValueError: no such kind.
    """
    if kind not in SCALINGS:
        raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {kind!r}")
    width = features.shape[1]
    mean, std = np.zeros(width), np.ones(width)
    if kind == "standard":
        mean, std = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        # Rounding alone: float32 numbers that are all alike may have a deviation of some 1e-8 of their size.
        std = np.where(std > 1e-7 * np.abs(mean), std, 1.0)
    return Scaling(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32), kind)
