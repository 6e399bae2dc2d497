"""Class means: prototypical networks' classifier and SimpleShot."""

from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..distances import l2_normalize
from .method import Labels, Method, through


def class_means(support: Float[Array, "S D"], labels: Labels, ways: int) -> Float[Array, "ways D"]:
    """c_k = Σ_{i: y_i = k} z_i / n_k, with n_k examples of class k   (Snell et al. 2017, Eq. 1).

    Labels outside 0 to ways - 1 are left out; a class without examples gets NaN.
    """
    member = jax.nn.one_hot(labels, ways, dtype=support.dtype)
    return (member.T @ support) / member.sum(axis=0)[:, None]


def prototypes() -> Method:
    """Nearest class mean, p(y = k | x) = softmax_k(-‖z - c_k‖²)   (Snell et al. 2017, Eq. 2)."""
    return Method(_means, _nearest_mean)


def simpleshot(
    base_mean: Float[np.ndarray, " D"] | None = None,
    *,
    normalize: bool = True,
    distance: Literal["euclidean", "cosine"] = "euclidean",
) -> Method:
    """SimpleShot (Wang et al. 2019): class means of centred, L2-normalised features.

    Args:
        base_mean: mean feature of the base classes, subtracted first ("C" of the paper's CL2N); None: not.
        normalize: to unit length before the means ("L2N").
        distance: to the means; the paper's is Euclidean. "cosine" does not depend on their lengths.
    """
    if distance not in ("euclidean", "cosine"):
        raise ValueError(f"distance must be euclidean or cosine, got {distance!r}")
    method = _simpleshot(normalize, distance)
    if base_mean is None:
        return method
    middle = jnp.asarray(base_mean, jnp.float32)[None]
    return through(lambda x: x - middle, method)


@cache
def _simpleshot(normalize: bool, distance: str) -> Method:
    def prepared(x: Float[Array, "S D"]) -> Float[Array, "S D"]:
        return l2_normalize(x) if normalize else x

    def fit(
        key: PRNGKeyArray, support: Float[Array, "S D"], labels: Labels, ways: int
    ) -> Float[Array, "ways D"]:
        centres = class_means(prepared(support), labels, ways)
        return l2_normalize(centres) if distance == "cosine" else centres

    def predict(centres: Float[Array, "ways D"], queries: Float[Array, "Q D"]) -> Float[Array, "Q ways"]:
        queries = prepared(queries)
        if distance == "cosine":
            return jax.nn.log_softmax(l2_normalize(queries) @ centres.T, axis=-1)
        return _nearest_mean(centres, queries)

    return Method(fit, predict)


def _means(
    key: PRNGKeyArray, support: Float[Array, "S D"], labels: Labels, ways: int
) -> Float[Array, "ways D"]:
    return class_means(support, labels, ways)


def _nearest_mean(centres: Float[Array, "ways D"], queries: Float[Array, "Q D"]) -> Float[Array, "Q ways"]:
    # -‖q - c‖² = 2 q·(c - m) - ‖c - m‖² - 2 m·(c - m) + what does not depend on c, with m the mean of the
    # centres: the queries, most of the data, are read once, and what all features share drops out before it
    # is squared.
    middle = jnp.mean(centres, axis=0)
    away = centres - middle[None]
    offset = jnp.sum(away * away, axis=1) + 2 * jnp.matmul(away, middle, precision="highest")
    scores = 2 * jnp.matmul(queries, away.T, precision="highest") - offset[None]
    return jax.nn.log_softmax(scores, axis=-1)
