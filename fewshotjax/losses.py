"""RepMet's losses on distances and posteriors (Karlinsky et al. 2019).

Which of d and d² the paper's margin loss takes is not known to us; the authors' code takes d². Both are here.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .posteriors import Posterior


def cross_entropy(found: Posterior, labels: Int[Array, " B"], floor: float = 0.0) -> Float[Array, " B"]:
    """-log P(y), of each embedding; label N is the background where there is one.

    Args:
        floor: added to the probability, as the authors' code has 1e-7 for posteriors that are not normalised.

    Labels out of range, which JAX would clamp, give NaN.
    """
    joint = found.joint()
    there = (labels >= 0) & (labels < joint.shape[1])
    chosen = jnp.take_along_axis(joint, jnp.where(there, labels, 0)[:, None], axis=1)[:, 0]
    loss = -(jnp.logaddexp(chosen, jnp.log(floor)) if floor else chosen)
    return jnp.where(there, loss, jnp.nan)


def embedding_loss(
    distances: Float[Array, "B N K"],
    mode_mask: Bool[Array, "N K"],
    labels: Int[Array, " B"],
    margin: float,
    smooth: float | None = None,
) -> Float[Array, " B"]:
    """max(0, min_k d_yk - min_{n≠y,k} d_nk + α) of each embedding; 0 of the background and where nothing
    compares.

    The nearest mode of an embedding's own class should be nearer than that of any other, by the margin α.

    Args:
        distances: plain or squared.
        labels: 0 to N - 1; N, the background, has no loss; others give NaN.
        margin: α.
        smooth: temperature t of a smooth minimum, -t·log Σ exp(-d/t), in place of the minima; None: minima.
    """
    classes = distances.shape[1]
    own = jax.nn.one_hot(labels, classes, dtype=bool)
    mine, others = (_nearest(distances, mask[:, :, None] & mode_mask[None], smooth) for mask in (own, ~own))
    compared = jnp.isfinite(mine) & jnp.isfinite(others) & (labels < classes)
    gap = jnp.where(compared, mine, 0.0) - jnp.where(compared, others, 0.0)
    loss = jnp.where(compared, jax.nn.relu(gap + margin), 0.0)
    return jnp.where((labels >= 0) & (labels <= classes), loss, jnp.nan)


def representative_loss(
    distances: Float[Array, "N K N K"], mode_mask: Bool[Array, "N K"], margin: float
) -> Float[Array, ""]:
    """Mean over modes of max(0, α + max_l d(R_nk, R_nl) - min_{m≠n,l} d(R_nk, R_ml)): classes stay apart.

    The authors' code has a triplet loss between representatives, off by default; this form of it is ours.
    """
    classes, width = mode_mask.shape
    flat = distances.reshape(classes * width, classes, width)
    own = jnp.repeat(jnp.eye(classes, dtype=bool), width, axis=0)[:, :, None] & mode_mask[None]
    farthest = jnp.max(jnp.where(own, flat, 0.0), axis=(1, 2))
    nearest = _nearest(
        flat, ~jnp.repeat(jnp.eye(classes, dtype=bool), width, axis=0)[:, :, None] & mode_mask[None]
    )
    counted = mode_mask.reshape(-1) & jnp.isfinite(nearest)
    each = jax.nn.relu(margin + farthest - jnp.where(counted, nearest, 0.0))
    return jnp.sum(jnp.where(counted, each, 0.0)) / jnp.maximum(jnp.sum(counted), 1).astype(each.dtype)


def _nearest(
    distances: Float[Array, "B N K"], mask: Bool[Array, "B N K"], smooth: float | None = None
) -> Float[Array, " B"]:
    """The least distance of those in the mask; inf where there are none."""
    least = jnp.min(jnp.where(mask, distances, jnp.inf), axis=(1, 2))
    if smooth is None:
        return least
    some = jnp.isfinite(least)
    kept = jnp.where(mask, -distances / smooth, -jnp.inf)
    total = jax.nn.logsumexp(jnp.where(some[:, None, None], kept, 0.0), axis=(1, 2))
    return jnp.where(some, -smooth * total, jnp.inf)
