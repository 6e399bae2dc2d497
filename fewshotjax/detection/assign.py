"""What anchors and proposals are trained for: matched to true boxes, sampled, and mined for hard ones.

True boxes come padded to G with a mask. Nothing here has a gradient, and nothing changes shape: what must not
count is labelled or masked, and gets weight 0. Ties go to the lowest index.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .boxes import Convention, pairwise_ioa, pairwise_iou
from .chosen import Chosen, choose

FOREGROUND, BACKGROUND, IGNORE = 1, 0, -1


class Assignment(NamedTuple):
    """Of N boxes."""

    label: Int[Array, " N"]  # int32; -1: ignore
    matched: Int[Array, " N"]  # the true box with the highest IoU; 0, meaning nothing, where there is none
    iou: Float[Array, " N"]  # with it; 0 where there is none


def assign_anchors(
    anchors: Float[Array, "A 4"],
    truth: Float[Array, "G 4"],
    truth_mask: Bool[Array, " G"],
    *,
    foreground: float = 0.7,
    background: float = 0.3,
    best: bool = True,
    mask: Bool[Array, " A"] | None = None,
    convention: Convention = "half_open",
) -> Assignment:
    """1 from IoU `foreground` on, 0 below `background`, -1 between them (Ren et al. 2015).

    Args:
        best: a true box's best anchor is foreground, too, if they overlap at all. Where several tie it is the
            first one of them; others take them all.
        mask: anchors that take part, such as those `inside` the image (None: all); others are -1.

    An anchor's target is the true box that it overlaps most, even where it is another one's best. Without
    true boxes all is background.
    """
    iou = _iou(anchors, truth, truth_mask, mask, convention)
    matched, most = _best(iou)
    label = jnp.where(most >= foreground, FOREGROUND, jnp.where(most < background, BACKGROUND, IGNORE))
    if best and len(truth) and len(anchors):
        chosen = jnp.argmax(iou, axis=0)
        overlaps = jnp.max(iou, axis=0) > 0
        hit = (jnp.arange(len(anchors))[:, None] == chosen[None]) & overlaps[None]
        label = jnp.where(jnp.any(hit, axis=1), FOREGROUND, label)
    if mask is not None:
        label = jnp.where(mask, label, IGNORE)
    return Assignment(label.astype(jnp.int32), matched, jnp.maximum(most, 0.0))


def assign_proposals(
    boxes: Float[Array, "R 4"],
    mask: Bool[Array, " R"],
    truth: Float[Array, "G 4"],
    truth_labels: Int[Array, " G"],
    truth_mask: Bool[Array, " G"],
    *,
    background: int,
    foreground: float = 0.5,
    convention: Convention = "half_open",
) -> Assignment:
    """The label of the true box that each proposal overlaps most, from IoU `foreground` on; else background.

    Args:
        background: its label, such as the number of classes; -1 is kept for proposals outside the mask.
    """
    iou = _iou(boxes, truth, truth_mask, mask, convention)
    matched, most = _best(iou)
    if len(truth):
        label = jnp.where(most >= foreground, truth_labels[matched], background)
    else:
        label = jnp.full(len(boxes), background)
    return Assignment(jnp.where(mask, label, IGNORE).astype(jnp.int32), matched, jnp.maximum(most, 0.0))


def on_ignored(
    boxes: Float[Array, "N 4"],
    ignored: Float[Array, "I 4"],
    ignored_mask: Bool[Array, " I"],
    *,
    inside: float,
    iou: float,
) -> Bool[Array, " N"]:
    """Which boxes lie on a region that is annotated as one to ignore: a crowd (COCO), a difficult object
    (VOC).

    Such a box may show an object, so that it must not be trained as background: it is left out of account
    where it would be that, and stays foreground where it matches a true box.

    Args:
        inside: share of a box's own area inside of the region from which on it lies there,
            area(box ∩ region) / area(box), as COCO's metric counts crowds and Detectron leaves proposals out.
        iou: from which on it does, too: a box around a difficult object is not inside of it (ours).
    """
    boxes, ignored = jax.lax.stop_gradient((boxes, ignored))
    over = (pairwise_ioa(boxes, ignored) >= inside) | (pairwise_iou(boxes, ignored) >= iou)
    return jnp.any(over & ignored_mask[None], axis=1)


def with_truth(
    boxes: Float[Array, "R 4"],
    mask: Bool[Array, " R"],
    truth: Float[Array, "G 4"],
    truth_mask: Bool[Array, " G"],
) -> tuple[Float[Array, "N 4"], Bool[Array, " N"]]:
    """Proposals and, behind them, the true boxes: there is something to learn from the first step on."""
    joined = jnp.concatenate([jax.lax.stop_gradient(boxes), truth])
    return joined, jnp.concatenate([mask, truth_mask])


def sample_balanced(key: PRNGKeyArray, label: Int[Array, " N"], count: int, share: float = 0.5) -> Chosen:
    """`count` boxes at random without repetition: at most ⌊count · share⌋ foreground, the rest background.

    Args:
        label: 0 is background, above it foreground, below it neither (`assign_anchors`).

    All such sets are equally likely (the highest of independent Gumbel numbers). With too few of either kind
    the sample is smaller; the foreground comes first.
    """
    noise = jax.random.gumbel(key, label.shape, jnp.float32)
    front = choose(noise, label > 0, int(count * share))
    back = choose(noise, label == 0, count)
    left = count - jnp.sum(front.valid, dtype=jnp.int32)
    valid = jnp.concatenate([front.valid, back.valid & (jnp.arange(count) < left)])
    indices = jnp.concatenate([front.indices, back.indices])
    places = choose(-jnp.arange(len(valid), dtype=jnp.float32), valid, count)
    return Chosen(indices[places.indices], places.valid)


def hardest(losses: Float[Array, " R"], mask: Bool[Array, " R"], count: int) -> Chosen:
    """Online hard example mining (Shrivastava et al. 2016): the `count` highest losses in the mask.

    The authors' detector ranks by the loss of the posterior plus that of the box, keeps 512 of an image, and
    ignores the others. A loss of NaN ranks first, so that it shows.
    """
    losses = jax.lax.stop_gradient(losses)
    return choose(jnp.where(jnp.isnan(losses), jnp.inf, losses), mask, count)


def _iou(
    boxes: Array, truth: Array, truth_mask: Array, mask: Array | None, convention: Convention
) -> Float[Array, "N G"]:
    """-1 where either does not exist."""
    iou = pairwise_iou(*jax.lax.stop_gradient((boxes, truth)), convention)
    there = truth_mask[None] if mask is None else truth_mask[None] & mask[:, None]
    return jnp.where(there, iou, -1.0)


def _best(iou: Float[Array, "N G"]) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    if iou.shape[1] == 0:
        return jnp.zeros(len(iou), jnp.int32), jnp.full(len(iou), -1.0, iou.dtype)
    return jnp.argmax(iou, axis=1).astype(jnp.int32), jnp.max(iou, axis=1)
