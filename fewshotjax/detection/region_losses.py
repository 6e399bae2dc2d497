"""What regions are trained for: class by RepMet's head, box, and which of them count at all."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..losses import cross_entropy
from ..posteriors import Posterior
from ..repmet_model import classify, embed, margin_loss, posterior_loss, representatives
from .assign import assign_proposals, hardest, on_ignored, with_truth
from .boxes import encode
from .config import DetectorConfig
from .rpn_losses import smooth_l1


class Targets(NamedTuple):
    """Of R regions."""

    boxes: Float[Array, "*batch R 4"]  # pixels; without a gradient
    labels: Int[Array, "*batch R"]  # 0 to N - 1, N: background
    codes: Float[Array, "*batch R 4"]  # of the true box, relative to the region's
    foreground: Bool[Array, "*batch R"]
    mask: Bool[Array, "*batch R"]  # False: padding, or not among the hardest: has no loss


class RegionLosses(NamedTuple):
    """Of each region; 0 where a loss does not apply."""

    posterior: Float[Array, "*batch R"]  # -log of the label's posterior
    embedding: Float[Array, "*batch R"]
    linear: Float[Array, "*batch R"]
    box: Float[Array, "*batch R"]  # summed over the four codes
    background: Float[Array, "*batch R"]  # log-posterior of the background; no loss
    right: Bool[Array, "*batch R"]  # the label is the likeliest; no loss


def region_targets(
    config: DetectorConfig,
    classes: int,
    proposals: Float[Array, "R 4"],
    mask: Bool[Array, " R"],
    truth: Float[Array, "G 4"],
    labels: Int[Array, " G"],
    shown: Bool[Array, " G"],
    ignored: Bool[Array, " G"] | None = None,
) -> Targets:
    """Of the proposals and, behind them, the true boxes of one image.

    Args:
        ignored: which boxes, none of them shown, are crowds or difficult: regions on them (`on_ignored`) that
            would be background are not in the mask. None: none is.
    """
    boxes, there = with_truth(proposals, mask, truth, shown)
    found = assign_proposals(
        boxes, there, truth, labels, shown, background=classes, foreground=config.region_foreground
    )
    foreground = there & (found.label < classes)
    if ignored is not None:
        levels = {"inside": config.ignored_overlap, "iou": config.region_foreground}
        there &= foreground | ~on_ignored(boxes, truth, ignored, **levels)
    codes = encode(truth[found.matched], boxes, config.box_stds)
    wanted = jnp.where(foreground[:, None], codes, 0.0)
    given = jax.lax.stop_gradient((boxes, wanted))
    return Targets(given[0], jnp.where(there, found.label, classes), given[1], foreground, there)


def keep_hardest(targets: Targets, losses: RegionLosses, count: int) -> Targets:
    """Those `count` regions of an image with the highest -log posterior plus box loss.

    As in the authors' code, the embedding's and the linear loss do not rank. That code goes on with all
    regions and gives the others weight 0; here they are left out, at the same gradient.
    """
    chosen = hardest(losses.posterior + losses.box, targets.mask, count)
    kept = jax.tree.map(lambda leaf: leaf[chosen.indices], targets)
    return kept._replace(mask=chosen.valid, foreground=kept.foreground & chosen.valid)


def region_losses(
    params: dict[str, Any],
    config: DetectorConfig,
    features: Float[Array, "R F"],
    codes: Float[Array, "R 4"],
    targets: Targets,
) -> RegionLosses:
    """Of the regions of any number of images.

    Args:
        params: of the head ("repmet" of a detector's).
        features: the trunk's.
        codes: the box head's.
    """
    head = config.head
    found = representatives(params, head)
    result, squared = classify(head, found, embed(params, head, features), params.get("log_sigma"))
    assert result.background is not None  # a DetectorConfig insists on it
    labels, front = targets.labels, targets.foreground
    zero = jnp.zeros(labels.shape, jnp.float32)
    embedding, linear = zero, zero
    if head.embedding_weight:
        embedding = margin_loss(head, squared, found, labels)
    if head.linear_weight:
        logits = features @ params["linear"]["kernel"] + params["linear"]["bias"][None]
        own = jnp.where(front, labels, 0)
        linear = cross_entropy(Posterior(jax.nn.log_softmax(logits), None), own)
    away = jnp.where(front[:, None], codes - targets.codes, 0.0)
    return RegionLosses(
        jnp.where(targets.mask, posterior_loss(head, result, labels), 0.0),
        jnp.where(front, embedding, 0.0),
        jnp.where(front, linear, 0.0),
        jnp.sum(smooth_l1(away, config.box_sharpness), axis=1),
        result.background,
        jnp.argmax(result.joint(), axis=1) == labels,
    )
