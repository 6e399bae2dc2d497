r"""A latency model that is learned: the roofline's form, with speeds that nobody told [ours].

What a compiler knows stays known: which tensors an operation reads and writes, and how many bytes. What only
the device knows is learned from whole-network measurements::

    U_ik   = Σ_t x_tk · bytes_t · exp(b_k + δ_tk)               seconds of operation i at level k
    T_i    = (ρ max(c_i, U_i1, ..., U_iL) + (1 - ρ) (c_i + Σ_k U_ik)) · exp(f(levels of i's tensors, loads))
    ratio  = mean_i T_i · exp(s)                                latency / reference

with b_k for reads and for writes, δ for each tensor and level, c_i for each operation, ρ and s learned, and f
a small network shared by all operations, which starts at 0 and takes in what the form leaves out, such as
tensors of one level in each other's way. Bytes are shares of all bytes, so that the numbers are near 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .environment import Environment

_HIDDEN = 16
_SHARPNESS = 0.02  # temperature of the maximum; an operation's mean bytes count as 1


def init(key: jax.Array, env: Environment) -> dict[str, jax.Array]:
    """Speeds that fall with the level number, and as much computing as a fifth of the bytes."""
    n, parents, levels = env.problem.shape
    k_speed, k_hidden = jax.random.split(key)
    level = jnp.arange(levels, dtype=jnp.float32)
    slower = -jnp.minimum(level, 1) - 0.5 * jnp.maximum(level - 1, 0)
    inputs = 3 * levels + 2
    return {
        "speed": slower[None] + 0.1 * jax.random.normal(k_speed, (2, levels)),  # reads, writes
        "weight": jnp.zeros((n, levels)),
        "output": jnp.zeros((n, levels)),
        "parent": jnp.zeros((n, parents, levels)),
        "external": jnp.full((n,), -4.0, float),
        "compute": jnp.full((n,), -1.5, float),
        "overlap": jnp.full((), 2.0, float),  # ρ as a logit
        "scale": jnp.zeros(()),
        "hidden": 0.3 * jax.random.normal(k_hidden, (inputs, _HIDDEN)),
        "hidden_bias": jnp.zeros((_HIDDEN,)),
        "out": jnp.zeros((_HIDDEN, 1)),
    }


def ratio(params: Any, env: Environment, x: Float[Array, "N 2 L"]) -> Float[Array, ""]:
    """Predicted latency over the reference, of a map that may be relaxed."""
    problem = env.problem
    n = jnp.sum(problem.mask).astype(x.dtype)
    written = jnp.where(problem.mask, problem.output_bytes.astype(x.dtype), 0)
    weights, read = problem.weight_traffic_bytes.astype(x.dtype), problem.parent_bytes.astype(x.dtype)
    unit = (jnp.sum(weights) + jnp.sum(written) + jnp.sum(read)) / n
    x_weight, x_output = x[problem.weight_of, 0], x[:, 1]
    x_parent = jnp.where((read > 0)[..., None], x_output[problem.parent], 0)
    reads, writes = params["speed"][0][None], params["speed"][1][None]

    at_level = x_weight * (weights / unit)[:, None] * jnp.exp(reads + params["weight"])
    at_level += x_output * (written / unit)[:, None] * jnp.exp(writes + params["output"])
    at_level += jnp.sum(x_parent * (read / unit)[..., None] * jnp.exp(reads[None] + params["parent"]), axis=1)
    at_level = at_level.at[:, 0].add(jnp.exp(params["external"]))
    compute = jnp.exp(params["compute"])[:, None]
    terms = jnp.concatenate([at_level, compute], axis=1)
    total = jnp.sum(terms, axis=1, keepdims=True)
    longest = _SHARPNESS * jax.nn.logsumexp(terms / _SHARPNESS, axis=1)
    rho = jax.nn.sigmoid(params["overlap"])
    seconds = rho * longest + (1 - rho) * total[:, 0]

    used = jnp.where((weights > 0)[:, None], x_weight, 0)
    loads = jnp.concatenate([jnp.max(at_level, axis=1, keepdims=True), compute], axis=1) / total
    seen = jnp.concatenate([used, x_output, jnp.sum(x_parent, axis=1), loads], axis=1)
    hidden = jax.nn.silu(seen @ params["hidden"] + params["hidden_bias"][None])
    seconds *= jnp.exp((hidden @ params["out"])[:, 0])
    return jnp.sum(jnp.where(problem.mask, seconds, 0)) / n * jnp.exp(params["scale"])
