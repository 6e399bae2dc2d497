"""From logits to a map: what a policy or a chromosome does with its distribution.

"levels"    every decision is one draw from its softmax, and the compiler rectifies what does not fit (Khadka
            et al. 2021).
"margins"   the same draw, by the Gumbel-max rule, but its margin counts too [ours]: with perturbed logits
            z = logits + Gumbel the draw is argmax_k z_k, and tensors take their places in the order of
            max_k z_k - z_0 (`hwmodel.assign`), so that every map fits and the tensors that want a fast
            memory most get it. Where all fit, both ways give the same map.

Sizes, lifetimes and capacities are known when a network is compiled; acting by margins looks at no latency.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import hwmodel as hw

from .decisions import masked
from .environment import Environment

Acting = Literal["margins", "levels"]


def act(
    key: jax.Array, env: Environment, logits: Float[Array, "K N 2 L"], acting: Acting = "margins"
) -> Int[Array, "K N 2"]:
    """One map drawn from the logits of each of K members.

    Raises:
        ValueError: an unknown way of acting.
    """
    return _maps(env, logits + jax.random.gumbel(key, logits.shape, logits.dtype), acting)


def act_greedily(
    env: Environment, logits: Float[Array, "K N 2 L"], acting: Acting = "margins"
) -> Int[Array, "K N 2"]:
    """The map without chance: the largest logit of every decision."""
    return _maps(env, logits, acting)


def _maps(env: Environment, scores: Float[Array, "K N 2 L"], acting: Acting) -> Int[Array, "K N 2"]:
    if acting not in get_args(Acting):
        raise ValueError(f"acting must be one of {get_args(Acting)}, got {acting!r}")
    scores = masked(scores, env.allowed)
    if acting == "levels":
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    return hw.assign(env.problem, scores)
