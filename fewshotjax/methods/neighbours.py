"""Methods that keep the support itself: nearest neighbour and matching networks' attention."""

from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..distances import l2_normalize, squared_distances
from .method import Labels, Method


@cache
def nearest_neighbour() -> Method:
    """The class of the nearest example; log p ∝ -min_i ‖z - z_i‖² over the examples of a class."""

    def predict(
        model: tuple[Float[Array, "S D"], Float[Array, "S ways"]], queries: Float[Array, "Q D"]
    ) -> Float[Array, "Q ways"]:
        support, member = model
        return of_nearest(squared_distances(queries, support), member)

    return Method(_keep, predict)


def of_nearest(squared: Float[Array, "Q S"], member: Float[Array, "S ways"]) -> Float[Array, "Q ways"]:
    """The log-probabilities of `nearest_neighbour`, given the squared distances."""
    nearest = jnp.min(jnp.where(member.T[None] > 0, squared[:, None, :], jnp.inf), axis=2)
    return jax.nn.log_softmax(-nearest, axis=1)


@cache
def matching(temperature: float = 1.0) -> Method:
    """Σ_i softmax_i(cos(z, z_i) / t)·[y_i = k]   (Vinyals et al. 2016, Eq. 1, without full-context
    embeddings).

    Args:
        temperature: t; the paper has 1, which makes nearly equal weights. Cosines sum over a class's
            examples, so classes with more examples weigh more.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")

    def predict(
        model: tuple[Float[Array, "S D"], Float[Array, "S ways"]], queries: Float[Array, "Q D"]
    ) -> Float[Array, "Q ways"]:
        support, member = model
        cosine = (l2_normalize(queries) @ l2_normalize(support).T) / temperature
        per_class = jnp.where(member.T[None] > 0, cosine[:, None, :], -jnp.inf)
        return jax.nn.log_softmax(jax.nn.logsumexp(per_class, axis=2), axis=1)

    return Method(_keep, predict)


def _keep(
    key: PRNGKeyArray, support: Float[Array, "S D"], labels: Labels, ways: int
) -> tuple[Float[Array, "S D"], Float[Array, "S ways"]]:
    return support, jax.nn.one_hot(labels, ways, dtype=support.dtype)
