"""Nearest class mean: the classifier of prototypical networks (Snell et al. 2017) on given features.

The simplest of the few-shot methods, and the one that the others have to beat. A pair of pure functions;
episodes are vmapped over them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def prototypes(support: Float[Array, "n d"], labels: Int[Array, " n"], ways: int) -> Float[Array, "ways d"]:
    """c_k = Σ_{i: y_i = k} z_i / n_k, with n_k examples of class k   (Snell et al. 2017, Eq. 1).

    Args:
        support: features of the support examples.
        labels: class of each, 0 to ways - 1; others are left out. A class without examples gets NaN.
        ways: number of classes, static.
    """
    member = jax.nn.one_hot(labels, ways, dtype=support.dtype)
    return (member.T @ support) / member.sum(axis=0)[:, None]


def log_probabilities(
    centres: Float[Array, "ways d"], queries: Float[Array, "q d"]
) -> Float[Array, "q ways"]:
    """log p(y = k | x) = log softmax_k(-‖z - c_k‖²)   (Snell et al. 2017, Eq. 2)."""
    distance = jnp.sum((queries[:, None, :] - centres[None, :, :]) ** 2, axis=-1)
    return jax.nn.log_softmax(-distance, axis=-1)
