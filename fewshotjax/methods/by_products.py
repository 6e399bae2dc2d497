"""Methods to which only distances matter, told from the inner products of an episode's examples.

All products are about one origin, which need not be zero: nothing here may depend on lengths or angles.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .means import prototypes
from .method import Labels, Method
from .neighbours import nearest_neighbour, of_nearest


class Products(NamedTuple):
    support: Float[Array, "S S"]
    query: Float[Array, "Q S"]  # of queries with the support
    squares: Float[Array, " Q"]  # of queries with themselves


# products, labels (S,), ways -> log-probabilities (Q, ways)
ByProducts = Callable[[Products, Labels, int], Float[Array, "Q ways"]]


def by_products(method: Method) -> ByProducts | None:
    """What gives the method's log-probabilities from products; None where nothing here does."""
    return _KNOWN.get((method.fit, method.predict))


def _means(products: Products, labels: Labels, ways: int) -> Float[Array, "Q ways"]:
    # -‖q - c_k‖² = 2 q·c_k - c_k·c_k - q·q, with c_k = Σ_i a_ik z_i, and the last the same for all k.
    member = jax.nn.one_hot(labels, ways, dtype=products.support.dtype)
    share = member / member.sum(axis=0)[None]
    to_means = jnp.matmul(products.query, share, precision="highest")
    squares = jnp.sum(jnp.matmul(products.support, share, precision="highest") * share, axis=0)
    return jax.nn.log_softmax(2 * to_means - squares[None], axis=-1)


def _nearest(products: Products, labels: Labels, ways: int) -> Float[Array, "Q ways"]:
    own = jnp.diagonal(products.support)
    squared = products.squares[:, None] + own[None] - 2 * products.query
    return of_nearest(squared, jax.nn.one_hot(labels, ways, dtype=own.dtype))


_KNOWN: dict[tuple[Callable, Callable], ByProducts] = {
    prototypes()[:2]: _means,
    nearest_neighbour()[:2]: _nearest,
}
