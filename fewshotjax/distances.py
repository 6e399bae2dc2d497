"""Distances between embeddings and representatives, with gradients that stay finite."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_TINY = 1e-12


def l2_normalize(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """x / √(‖x‖² + 1e-12): the zero vector stays zero, and its gradient is finite."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + _TINY)


def squared_distances(a: Float[Array, "A D"], b: Float[Array, "B D"]) -> Float[Array, "A B"]:
    """‖a_i - b_j‖² = ‖a_i‖² + ‖b_j‖² - 2 a_i·b_j, never below 0.

    One matrix product. The mean of b is subtracted first, or what all vectors have in common would drown
    their differences in rounding; what is left is some 1e-7 of their squared distances from that mean.
    """
    middle = jax.lax.stop_gradient(jnp.mean(b, axis=0, keepdims=True))
    a, b = a - middle, b - middle
    norms = jnp.sum(a * a, axis=-1)[:, None] + jnp.sum(b * b, axis=-1)[None, :]
    return jnp.maximum(norms - 2 * jnp.matmul(a, b.T, precision="highest"), 0.0)


def root(squared: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """√d², with a finite gradient at 0: values below 1e-12 count as that."""
    return jnp.sqrt(jnp.maximum(squared, _TINY))
