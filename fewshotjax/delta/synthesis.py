"""Samples of a class seen once: changes between seen samples, applied to the one example of a new class.

For each seed s, x̂ = D(s, z) with codes z of distinct seen pairs, dropout off (Schwartz et al. 2018;
the authors' code draws 1024 // shots of them anew for every seed, and keeps the seeds among the samples).
"""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..devices import check_mesh, pieces, sharded
from ..episodes import distinct
from .config import DeltaConfig
from .encoder import BLOCK, DeltaEncoder
from .model import decode_from, seed_part

CODES = ("pairs", "noise", "normal")
MOST_BYTES = 4 * 2**30  # of what one call holds


def synthesize(
    key: PRNGKeyArray,
    delta: DeltaEncoder,
    seeds: Float[Array | np.ndarray, "S D"],
    count: int,
    *,
    codes: str = "pairs",
    include_seeds: bool = True,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "S n D"]:
    """Samples of the class of each seed, in the space of `delta.scaling`: scale your queries by it, too.

    With the seeds' labels, `labels.repeat(samples.shape[1])` are those of `samples.reshape(-1, D)`::

        samples = synthesize(key, delta, seeds, 1024 // shots)

    Args:
        seeds: examples of new classes, unscaled; every one gets `count` samples of its own draw.
        count: samples of each seed; 0: none. The authors' is 1024 // shots.
        codes: "pairs": of distinct seen pairs; "noise": z ~ N(0, I); "normal": z of a normal distribution
            with mean and covariance of the seen pairs' codes.
        include_seeds: put the scaled seed before its samples: n = count + 1.
        chunk: samples whose hidden units are alive at once; None: 512. Bounds the memory, not the result.
        mesh: devices that share the seeds by its one axis, "pop", each in blocks of its own. The same codes;
            where another number of seeds makes blocks of another size, the samples agree to 1e-5 (absolute).

    Raises:
        ValueError: seeds of another width or not finite, a negative count, no such `codes`, more than
            4 GiB, or a mesh of other axes.

    Warns:
        UserWarning: `count` is above the number of seen pairs, so that they are drawn with replacement.
    """
    chunk = BLOCK if chunk is None else chunk
    each = row_bytes(delta.width, delta.config.code)
    seeds = checked_seeds(seeds, delta.width, count, chunk, include_seeds, each)
    if codes not in CODES:
        raise ValueError(f"codes must be one of {', '.join(CODES)}, got {codes!r}")
    if codes == "pairs":
        warn_of_replacement(count, len(delta.bank))
    check_mesh(mesh)
    return _synthesize(key, delta, seeds, count, codes, include_seeds, chunk, mesh)


@partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _synthesize(
    key: PRNGKeyArray,
    delta: DeltaEncoder,
    seeds: Float[Array, "S D"],
    count: int,
    codes: str,
    include_seeds: bool,
    chunk: int,
    mesh: Mesh | None,
) -> Float[Array, "S n D"]:
    scaled = delta.scaling(seeds)
    made = generate(key, delta, scaled, count, codes=codes, chunk=chunk, mesh=mesh)
    return with_seeds(scaled, made, include_seeds)


def generate(
    key: PRNGKeyArray,
    delta: DeltaEncoder,
    seeds: Float[Array, "S D"],
    count: int,
    *,
    codes: str = "pairs",
    chunk: int = BLOCK,
    mesh: Mesh | None = None,
) -> Float[Array, "S count D"]:
    """`synthesize` as a pure function, for use under jit and vmap: seeds are scaled, and not included."""
    found = draw_codes(key, delta.bank, len(seeds), count, codes)
    if not len(seeds) * count:
        return jnp.zeros((len(seeds), count, delta.width), seeds.dtype)
    if mesh is None:
        return _in_groups(delta, seeds, found, chunk)
    rows = jnp.minimum(jnp.arange(-(-len(seeds) // pieces(mesh)) * pieces(mesh)), len(seeds) - 1)

    def own(delta: DeltaEncoder, items: tuple[Array, Array]) -> Array:
        return _in_groups(delta, *items, chunk)

    return sharded(own, mesh)(delta, (seeds[rows], found[rows]))[: len(seeds)]


def _in_groups(
    delta: DeltaEncoder, seeds: Float[Array, "S D"], codes: Float[Array, "S count code"], chunk: int
) -> Float[Array, "S count D"]:
    count = codes.shape[1]
    if len(seeds) <= chunk:
        return _of_seeds(delta, seeds, codes, chunk)
    # Their parts alone would take much memory: group after group, the last filled with the last seed.
    groups = jnp.minimum(jnp.arange(-(-len(seeds) // chunk) * chunk), len(seeds) - 1).reshape(-1, chunk)
    made = jax.lax.map(lambda own: _of_seeds(delta, seeds[own], codes[own], chunk), groups)
    return made.reshape(-1, count, delta.width)[: len(seeds)]


def _of_seeds(
    delta: DeltaEncoder, seeds: Float[Array, "S D"], codes: Float[Array, "S count code"], chunk: int
) -> Float[Array, "S count D"]:
    """A block of rows after the other, the last filled with the last row."""
    seeds_count, count, width = codes.shape
    parts, flat, total = seed_part(delta.params, seeds), codes.reshape(-1, width), seeds_count * count
    size = min(chunk, total)
    rows = jnp.minimum(jnp.arange(-(-total // size) * size), total - 1).reshape(-1, size)

    def block(own: Int[Array, " size"]) -> Float[Array, "size D"]:
        return synthesize_rows(delta.params, delta.config, parts[own // count], flat[own])

    return jax.lax.map(block, rows).reshape(-1, delta.width)[:total].reshape(seeds_count, count, -1)


def synthesize_rows(
    params: Any, config: DeltaConfig, parts: Float[Array, "#R hidden"], codes: Float[Array, "R code"]
) -> Float[Array, "R D"]:
    """One sample for each code, for use inside a scan that needs a few at a time: no samples are kept.

    Args:
        parts: `seed_part` of the seed of each row, or of one seed.
        codes: rows of `draw_codes`.
    """
    return decode_from(params, config, parts, codes)


def draw_codes(
    key: PRNGKeyArray, bank: Float[Array, "M code"], seeds: int, count: int, codes: str = "pairs"
) -> Float[Array, "seeds count code"]:
    """A draw of `count` codes for each seed, which does not depend on the number of seeds.

    "pairs": distinct rows of the bank, uniformly; with replacement where `count` is above M.
    """
    keys = keys_of(key, jnp.arange(seeds))
    if codes == "pairs":
        return bank[draw_rows(keys, len(bank), count)]
    noise = jax.vmap(lambda k: jax.random.normal(k, (count, bank.shape[1]), bank.dtype))(keys)
    if codes == "noise":
        return noise
    if codes != "normal":
        raise ValueError(f"codes must be one of {', '.join(CODES)}, got {codes!r}")
    mean = jnp.mean(bank, axis=0, keepdims=True)
    # Any root of the covariance does: that of the centred bank's QR decomposition squares no rounding.
    root = jnp.linalg.qr((bank - mean) / jnp.sqrt(jnp.asarray(max(1, len(bank) - 1), bank.dtype)), mode="r")
    return mean[None] + noise[:, :, : root.shape[0]] @ root


def keys_of(key: PRNGKeyArray, numbers: Int[Array, " n"]) -> Array:
    """(n,) keys: one of each number, of a seed or a sample, whichever others there are."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)


def draw_rows(keys: Array, most: int, count: int) -> Array:
    """(S, count) int32 rows below `most` for each of S keys: distinct, or with replacement above `most`."""
    if count == 0:
        return jnp.zeros((len(keys), 0), jnp.int32)
    if count > most:
        return jax.vmap(lambda k: jax.random.randint(k, (count,), 0, most))(keys)
    size = jnp.asarray(most, jnp.int32)
    return jax.vmap(lambda k: distinct(jax.random.bits(k, (count,), jnp.uint32), size))(keys)


def with_seeds(
    seeds: Float[Array, "S D"], samples: Float[Array, "S count D"], include: bool
) -> Float[Array, "S n D"]:
    """The seed before its samples, or these alone."""
    return jnp.concatenate([seeds[:, None], samples], axis=1) if include else samples


def warn_of_replacement(count: int, most: int) -> None:
    if count > most:
        warnings.warn(
            f"count is {count}, but there are {most} seen pairs: they are drawn with replacement",
            stacklevel=3,
        )


def row_bytes(width: int, code: int) -> int:
    """What a sample takes: twice its features, and its code four times, while it is drawn and decoded."""
    return 8 * width + 16 * code


def checked_seeds(
    seeds: Float[Array | np.ndarray, "S D"],
    width: int,
    count: int,
    chunk: int,
    include_seeds: bool,
    each: int,
) -> Float[Array, "S D"]:
    """The seeds as float32 on the device, or a ValueError that says what is wrong with the request.

    Args:
        each: bytes that a sample takes.
    """
    if seeds.ndim != 2 or seeds.shape[1] != width:
        raise ValueError(f"seeds are of shape {seeds.shape}, this is of features (S, {width})")
    if not np.isfinite(np.asarray(seeds)).all():
        raise ValueError("seeds hold NaN or infinite values: leave such examples out")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, or None, got {chunk}")
    needed = len(seeds) * (count + include_seeds) * each
    if needed > MOST_BYTES:
        raise ValueError(
            f"count is {count} for {len(seeds)} seeds of width {width}: {needed / 2**30:.1f} GiB. "
            "Synthesize fewer at a time, or in a scan with synthesize_rows"
        )
    return jnp.asarray(seeds, jnp.float32)
