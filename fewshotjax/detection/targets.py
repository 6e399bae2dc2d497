"""What the support photographs' regions are trained for in an episode: labels and codes by IoU."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .assign import assign_proposals, on_ignored
from .boxes import encode
from .config import DetectorConfig
from .region_losses import Targets
from .support import SupportBoxes


class SupportRegions(NamedTuple):
    """M regions of all support photographs."""

    features: Float[Array, "M F"]
    labels: Int[Array, " M"]  # 0 to W - 1, W: background
    codes: Float[Array, "M 4"]  # of the box that it is on; 0 of the background
    front: Bool[Array, " M"]  # of a class
    weight: Float[Array, " M"]  # in a mean, of sum 1; 0 where there is none


def support_targets(
    shown: SupportBoxes, ways: int, config: DetectorConfig, background: int | None = None
) -> Targets:
    """(B, R + 1) for each support box: the regions of its photograph, labelled by all support boxes there,
    and the box itself.

    What else is in the photograph was not shown, and counts as background, but for what lies on crowds and
    difficult objects (`on_ignored`), which is not in the mask.

    Args:
        background: its label; None: W.
    """
    there = shown.labels < ways
    none = ways if background is None else background

    def one(
        proposals: Any, mask: Any, box: Array, exists: Array, photograph: Array, ignored: Array | None
    ) -> Targets:
        boxes = jnp.concatenate([proposals, box[None]])
        inside = jnp.append(mask, True) & exists
        same = there & (shown.photograph == photograph)
        found = assign_proposals(
            boxes,
            inside,
            shown.boxes,
            shown.labels,
            same,
            background=none,
            foreground=config.region_foreground,
        )
        front = inside & (found.label < ways)
        if ignored is not None:
            levels = {"inside": config.ignored_overlap, "iou": config.region_foreground}
            inside &= front | ~on_ignored(boxes, ignored, jnp.ones(len(ignored), bool), **levels)
        codes = encode(shown.boxes[found.matched], boxes, config.box_stds)
        labels = jnp.where(inside, found.label, none)
        return Targets(boxes, labels, jnp.where(front[:, None], codes, 0.0), front, inside)

    regions = shown.regions
    return jax.vmap(one)(regions.proposals, regions.mask, shown.boxes, there, shown.photograph, shown.ignored)


def joined_features(shown: SupportBoxes) -> Float[Array, "B N F"]:
    """Of `support_targets`' regions."""
    return jnp.concatenate([shown.regions.features, shown.features[:, None]], axis=1)


def support_regions(
    shown: SupportBoxes, ways: int, config: DetectorConfig, regions: int, share: float
) -> SupportRegions:
    """Up to `regions` of each support box's photograph: those on its boxes, then the likeliest objects.

    Args:
        share: weight of the classes' regions in the mean, against the background's.
    """
    targets = support_targets(shown, ways, config)
    objects = jnp.pad(shown.regions.objectness, ((0, 0), (0, 1)))
    rank = jnp.where(targets.foreground, 2.0, objects)
    _, index = jax.lax.top_k(jnp.where(targets.mask, rank, -1.0), min(regions, rank.shape[1]))

    def taken(each: Array) -> Array:
        rows = index.reshape(*index.shape, *[1] * (each.ndim - 2))
        found = jnp.take_along_axis(each, rows, axis=1)
        return found.reshape(-1, *each.shape[2:])

    labels, mask, front = map(taken, (targets.labels, targets.mask, targets.foreground))
    weight = _weights(front, mask & ~front, share)
    return SupportRegions(taken(joined_features(shown)), labels, taken(targets.codes), front, weight)


def missing_of(shown: SupportBoxes, ways: int) -> Bool[Array, " W"]:
    """Classes without a box."""
    return ~jnp.any(shown.labels[None] == jnp.arange(ways)[:, None], axis=1)


def _weights(front: Bool[Array, " M"], back: Bool[Array, " M"], share: float) -> Float[Array, " M"]:
    """Of sum 1: `share` for the first, the rest for the second; all for one where the other is empty."""
    of_front, of_back = (
        each.astype(jnp.float32) / jnp.maximum(jnp.sum(each), 1).astype(jnp.float32) for each in (front, back)
    )
    weight = share * of_front + (1 - share) * of_back
    return weight / jnp.maximum(jnp.sum(weight), 1e-12)
