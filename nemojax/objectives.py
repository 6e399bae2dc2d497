"""What a configuration of bit-widths costs: an error of the network's logits. All are minimised.

Size and bit-operations depend on the bits alone and live in hwmodel.costs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


class Score(NamedTuple):
    """An error of logits (N, classes) against a target with leading axis N, averaged over the images."""

    name: str
    of: Callable[[Array, Any], Array]  # (logits, target) -> ()


def top_k_misses(logits: Float[Array, "N classes"], labels: Int[Array, " N"], k: int) -> Bool[Array, " N"]:
    """Whether the label is not among the k largest logits; of equal logits the lower class comes first."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    classes = jnp.arange(logits.shape[1])[None]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return ~(jnp.sum(ahead, axis=1) < k) | jnp.isnan(logits).any(axis=1)


def top_k_error(k: int) -> Score:
    """1 - top-k accuracy, in [0, 1]; the target is class indices (N,)."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return Score(
        f"top{k}_error", lambda logits, labels: jnp.mean(top_k_misses(logits, labels, k), dtype=jnp.float32)
    )


def disagreement() -> Score:
    """Share of images whose most likely class is not that of the reference logits (N, classes)."""
    return Score(
        "disagreement",
        lambda logits, target: jnp.mean(
            top_k_misses(logits, jnp.argmax(target, axis=1), 1), dtype=jnp.float32
        ),
    )


def kl_divergence() -> Score:
    """Mean KL(p_reference ‖ p) in nats; the target is the reference's logits (N, classes)."""
    return Score(
        "kl",
        lambda logits, target: jnp.mean(
            optax.losses.kl_divergence_with_log_targets(
                jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(target, axis=1)
            )
        ),
    )
