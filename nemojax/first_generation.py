"""What a search starts from."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from .configuration import SCHEMA as BITS_SCHEMA, load_bits
from .front import Front
from .space import BitSpace
from .task import Task


def initial_bits(key: jax.Array, space: BitSpace, count: int) -> Int[np.ndarray, "count n"]:
    """Every uniform configuration, then uniform ones with noise on each quantizer.

    Departs from drawing each bit-width by itself: of 110 quantizers drawn from 2-8 bits some are always at
    2, which ruins the network, so such a generation holds no usable configuration. Here a member has a level
    of its own, uniform between the lowest and highest bit-width, and a spread of its own, uniform in 0-1 bit;
    every quantizer is N(level, spread²) bits, rounded to an allowed one.
    """
    k_level, k_spread, k_noise = jax.random.split(key, 3)
    free = [bits for bits in space.allowed if len(bits) > 1] or list(space.allowed)  # pins set no level
    widths = sorted({b for bits in free for b in bits})
    low, high = float(widths[0]), float(widths[-1])
    level = jax.random.uniform(k_level, (count, 1), minval=low, maxval=high)
    spread = jax.random.uniform(k_spread, (count, 1))
    genes = level + spread * jax.random.normal(k_noise, (count, space.size))
    drawn = np.asarray(jax.vmap(space.nearest)(genes))
    uniform = np.unique(np.stack([space.uniform(b) for b in widths]), axis=0)[:count]
    return np.concatenate([uniform, drawn[len(uniform) :]])


def uniform_bits(task: Task) -> Int[np.ndarray, "k n"]:
    """The configurations with one bit-width everywhere, as far as the space allows; one row each."""
    space = task.space
    return np.unique(np.stack([space.uniform(b) for b in space.widths]), axis=0)


def seeds_of(path: str | os.PathLike[str], space: BitSpace) -> Int[np.ndarray, "k n"]:
    """Configurations of a file of `save_bits` or `Front.to_json`, for this space.

    Raises:
        ValueError: it is neither, or of other quantizers.
    """
    try:
        schema = json.loads(Path(path).read_text(encoding="utf-8")).get("schema", "")
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{path} is no JSON of save_bits or Front.to_json") from None
    if schema == BITS_SCHEMA:
        return load_bits(path, space.names).bits[None]
    front = Front.from_json(path)
    if front.names != space.names:
        raise ValueError(f"{path} is of other quantizers than this search: use a front of the same network")
    return front.bits


def fitted(space: BitSpace, bits: Int[np.ndarray, "k n"]) -> Int[np.ndarray, "k n"]:
    """Each configuration moved to the nearest one that the space allows.

    Raises:
        ValueError: configurations of another number of quantizers.
    """
    if np.ndim(bits) != 2 or np.shape(bits)[1] != space.size:
        raise ValueError(f"seeds has shape {np.shape(bits)}, this search's are (k, {space.size})")
    return np.asarray(jax.vmap(space.snap)(jnp.asarray(bits, jnp.int32)))
