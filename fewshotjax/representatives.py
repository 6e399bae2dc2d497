"""Representatives: K modes per class in the embedding space, learned or read off a few examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .distances import l2_normalize
from .kmeans import kmeans


class Representatives(NamedTuple):
    """What few-shot models keep of N classes; a pytree."""

    modes: Float[Array, "N K D"]
    mask: Bool[Array, "N K"]  # which modes exist


def fit_representatives(
    key: PRNGKeyArray,
    embeddings: Float[Array, "S D"],
    labels: Int[Array | np.ndarray, " S"],
    ways: int,
    modes: int,
    *,
    normalize: bool = True,
    iterations: int = 20,
) -> Representatives:
    """Modes of new classes from the embeddings of their examples, as RepMet does for an episode.

    A class with up to K examples has those as its modes, and the rest masked; one with more has the centres
    of k-means. (The authors' code fills missing modes with a constant vector, which attracts embeddings.)

    Args:
        labels: 0 to ways - 1; others are left out. A class without examples gets no mode. As a NumPy array
            they are known while tracing, and no k-means is compiled where no class has more than K.
        modes: K, static.
        normalize: bring the modes to unit length.
        iterations: of k-means.
    """
    if modes < 1:
        raise ValueError(f"modes must be at least 1, got {modes}")
    if len(labels) != len(embeddings):
        raise ValueError(f"labels are {len(labels)}, embeddings {len(embeddings)}: give one label for each")
    most = len(labels)
    if isinstance(labels, np.ndarray):
        most = max(int((labels == way).sum()) for way in range(ways))
    # The first K examples of each class, in their order.
    member = jnp.asarray(labels, jnp.int32)[None, :] == jnp.arange(ways, dtype=jnp.int32)[:, None]
    order = jnp.argsort(~member, axis=1, stable=True)[:, :modes]
    first = embeddings[order]
    count = jnp.sum(member, axis=1)
    mask = jnp.arange(order.shape[1])[None] < count[:, None]
    missing = modes - order.shape[1]  # above 0: fewer examples in all than modes
    first = jnp.pad(first, ((0, 0), (0, missing), (0, 0)))
    mask = jnp.pad(mask, ((0, 0), (0, missing)))
    if most <= modes:
        return Representatives(l2_normalize(first) if normalize else first, mask)

    def centres(key: PRNGKeyArray, member: Bool[Array, " S"]) -> tuple[Array, Array]:
        found = kmeans(key, embeddings, member, modes, iterations=iterations, normalize=normalize)
        return found.centres, found.valid

    found, valid = jax.vmap(centres)(jax.random.split(key, ways), member)
    many = count > modes
    first = jnp.where(many[:, None, None], found, first)
    return Representatives(l2_normalize(first) if normalize else first, jnp.where(many[:, None], valid, mask))
