"""What a Delta-encoder has to be better than: differences of features added to a seed, and Gaussian noise.

Linear offset: x̂ = s + (x - y) with pairs (x, y) of seen classes, no network. Noise: x̂ = s + ε with ε of the
covariance within seen classes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .encoder import BLOCK
from .scaling import Scaling
from .synthesis import checked_seeds, draw_rows, keys_of, row_bytes, warn_of_replacement, with_seeds


@struct.dataclass
class Offsets:
    """Differences of seen pairs."""

    bank: Any  # (M, D) float32, x - y
    scaling: Scaling


@struct.dataclass
class Noise:
    """The spread within seen classes."""

    root: Any  # (D, D) float32; rootᵀ root is the covariance
    scaling: Scaling


def fit_offsets(
    features: Float[np.ndarray | Array, "N D"], references: Int[np.ndarray | Array, " N"], scaling: Scaling
) -> Offsets:
    """Of each sample x and its reference y, both scaled; see `make_pairs`."""
    x = scaling(jnp.asarray(features, jnp.float32))
    return Offsets(x - x[jnp.asarray(references)], scaling)


def fit_noise(
    features: Float[np.ndarray | Array, "N D"], labels: Int[np.ndarray | Array, " N"], scaling: Scaling
) -> Noise:
    """Pooled covariance of scaled features about their class means, over N - classes degrees of freedom.

    Raises:
        ValueError: every class has a single sample.
    """
    x = np.asarray(scaling(jnp.asarray(features, jnp.float32)), np.float64)
    names, of_class, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    if len(x) == len(names):
        raise ValueError(f"labels: all {len(names)} classes have a single sample: give more of them")
    totals = np.zeros((len(names), x.shape[1]))
    np.add.at(totals, of_class, x)
    away = x - (totals / counts[:, None])[of_class]
    values, vectors = np.linalg.eigh(away.T @ away / (len(x) - len(names)))
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return Noise(jnp.asarray(root, jnp.float32), scaling)


def synthesize_offsets(
    key: PRNGKeyArray,
    offsets: Offsets,
    seeds: Float[Array | np.ndarray, "S D"],
    count: int,
    *,
    include_seeds: bool = True,
    chunk: int | None = None,
) -> Float[Array, "S n D"]:
    """`synthesize` by linear offsets: the rows of the bank that `synthesize` would draw with this key.

    Nothing is decoded, so that `chunk` bounds nothing here.

    Raises:
        ValueError: as `synthesize`.

    Warns:
        UserWarning: as `synthesize`.
    """
    width, chunk = offsets.bank.shape[1], BLOCK if chunk is None else chunk
    seeds = checked_seeds(seeds, width, count, chunk, include_seeds, row_bytes(width, 1))
    warn_of_replacement(count, len(offsets.bank))
    return _offsets(key, offsets, seeds, count, include_seeds)


def synthesize_noise(
    key: PRNGKeyArray,
    noise: Noise,
    seeds: Float[Array | np.ndarray, "S D"],
    count: int,
    *,
    include_seeds: bool = True,
    chunk: int | None = None,
) -> Float[Array, "S n D"]:
    """`synthesize` by Gaussian noise around the seed.

    Raises:
        ValueError: as `synthesize`.
    """
    width, chunk = noise.root.shape[0], BLOCK if chunk is None else chunk
    seeds = checked_seeds(seeds, width, count, chunk, include_seeds, row_bytes(width, 1))
    return _noise(key, noise, seeds, count, include_seeds)


def generate_offsets(
    key: PRNGKeyArray, offsets: Offsets, seeds: Float[Array, "S D"], count: int
) -> Float[Array, "S count D"]:
    """`synthesize_offsets` as a pure function: seeds are scaled, and not included."""
    return seeds[:, None] + offsets.bank[draw_offsets(key, offsets, len(seeds), count)]


def generate_noise(
    key: PRNGKeyArray, noise: Noise, seeds: Float[Array, "S D"], count: int
) -> Float[Array, "S count D"]:
    """`synthesize_noise` as a pure function: seeds are scaled, and not included."""
    drawn = draw_noise(key, noise, jnp.arange(len(seeds) * count))
    return seeds[:, None] + drawn.reshape(len(seeds), count, -1)


def draw_offsets(key: PRNGKeyArray, offsets: Offsets, seeds: int, count: int) -> Int[Array, "seeds count"]:
    """Rows of the bank: distinct ones of each seed, as long as there are enough."""
    return draw_rows(keys_of(key, jnp.arange(seeds)), len(offsets.bank), count)


def draw_noise(key: PRNGKeyArray, noise: Noise, numbers: Int[Array, " B"]) -> Float[Array, "B D"]:
    """Of each number its own, whichever others are made with it."""
    width = len(noise.root)
    return jax.vmap(lambda k: jax.random.normal(k, (width,)))(keys_of(key, numbers)) @ noise.root


@partial(jax.jit, static_argnums=(3, 4))
def _offsets(
    key: PRNGKeyArray, offsets: Offsets, seeds: Float[Array, "S D"], count: int, include: bool
) -> Float[Array, "S n D"]:
    scaled = offsets.scaling(seeds)
    return with_seeds(scaled, generate_offsets(key, offsets, scaled, count), include)


@partial(jax.jit, static_argnums=(3, 4))
def _noise(
    key: PRNGKeyArray, noise: Noise, seeds: Float[Array, "S D"], count: int, include: bool
) -> Float[Array, "S n D"]:
    scaled = noise.scaling(seeds)
    return with_seeds(scaled, generate_noise(key, noise, scaled, count), include)
