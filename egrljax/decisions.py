"""From logits to maps: every decision is one draw from a softmax over the choices that it has.

A decision is one of D memories (of weights, of the output) of one of N nodes; `allowed` says which of L
levels it may take. With one level left, because the tensor is pinned, has no bytes, or the node is padding, a
decision never varies, has no entropy and counts nowhere.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def draw(
    key: jax.Array, logits: Float[Array, "*K N D L"], allowed: Bool[Array, "N D L"]
) -> Int[Array, "*K N D"]:
    """A map each: every decision drawn from the softmax of its logits over the choices allowed.

    A decision with one choice left (pinned, or of a tensor without bytes) never varies.
    """
    return jax.random.categorical(key, masked(logits, allowed), axis=-1).astype(jnp.int32)


def masked(logits: Float[Array, "*K N D L"], allowed: Bool[Array, "N D L"]) -> Float[Array, "*K N D L"]:
    """Logits with -inf where a choice is not allowed; each decision must have one."""
    return jnp.where(allowed.reshape((1,) * (logits.ndim - 3) + allowed.shape), logits, -jnp.inf)


def entropy(logits: Float[Array, "*K N D L"], allowed: Bool[Array, "N D L"]) -> Float[Array, "*K"]:
    """Exact entropy in nats, the mean over the decisions that have a choice; 0 where none has.

    -Σ_k p_k log p_k, with p_k = 0 where a choice is not allowed.
    """
    open_ = jnp.sum(allowed.astype(logits.dtype), axis=-1) > 1
    log_p = jax.nn.log_softmax(masked(logits, allowed), axis=-1)
    p = jnp.exp(log_p)
    each = -jnp.sum(p * jnp.where(p > 0, log_p, 0), axis=-1)
    weight = open_.astype(logits.dtype)
    weight = weight.reshape((1,) * (each.ndim - 2) + weight.shape)
    return jnp.sum(each * weight, axis=(-2, -1)) / jnp.maximum(jnp.sum(weight), 1)
