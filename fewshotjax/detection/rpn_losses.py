"""What the region proposal network is trained for (Ren et al. 2015), of one image."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .assign import BACKGROUND, FOREGROUND, IGNORE, assign_anchors, on_ignored, sample_balanced
from .boxes import encode, inside
from .config import DetectorConfig

_LEAST = 1e-6  # IoU: boxes that do not overlap never count as one on the other


class RpnSums(NamedTuple):
    """Sums over the sampled anchors of an image, which a batch divides by their number; all float32."""

    objectness: Float[Array, "*batch"]  # binary cross-entropy
    box: Float[Array, "*batch"]  # smooth L1 of the codes, of the foreground
    sampled: Float[Array, "*batch"]  # anchors
    foreground: Float[Array, "*batch"]  # among them


def smooth_l1(difference: Float[Array, "*shape"], sigma: float = 1.0) -> Float[Array, "*shape"]:
    """½(σx)² where abs(x) is below 1/σ², abs(x) - ½/σ² elsewhere (Girshick 2015, with the scalar σ).

    The authors' code has σ = 3 in the proposal network and 1 in the box head.
    """
    size = jnp.abs(difference)
    square = sigma * sigma
    return jnp.where(size < 1 / square, 0.5 * square * size * size, size - 0.5 / square)


def rpn_sums(
    key: PRNGKeyArray,
    config: DetectorConfig,
    anchors: Float[Array, "A 4"],
    logits: Float[Array, " A"],
    codes: Float[Array, "A 4"],
    truth: Float[Array, "G 4"],
    shown: Bool[Array, " G"],
    size: tuple[int, int],
    ignored: Bool[Array, " G"] | None = None,
) -> RpnSums:
    """Objectness and box loss of `config.rpn_samples` anchors, at most `rpn_share` of them foreground.

    Args:
        codes: of the boxes relative to their anchors, without target deviations.
        shown: which true boxes exist; an image without any has background alone.
        size: height and width of the image, pixels.
        ignored: which boxes, none of them shown, are crowds or difficult: anchors on them (`on_ignored`) that
            would be background do not count. None: none is.
    """
    border = config.rpn_border
    found = assign_anchors(
        anchors,
        truth,
        shown,
        foreground=config.rpn_foreground,
        background=config.rpn_background,
        mask=None if border is None else inside(anchors, *size, border),
    )
    if ignored is not None:
        # From the IoU on at which an anchor of an object is no longer background.
        near = on_ignored(
            anchors, truth, ignored, inside=config.ignored_overlap, iou=max(config.rpn_background, _LEAST)
        )
        found = found._replace(label=jnp.where(near & (found.label == BACKGROUND), IGNORE, found.label))
    chosen = sample_balanced(key, found.label, config.rpn_samples, config.rpn_share)
    rows, one = chosen.indices, jnp.float32(1.0)
    front = chosen.valid & (found.label[rows] == FOREGROUND)
    logit = logits[rows].astype(jnp.float32)
    objectness = jax.nn.softplus(jnp.where(front, -logit, logit))
    wanted = jax.lax.stop_gradient(encode(truth[found.matched[rows]], anchors[rows]))
    away = jnp.where(front[:, None], codes[rows].astype(jnp.float32) - wanted, 0.0)
    return RpnSums(
        jnp.sum(jnp.where(chosen.valid, objectness, 0.0)),
        jnp.sum(smooth_l1(away, config.rpn_sharpness)),
        jnp.sum(jnp.where(chosen.valid, one, 0.0)),
        jnp.sum(jnp.where(front, one, 0.0)),
    )
