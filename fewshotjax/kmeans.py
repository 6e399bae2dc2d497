"""k-means of masked points under jit: fixed shapes and iterations, so it maps over classes and episodes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .distances import l2_normalize, squared_distances

_SAME = 1e-6  # of two points' squared norms: what rounding leaves of a distance of 0


class Clusters(NamedTuple):
    """K centres of P points of D dimensions."""

    centres: Float[Array, "K D"]
    valid: Bool[Array, " K"]  # False: there were fewer distinct points than K
    assignment: Int[Array, " P"]  # the nearest valid centre of each point, masked ones too


def kmeans(
    key: PRNGKeyArray,
    points: Float[Array, "P D"],
    mask: Bool[Array, " P"],
    clusters: int,
    *,
    iterations: int = 20,
    normalize: bool = False,
) -> Clusters:
    """Lloyd's iterations from a k-means++ start (Arthur & Vassilvitskii 2007), of the points in the mask.

    Args:
        clusters: K, static. Fewer distinct points than K give a centre each, and the rest is invalid.
        iterations: fixed; once Lloyd's have converged, more change nothing.
        normalize: bring centres to unit length after every step (spherical k-means of unit vectors).

    A cluster that loses its points keeps its centre.
    """
    if clusters < 1 or iterations < 0:
        raise ValueError(f"clusters must be at least 1, iterations at least 0, got {clusters}, {iterations}")
    # Centres of unit length are no means: their distances do not stay the same when all is shifted.
    origin = jnp.zeros_like(points[:1]) if normalize else jnp.mean(points, axis=0, keepdims=True)
    gram = jnp.matmul(points - origin, (points - origin).T, precision="highest")
    start, valid = _plus_plus(key, gram, mask, clusters)
    weights, nearest = _lloyd(points, gram, mask, start, valid, iterations, normalize)
    centres = weights @ points
    return Clusters(l2_normalize(centres) if normalize else centres, valid, nearest)


def _lloyd(
    points: Float[Array, "P D"],
    gram: Float[Array, "P P"],
    mask: Bool[Array, " P"],
    start: Float[Array, "K P"],
    valid: Bool[Array, " K"],
    iterations: int,
    normalize: bool,
) -> tuple[Float[Array, "K P"], Int[Array, " P"]]:
    """Centres as weights of the points, and the nearest one of each point."""
    few, clusters = len(points) <= points.shape[1], len(start)

    def squared(weights: Float[Array, "K P"]) -> Float[Array, "P K"]:
        """Distances to the centres, weights @ points; few points of many dimensions by their inner
        products.
        """
        if not few:
            return squared_distances(points, weights @ points)
        inner = weights @ gram
        norms = jnp.sum(inner * weights, axis=1)
        return jnp.maximum(jnp.diag(gram)[:, None] - 2 * inner.T + norms[None], 0.0)

    def nearest(weights: Float[Array, "K P"]) -> Int[Array, " P"]:
        return jnp.argmin(jnp.where(valid[None], squared(weights), jnp.inf), axis=1).astype(jnp.int32)

    def step(_: Array, weights: Float[Array, "K P"]) -> Float[Array, "K P"]:
        member = jax.nn.one_hot(nearest(weights), clusters, axis=0, dtype=points.dtype)
        member *= mask[None].astype(points.dtype)
        count = jnp.sum(member, axis=1, keepdims=True)
        means = member / jnp.maximum(count, 1.0)
        if normalize:
            means *= jax.lax.rsqrt(jnp.sum((means @ gram) * means, axis=1, keepdims=True) + 1e-12)
        return jnp.where(count > 0, means, weights)

    weights = jax.lax.fori_loop(0, iterations, step, start)
    return weights, nearest(weights)


def _plus_plus(
    key: PRNGKeyArray, gram: Float[Array, "P P"], mask: Bool[Array, " P"], clusters: int
) -> tuple[Float[Array, "K P"], Bool[Array, " K"]]:
    """Each next centre is a point, with probability ∝ its squared distance to the nearest centre so far."""
    norms = jnp.diag(gram)

    def pick(log_weight: Array, noise: Array) -> tuple[Array, tuple[Array, Array]]:
        scores = (
            log_weight + noise
        )  # Gumbel's: the largest is drawn by weight; -inf where it lies on a centre
        index = jnp.argmax(scores)
        exists = scores[index] > -jnp.inf
        both = norms + norms[index]
        away = both - 2 * gram[index]
        log_away = jnp.where(away > _SAME * both, jnp.log(jnp.maximum(away, _SAME * both)), -jnp.inf)
        log_away = jnp.where(jnp.arange(len(norms)) == index, -jnp.inf, log_away)
        chosen = jax.nn.one_hot(index, len(norms), dtype=gram.dtype)
        return jnp.where(exists, jnp.minimum(log_weight, log_away), log_weight), (chosen, exists)

    # The first is uniform: all weights start equal, above every distance.
    start = jnp.where(mask, jnp.log(jnp.finfo(gram.dtype).max), -jnp.inf).astype(gram.dtype)
    noise = jax.random.gumbel(key, (clusters, len(norms)), gram.dtype)
    _, (chosen, valid) = jax.lax.scan(pick, start, noise)
    return chosen, valid
