"""How far a reconstruction is from its sample: the weighted L1 of the authors' code, plain L1 and L2."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .config import DeltaConfig

_TINY = 1e-7


def sample_losses(
    config: DeltaConfig, x: Float[Array, "B D"], xhat: Float[Array, "B D"]
) -> Float[Array, " B"]:
    """Σ_i w_i d_i, w_i = d_i² / (Σ_j d_j² + 1e-7), d_i the absolute of x_i - x̂_i   (the authors' code).

    One loss a sample. As the weights have gradients there, this is Σ d³ / (Σ d² + 1e-7);
    `stop_gradient_weights` is the same value with another gradient. "l1" is the mean of d over the features,
    "l2" that of d²: like the weighted one, they do not grow with the number of features.
    """
    d = jnp.abs(x - xhat)
    if config.loss == "l1":
        return jnp.mean(d, axis=1)
    squared = d * d
    if config.loss == "l2":
        return jnp.mean(squared, axis=1)
    weights = squared / (jnp.sum(squared, axis=1, keepdims=True) + _TINY)
    if config.stop_gradient_weights:
        weights = jax.lax.stop_gradient(weights)
    return jnp.sum(weights * d, axis=1)
