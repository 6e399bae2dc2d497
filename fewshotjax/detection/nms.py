"""Non-maximum suppression with fixed shapes, equal to the greedy one at every threshold.

Greedy suppression takes boxes by descending score and drops each that overlaps a kept one. Sorted, box j is
kept exactly where no kept i < j overlaps it,

    keep_j = valid_j ∧ ¬∃ i < j: keep_i ∧ IoU_ij > t,

and repeating this from keep = valid until nothing changes ends in that set: after n rounds the first n boxes
are final. Here it is repeated within blocks of the sorted boxes, each after those that overlap what earlier
blocks kept were struck out. As in the greedy loop only kept boxes are ever compared with others, so there is
no N × N matrix, and it stops as soon as enough are kept.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .boxes import Convention, pairwise_iou
from .chosen import Chosen

# Of 2,000 boxes on 2 CPU cores, blocks of 64 took half the time of blocks of 128.
_BLOCK = 64


def nms(
    boxes: Float[Array, "N 4"],
    scores: Float[Array, " N"],
    threshold: float | Float[Array, ""],
    count: int,
    *,
    mask: Bool[Array, " N"] | None = None,
    convention: Convention = "half_open",
) -> Chosen:
    """The first `count` boxes that greedy suppression keeps, by descending score.

    Args:
        threshold: a box goes where its IoU with a better one that is kept is above it.
        count: K, static; with fewer kept the rest is invalid.
        mask: which boxes exist (None: all); those with a score of -inf or NaN never do.

    Of equal scores the lowest index comes first. Nothing has a gradient.
    """
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    there = scores > -jnp.inf  # False for NaN, too
    there = there if mask is None else there & mask
    total, block = len(scores), max(min(_BLOCK, len(scores)), 1)
    existing = jnp.sum(there, dtype=jnp.int32)
    # Those that exist first, so that the loop can end behind them; whole blocks.
    order = jnp.argsort(jnp.where(there, -scores, jnp.inf), stable=True).astype(jnp.int32)
    order = jnp.pad(order, (0, -total % block if total else block))
    ranked = boxes[order] if total else jnp.zeros((block, 4), boxes.dtype)
    # The last block that is looked at may keep more than are wanted.
    room = -(-min(count, total) // block) * block + block
    place = jnp.arange(block, dtype=jnp.int32)

    def overlap(first: Array, second: Array) -> Array:
        return pairwise_iou(first, second, convention) > threshold

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        start, filled, kept, chosen = state
        here = jax.lax.dynamic_slice_in_dim(ranked, start, block)

        def strike(number: Array, struck: Array) -> Array:
            before = jax.lax.dynamic_slice_in_dim(kept, number * block, block)
            real = number * block + place < filled
            return struck | jnp.any(overlap(before, here) & real[:, None], axis=0)

        blocks = (filled + block - 1) // block
        struck = jax.lax.fori_loop(0, blocks, strike, jnp.zeros(block, bool))
        keep = _within(overlap(here, here), (start + place < existing) & ~struck)
        to = jnp.where(keep, filled + jnp.cumsum(keep, dtype=jnp.int32) - 1, room)  # room: to nowhere
        kept = kept.at[to].set(here, mode="drop")
        ids = jax.lax.dynamic_slice_in_dim(order, start, block)
        chosen = chosen.at[to].set(ids, mode="drop")
        return start + block, filled + jnp.sum(keep, dtype=jnp.int32), kept, chosen

    def more(state: tuple[Array, ...]) -> Array:
        start, filled = state[:2]
        return (start < existing) & (filled < count)

    zero = jnp.zeros((), jnp.int32)
    state: tuple[Array, ...] = (zero, zero, jnp.zeros((room, 4), boxes.dtype), jnp.zeros(room, jnp.int32))
    _, filled, _, chosen = jax.lax.while_loop(more, step, state)
    chosen = jnp.pad(chosen, (0, max(count - room, 0)))[:count]
    return Chosen(chosen, jnp.arange(count) < filled)


def class_nms(
    boxes: Float[Array, "N 4"] | Float[Array, "N C 4"],
    scores: Float[Array, "N C"],
    threshold: float | Float[Array, ""],
    count: int,
    *,
    mask: Bool[Array, " N"] | Bool[Array, "N C"] | None = None,
    convention: Convention = "half_open",
) -> Chosen:
    """`nms` of every class on its own, (C, K); boxes and mask may be common to all classes."""
    boxes_axis = 1 if boxes.ndim == 3 else None
    mask = jnp.ones(len(scores), bool) if mask is None else mask

    def one(boxes: Array, scores: Array, mask: Array) -> Chosen:
        return nms(boxes, scores, threshold, count, mask=mask, convention=convention)

    return jax.vmap(one, (boxes_axis, 1, 1 if mask.ndim == 2 else None))(boxes, scores, mask)


def _within(overlap: Bool[Array, "B B"], valid: Bool[Array, " B"]) -> Bool[Array, " B"]:
    """The keep of sorted boxes, by repeating its definition."""
    before = overlap & jnp.triu(jnp.ones_like(overlap), 1)

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, _ = state
        found = valid & ~jnp.any(before & keep[:, None], axis=0)
        return found, jnp.any(found != keep)

    keep, _ = jax.lax.while_loop(lambda state: state[1], again, (valid, jnp.asarray(True)))
    return keep
