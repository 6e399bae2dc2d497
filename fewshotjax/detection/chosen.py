"""Up to K of N things, in a fixed shape: what suppression, sampling and mining hand back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Chosen(NamedTuple):
    """Places 0 to N - 1; what lies behind an invalid one means nothing and must get weight 0."""

    indices: Int[Array, "*batch K"]
    valid: Bool[Array, "*batch K"]

    def member(self, total: int) -> Bool[Array, "*batch N"]:
        """Which of the N are among them."""
        hit = jax.nn.one_hot(self.indices, total, dtype=bool)
        return jnp.any(hit & self.valid[..., None], axis=-2)


def choose(scores: Float[Array, " N"], mask: Bool[Array, " N"], count: int) -> Chosen:
    """The `count` highest scores of those in the mask, the highest first, ties by the lowest index.

    With fewer than `count` in the mask, or in all, the rest is invalid. Scores must be above -inf and no NaN.
    """
    total = len(scores)
    _, index = jax.lax.top_k(jnp.where(mask, scores, -jnp.inf), min(count, total))
    valid = mask[index]
    short = max(count - total, 0)
    return Chosen(jnp.pad(index.astype(jnp.int32), (0, short)), jnp.pad(valid, (0, short)))
