"""Where the search starts: logits that every policy's output and every first chromosome are added to [ours].

A policy that starts anywhere asks for fast memories everywhere, and hardly a map of it is valid: 1.6 % of
uniform maps of ResNet-50, none of 100,000 of ResNet-101 (on the presets of hwmodel).
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

import hwmodel as hw

from .environment import Environment

Start = Literal["density", "backing", "uniform"]
_STAY = 0.9  # "backing": probability of level 0
_ABOVE = 3.0  # "density": the average tensor's logit over level 0, in standard deviations of the densities
_SLOWER = 2.0  # what a level that saves nothing beside the fastest loses, likewise


def start_logits(env: Environment, start: Start = "density") -> Float[Array, "N 2 L"]:
    """Logits to start from.

    - "density": what the compiler of that name knows: seconds saved per byte and step of life, by the chip's
      data sheet, standardised logarithm; acting by margins with it is much like that rule.
    - "backing": level 0 with probability 0.9 each.
    - "uniform": zeros.

    Raises:
        ValueError: an unknown start.
    """
    if start not in get_args(Start):
        raise ValueError(f"start must be one of {get_args(Start)}, got {start!r}")
    levels = env.allowed.shape[-1]
    away = jnp.arange(levels) > 0
    if start == "density":
        return jnp.where(away, _density(env.problem), 0)
    if start == "backing" and levels > 1:
        return jnp.broadcast_to(
            jnp.where(away, jnp.log((1 - _STAY) / (levels - 1)), jnp.log(_STAY)), env.allowed.shape
        )
    return jnp.zeros(env.allowed.shape)


def _density(problem: hw.Problem) -> Float[Array, "N 2 L"]:
    saved = hw.saved_density(problem)
    most = jnp.max(saved, axis=-1)
    gains = most > 0
    density = jnp.log(jnp.where(gains, most, 1))
    count = jnp.maximum(jnp.sum(gains.astype(saved.dtype)), 1)
    mean = jnp.sum(jnp.where(gains, density, 0)) / count
    std = jnp.sqrt(jnp.sum(jnp.where(gains, density - mean, 0) ** 2) / count)
    standard = jnp.where(gains, (density - mean) / jnp.maximum(std, 1e-6), -_ABOVE)
    share = saved / jnp.where(gains, most, 1)[..., None]
    return _ABOVE + standard[..., None] - _SLOWER * (1 - share)
