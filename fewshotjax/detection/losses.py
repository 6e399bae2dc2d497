"""The loss of a detector: five parts, of a batch of images with padded boxes.

    L = w_o·BCE(objectness) + w_a·smooth L1(anchors' codes)                        proposal network
        + w_c·(CE(posterior) + w_e·embedding loss + w_l·CE(linear classifier))     RepMet's head
        + w_b·smooth L1(regions' codes)                                            box head

Read in the RepMet authors' released code (Karlinsky et al. 2019) where nothing else is said. They train with
one image a device and divide by fixed numbers, 512 regions for the head. Here a batch is summed and divided
by how many anchors were sampled and regions kept, which is the same where all places are filled; the
embedding's and the linear loss, which only foreground has, by the foreground (`per_foreground`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ..repmet_model import RepMetConfig, apart_loss as between, representatives
from .anchors import anchors
from .boxes import pairwise_iou
from .detector import Net, box_codes, feature_maps, pool, propose, rpn, trunk
from .region_losses import RegionLosses, Targets, keep_hardest, region_losses, region_targets
from .rpn_losses import rpn_sums

SURE = 0.999  # of the background's posterior


class Truth(NamedTuple):
    """True boxes of B images, padded to G."""

    boxes: Float[Array, "*batch G 4"]  # half-open pixels
    labels: Int[Array, "*batch G"]  # 0 to N - 1
    shown: Bool[Array, "*batch G"]  # False: padding, or to be ignored
    # Boxes that are not shown, but crowds or difficult: what lies on them is no background. None: none are.
    ignored: Bool[Array, "*batch G"] | None = None


class Losses(NamedTuple):
    """What the loss is made of, unweighted, and what it says; () float32 each."""

    loss: Float[Array, ""]  # the weighted sum
    objectness: Float[Array, ""]
    anchor_box: Float[Array, ""]
    posterior: Float[Array, ""]
    embedding: Float[Array, ""]
    linear: Float[Array, ""]
    box: Float[Array, ""]
    apart: Float[Array, ""]  # the loss between representatives, see RepMetConfig.representative_weight
    anchors: Float[Array, ""]  # foreground among the sampled anchors of an image
    foreground: Float[Array, ""]  # regions of an image that show an object, of those kept
    right: Float[Array, ""]  # share of them whose class is the likeliest, background counted as a class
    lost: Float[Array, ""]  # share of them with a background above 0.999; all, with a tiny σ: none learns
    recall: Float[Array, ""]  # share of true boxes that a proposal meets at IoU `region_foreground`


def detector_loss(
    key: PRNGKeyArray, params: Any, net: Net, images: UInt8[Array, "B H W C"], truth: Truth
) -> tuple[Float[Array, ""], Losses]:
    """The loss of a batch and its parts. The proposals have no gradient.

    Args:
        key: decides which anchors are sampled.
        params: a detector's.
        truth: an image without boxes trains background alone: objectness, posterior.

    With `config.hardest`, all regions are looked at once without a gradient, and the hardest again with one.
    """
    config, size = net.config, (images.shape[1], images.shape[2])
    classes = len(representatives(params["repmet"], config.head).modes)
    maps = feature_maps(params, net, images)
    found = rpn(params, net, maps)
    places = anchors(*size, config.anchors)

    def of_anchors(
        key: Array, logits: Array, codes: Array, boxes: Array, shown: Array, ignored: Array | None
    ) -> Any:
        return rpn_sums(key, config, places, logits, codes, boxes, shown, size, ignored)

    keys = jax.random.split(key, len(images))
    first = jax.vmap(of_anchors)(keys, found.logits, found.codes, truth.boxes, truth.shown, truth.ignored)
    proposals = propose(net, found, *size)

    def of_regions(*one: Any) -> Targets:
        return region_targets(config, classes, *one)

    targets = jax.vmap(of_regions)(proposals.boxes, proposals.mask, *truth)
    if config.hardest is not None and config.hardest < targets.mask.shape[1]:
        still, seen = jax.lax.stop_gradient((params, maps))
        ranked = _losses(still, net, seen, targets)
        count = config.hardest
        targets = jax.vmap(lambda t, r: keep_hardest(t, r, count))(targets, ranked)
    each = _losses(params, net, maps, targets)

    total: Any = jax.tree.map(jnp.sum, first)
    kept, front = _count(targets.mask), _count(targets.foreground)
    divisor = jnp.maximum(front if config.per_foreground else kept, 1.0)
    sampled = jnp.maximum(total.sampled, 1.0)
    parts = {
        "objectness": total.objectness / sampled,
        "anchor_box": total.box / sampled,
        "posterior": jnp.sum(each.posterior) / jnp.maximum(kept, 1.0),
        "embedding": jnp.sum(each.embedding) / divisor,
        "linear": jnp.sum(each.linear) / divisor,
        "box": jnp.sum(each.box) / jnp.maximum(kept, 1.0),
        "apart": _apart(params["repmet"], config.head),
    }
    head = config.head
    weights = {
        "objectness": config.rpn_weight,
        "anchor_box": config.rpn_box_weight,
        "posterior": config.class_weight,
        "embedding": config.class_weight * head.embedding_weight,
        "linear": config.class_weight * head.linear_weight,
        "box": config.box_weight,
        "apart": config.class_weight * head.representative_weight,
    }
    loss = jnp.asarray(sum(weight * parts[name] for name, weight in weights.items()))
    lost = targets.foreground & (each.background > jnp.log(SURE))
    told = {
        "anchors": total.foreground / len(images),
        "foreground": front / len(images),
        "right": _count(targets.foreground & each.right) / jnp.maximum(front, 1.0),
        "lost": _count(lost) / jnp.maximum(front, 1.0),
        "recall": _recall(proposals.boxes, proposals.mask, truth, config.region_foreground),
    }
    return loss, jax.lax.stop_gradient(Losses(loss, **parts, **told))


def _losses(params: Any, net: Net, maps: Any, targets: Targets) -> RegionLosses:
    """Of all regions (B, R), through pooling, trunk and heads."""
    pooled = jax.vmap(lambda maps, boxes: pool(params, net, maps, boxes))(maps, targets.boxes)
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), targets)
    features = trunk(params, net, pooled.reshape(-1, *pooled.shape[2:]))
    codes = box_codes(params, net, features)
    found = region_losses(params["repmet"], net.config, features, codes, rows)
    return jax.tree.map(lambda leaf: leaf.reshape(targets.mask.shape), found)


def _apart(params: Any, head: RepMetConfig) -> Float[Array, ""]:
    if not head.representative_weight:
        return jnp.zeros((), jnp.float32)
    return between(representatives(params, head), head)


def _recall(
    boxes: Float[Array, "B R 4"], mask: Bool[Array, "B R"], truth: Truth, least: float
) -> Float[Array, ""]:
    """1 where there is no true box."""
    iou = jax.vmap(pairwise_iou)(boxes, truth.boxes)
    met = jnp.any((iou >= least) & mask[:, :, None], axis=1) & truth.shown
    shown = _count(truth.shown)
    return jnp.where(shown > 0, _count(met) / jnp.maximum(shown, 1.0), 1.0)


def _count(mask: Bool[Array, "*shape"]) -> Float[Array, ""]:
    return jnp.sum(mask.astype(jnp.float32))
