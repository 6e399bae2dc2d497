"""Episodes as one compiled function: a method learns from the support and judges the regions of queries."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from .assign import on_ignored
from .boxes import pairwise_iou
from .detector import Net
from .episode_truth import LEFT_OUT, NOTHING, OBJECT
from .methods import DetectionMethod
from .pool import DetectionPool
from .regions import Regions
from .score import Found, Scoring, region_scores, suppress
from .support import SupportBoxes

_IOU = 0.5  # from which on a region is one of an object


class PoolArrays(NamedTuple):
    """Of the pool, on the device."""

    regions: Regions
    features: Array
    boxes: Array
    images: Array | None
    ignored: Array | None  # (N, I, 4), 0 where there is nothing to ignore; None: nowhere


class Part(NamedTuple):
    """Of a block of episodes."""

    keys: Key[Array, " E"]
    known: Array  # (E, W, P) int32, number of each class among those that the detector was trained on, or -1
    support: Array
    slots: Array
    shown: Array
    queries: Array
    truth: Array  # (E, Q, G, 4), true boxes of the queries
    kind: Array  # (E, Q, G) int8, see `episode_truth`


class Out(NamedTuple):
    found: Found  # (E, Q, K)
    missing: Bool[Array, "E W"]
    failed: Bool[Array, "E Q"]
    background: Float[Array, "E Q R"] | None  # log-probability that a region is of none of the classes
    met: Int[Array, "E Q R"]  # int8: OBJECT: an object of the episode, NOTHING, LEFT_OUT: do not count it


def on_device(pool: DetectionPool, images: bool) -> PoolArrays:
    """A pool's arrays; its images where a method looks at them itself."""
    return PoolArrays(
        Regions(*map(jnp.asarray, pool.regions)),
        jnp.asarray(pool.features),
        jnp.asarray(pool.photographs.boxes),
        jnp.asarray(pool.photographs.images) if images else None,
        None if (ignored := pool.photographs.ignored_boxes()) is None else jnp.asarray(ignored),
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
            episode.known[:, 0] if episode.known.shape[1] == 1 else episode.known,
            None if arrays.images is None else arrays.images[rows],
            None if arrays.ignored is None else arrays.ignored[rows],
        )
        model = method.fit(episode.keys, params, shown, ways)

        def of(regions: Regions, truth: Array, kind: Array) -> tuple[Any, ...]:
            log_p, background, boxes = region_scores(method, params, model, net, regions, size)
            mask = jnp.asarray(regions.mask)
            failed = jnp.any(jnp.isnan(log_p[:, :ways]) & mask[:, None])
            found = suppress(log_p[:, :ways], background, boxes, mask, scoring)
            return found, failed, background, _met(boxes, mask, truth, kind, net.config.ignored_overlap)

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
        found, failed, none, met = jax.vmap(of)(queries, episode.truth, episode.kind)
        missing = jnp.zeros(ways, bool) if method.missing is None else method.missing(model)
        return Out(found, missing, failed, none, met)

    items = part, given, pictures
    return jax.lax.map(one, items) if chunk == 1 else jax.lax.map(one, items, batch_size=chunk)


def _met(
    boxes: Float[Array, "R 4"],
    mask: Bool[Array, " R"],
    truth: Float[Array, "G 4"],
    kind: Int[Array, " G"],
    overlap: float,
) -> Int[Array, " R"]:
    """Which regions are of an object of the episode, at IoU .5; those on crowds and difficult ones, and those
    that do not exist, are left out.
    """
    on = jnp.any((pairwise_iou(boxes, truth) >= _IOU) & (kind == OBJECT)[None], axis=1)
    near = on_ignored(boxes, truth, kind == LEFT_OUT, inside=overlap, iou=_IOU)
    met = jnp.where(on, OBJECT, jnp.where(near, LEFT_OUT, NOTHING))
    return jnp.where(mask, met, LEFT_OUT).astype(jnp.int8)
