"""The classes that a detector was trained on, found by the representatives that training learned."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from ..repmet_model import representatives
from .data.boxed import BoxedImages
from .detector import Detector, Net
from .methods.repmet import judged
from .metrics.records import Detections
from .metrics.voc import voc_ap
from .regions import regions_of
from .score import Found, scoring_of, suppress

CHUNK = 8  # images at once


def base_detections(detector: Detector, images: UInt8[np.ndarray, "N H W C"]) -> Detections:
    """What it finds of its own classes in images of one size; the scores are RepMet's posterior.

    Episodes do not look at this; it says how a training goes.
    """
    parts = []
    for start in range(0, len(images), CHUNK):
        some = images[start : start + CHUNK]
        count = len(some)
        full = np.concatenate([some, np.zeros((CHUNK - count, *images.shape[1:]), np.uint8)])
        found = jax.device_get(_found(detector.params, detector.net, jnp.asarray(full)))
        parts.append(jax.tree.map(lambda leaf, count=count: leaf[:count], found))
    every: Any = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    row, slot = np.nonzero(every.valid)
    labels, scores, boxes = (each[row, slot] for each in (every.labels, every.scores, every.boxes))
    return Detections(row, labels, scores, boxes)


def base_error(detector: Detector, held: BoxedImages) -> float:
    """1 - mean AP at IoU .5 (VOC's, all points) on images of one size with boxes of its classes."""
    found = base_detections(detector, np.asarray(held.images))
    truth = held.truth()
    return 1.0 - float(voc_ap(found, replace(truth, difficult=truth.left_out), iou=0.5).mean_ap)


@partial(jax.jit, static_argnums=(1,))
def _found(params: Any, net: Net, images: UInt8[Array, "B H W C"]) -> Found:
    regions = regions_of(params, net, images)
    every = representatives(params["repmet"], net.config.head)

    def one(features: Array, boxes: Array, mask: Array) -> Found:
        log_p, background = judged(params, net, every, features)
        return suppress(log_p, background, boxes, mask, scoring_of(net.config))

    return jax.vmap(one)(*map(jnp.asarray, (regions.features, regions.boxes, regions.mask)))
