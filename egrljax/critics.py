"""Critics: what a map is worth, predicted without measuring it.

- "graph"     a graph network over node features and the map, averaged over nodes: the method's (Khadka et al.
              2021). It sees maps as they were asked for, and has to learn what the compiler makes of them.
- "roofline"  a latency model with the roofline's form and unknown speeds, learned from measurements (ours,
              roofline.py). It sees maps as they ran.
- "model"     the differentiable model of hwmodel itself, which knows the chip: nothing to learn. Not to be
              had of real hardware.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import hwmodel as hw

from . import roofline
from .environment import Environment
from .policies import PolicyConfig, policy
from .reward import RewardConfig, reward

CriticKind = Literal["roofline", "graph", "model"]
_SHARPNESS = 0.02  # "model": temperature of maxima, as a share of an operation's mean time


class Critic(NamedTuple):
    """Two pure functions of one map, which may be relaxed: x (N, 2, L), each decision summing to 1."""

    init: Callable[[jax.Array, Environment], Any]  # key, env -> params
    value: Callable[[Any, Environment, jax.Array], jax.Array]  # params, env, x -> predicted reward ()
    learns: bool
    sees_placements: bool  # maps as they ran; else as they were asked for


def critic(kind: CriticKind, shape: PolicyConfig, rewards: RewardConfig) -> Critic:
    """The critic of a kind.

    Args:
        shape: of "graph"'s network; its decisions and choices are not looked at.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in get_args(CriticKind):
        raise ValueError(f"critic must be one of {get_args(CriticKind)}, got {kind!r}")
    if kind == "graph":
        return _graph(shape)

    def of_ratio(ratio: Float[Array, ""]) -> Float[Array, ""]:
        """The reward of latency / reference."""
        return reward(1 / ratio, jnp.zeros_like(ratio), rewards)

    if kind == "roofline":
        return Critic(
            roofline.init, lambda params, env, x: of_ratio(roofline.ratio(params, env, x)), True, True
        )

    def known(params: Any, env: Environment, x: Float[Array, "N 2 L"]) -> Float[Array, ""]:
        return of_ratio(hw.relaxed_latency(env.problem, x, _SHARPNESS) / env.reference_s)

    return Critic(lambda key, env: {}, known, False, True)


def _graph(shape: PolicyConfig) -> Critic:
    """A policy's network with one output a node; their mean is the value."""
    network = policy(replace(shape, decisions=1, choices=1))

    def seen(env: Environment, x: Float[Array, "N 2 L"]) -> Any:
        rows = jnp.asarray(env.graph.nodes).shape[0]
        flat = x.reshape(x.shape[0], -1)[:rows]
        flat = jnp.pad(flat, ((0, rows - flat.shape[0]), (0, 0)))
        return env.graph._replace(nodes=jnp.concatenate([jnp.asarray(env.graph.nodes), flat], axis=1))

    def init(key: jax.Array, env: Environment) -> Any:
        return network.init(key, seen(env, jnp.zeros(env.allowed.shape)))

    def value(params: Any, env: Environment, x: Float[Array, "N 2 L"]) -> Float[Array, ""]:
        each = network.apply(params, seen(env, x))[:, 0, 0]  # 0 at padding
        return jnp.sum(each) / jnp.asarray(env.graph.n_node)[0].astype(each.dtype)

    return Critic(init, value, True, False)
