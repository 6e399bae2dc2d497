"""Episodes as one compiled function: a method learns from the support and judges the regions of queries."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from .detector import Net
from .methods import DetectionMethod
from .pool import DetectionPool
from .regions import Regions
from .score import Found, Scoring, region_scores, suppress
from .support import SupportBoxes


class PoolArrays(NamedTuple):
    """Of the pool, on the device."""

    regions: Regions
    features: Array
    boxes: Array
    images: Array | None


class Part(NamedTuple):
    """Of a block of episodes."""

    keys: Key[Array, " E"]
    known: Array  # (E, W) int32, number of each class among those that the detector was trained on, or -1
    support: Array
    slots: Array
    shown: Array
    queries: Array


class Out(NamedTuple):
    found: Found  # (E, Q, K)
    missing: Bool[Array, "E W"]
    failed: Bool[Array, "E Q"]


def on_device(pool: DetectionPool, images: bool) -> PoolArrays:
    """A pool's arrays; its images where a method looks at them itself."""
    return PoolArrays(
        Regions(*map(jnp.asarray, pool.regions)),
        jnp.asarray(pool.features),
        jnp.asarray(pool.photographs.boxes),
        jnp.asarray(pool.photographs.images) if images else None,
    )


@partial(jax.jit, static_argnums=(5, 6, 7, 8, 9))
def run_episodes(
    part: Part,
    arrays: PoolArrays,
    params: Any,
    given: Regions | None,
    pictures: Array | None,
    method: DetectionMethod,
    net: Net,
    size: tuple[int, int],
    scoring: Scoring,
    chunk: int,
) -> Out:
    """Of a block of E episodes.

    Args:
        params, net: of the detector.
        given: regions (E, Q, R, ...) of query images; None: those of the photographs of the pool.
        pictures: these images, for a method that looks at them itself.
        size: height and width of the query images.
        chunk: episodes at once.
    """
    ways = part.support.shape[1]

    def one(item: tuple[Part, Regions | None, Array | None]) -> Out:
        episode, queries, images = item
        rows, slots = episode.support.reshape(-1), episode.slots.reshape(-1)
        labels = jnp.where(episode.shown, jnp.arange(ways, dtype=jnp.int32)[:, None], ways).reshape(-1)
        shown = SupportBoxes(
            arrays.features[rows, slots],
            arrays.boxes[rows, slots],
            labels,
            rows,
            Regions(*(leaf[rows] for leaf in arrays.regions)),
            episode.known,
            None if arrays.images is None else arrays.images[rows],
        )
        model = method.fit(episode.keys, params, shown, ways)

        def of(regions: Regions) -> tuple[Found, Array]:
            log_p, background, boxes = region_scores(method, params, model, net, regions, size)
            failed = jnp.any(jnp.isnan(log_p[:, :ways]) & regions.mask[:, None])
            return suppress(log_p[:, :ways], background, boxes, jnp.asarray(regions.mask), scoring), failed

        if method.regions is not None:
            if images is None:
                assert arrays.images is not None  # see on_device
                images = arrays.images[episode.queries]
            again = method.regions
            queries = jax.lax.map(
                lambda image: jax.tree.map(lambda leaf: leaf[0], again(params, model, image[None])), images
            )
        elif queries is None:
            queries = Regions(*(leaf[episode.queries] for leaf in arrays.regions))
        found, failed = jax.vmap(of)(queries)
        missing = jnp.zeros(ways, bool) if method.missing is None else method.missing(model)
        return Out(found, missing, failed)

    items = part, given, pictures
    return jax.lax.map(one, items) if chunk == 1 else jax.lax.map(one, items, batch_size=chunk)
