r"""The differentiable model: placements as probabilities, maxima as log-sum-exp, capacity as a hinge.

::

    x_t          = softmax(logits_t / τ_x) over levels
    U_ik(x)      = Σ_t x_tk · seconds_tk                          T_level of the exact model, linear in x
    T_τ(i)       = τ log(e^(T_comp / τ) + Σ_k e^(U_ik / τ)),      max ≤ T_τ ≤ max + τ log(1 + L)
    overflow(x)  = Σ_s Σ_(k ≥ 1) relu(load_sk(x) / capacity_k - 1)

With one-hot x and no dual-ported level: latency ≤ soft latency ≤ latency + ρ N τ log(1 + L), see `excess_s`.
Between the vertices E[max] ≥ max(E) (Jensen): at relaxed x the value under-estimates and is never a latency.
What is reported is rounded, rectified and timed by the exact model (gradient.py).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .operation_latency import never, operation_seconds, operation_tables
from .problem import Problem

Number = Float[Array, ""] | float


class Temperature(NamedTuple):
    """Both go towards zero as a search cools."""

    time: Number = 0.1  # τ, as a share of the mean time of an operation with all tensors in level 0
    choice: Number = 1.0  # τ_x


WARM = Temperature()


class Soft(NamedTuple):
    """The relaxation's value; differentiable in the logits."""

    latency_s: Float[Array, ""]
    overflow: Float[Array, ""]  # 0: everything fits


def soft_latency(
    problem: Problem,
    logits: Float[Array, "N 2 L"],
    temperature: Temperature = WARM,
    straight_through: bool = False,
) -> Soft:
    """Soft latency and overflow of one relaxed placement; vmap it for many.

    Args:
        straight_through: the largest logit decides in the forward pass, the softmax in the backward pass.

    Raises:
        ValueError: logits of another shape, a temperature that is a number and not above 0.
    """
    n, _, levels = problem.shape
    if logits.shape != (n, 2, levels):
        raise ValueError(f"logits must have shape {(n, 2, levels)}, got {logits.shape}")
    for name, value in temperature._asdict().items():
        if isinstance(value, float | int) and not value > 0:
            raise ValueError(f"temperature.{name} must be above 0, got {value}")
    logits = logits.astype(problem.output_write_s.dtype)
    x = choices(problem, logits, temperature.choice, straight_through)
    return Soft(relaxed_latency(problem, x, temperature.time), overflow(problem, x))


def choices(
    problem: Problem, logits: Float[Array, "N 2 L"], tau: Number, straight_through: bool = False
) -> Float[Array, "N 2 L"]:
    """x_t = softmax(logits_t / τ_x); pinned tensors on their level, shared weights as their owner's."""
    x = jax.nn.softmax(logits / tau, axis=-1)
    if straight_through:
        hard = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=x.dtype)
        x = x + jax.lax.stop_gradient(hard - x)
    pinned = jax.nn.one_hot(problem.pin, logits.shape[-1], dtype=x.dtype)
    x = jnp.where((problem.pin >= 0)[..., None], pinned, x)
    return x.at[:, 0].set(x[problem.weight_of, 0])


def relaxed_latency(problem: Problem, x: Float[Array, "N 2 L"], share: Number) -> Float[Array, ""]:
    """Σ_i T_τ(i) in seconds, τ = share of `operation_scale_s`."""
    tau = share * operation_scale_s(problem)
    weight, output = x[:, 0], x[:, 1]
    reads = problem.external_read_s + weight * problem.weight_read_s
    reads += jnp.sum(output[problem.parent] * problem.parent_read_s, axis=1)
    writes = problem.external_write_s + output * problem.output_write_s
    either = tau * jnp.logaddexp(reads / tau, writes / tau)
    levels = jnp.where(problem.dual_ported[None], either, reads + writes)
    compute = jnp.where(jnp.isinf(problem.compute_s), 0, problem.compute_s)
    terms = jnp.concatenate([compute[:, None], levels], axis=1)
    longest = tau * jax.nn.logsumexp(terms / tau, axis=1)
    seconds = problem.overlap * longest + (1 - problem.overlap) * jnp.sum(terms, axis=1)
    if problem.move_s_per_byte is not None:
        pair = jnp.einsum("npa,ab,nb->np", output[problem.parent], problem.move_s_per_byte, output)
        seconds += jnp.sum(pair * problem.parent_bytes, axis=1)
    return jnp.sum(jnp.where(problem.mask, seconds, 0)) + never(problem)


def overflow(problem: Problem, x: Float[Array, "N 2 L"]) -> Float[Array, ""]:
    """Σ over steps and levels above the backing store of relu(load / capacity - 1)."""
    n, _, levels = problem.shape
    real = x.dtype
    born = x[:, 1] * problem.output_units.astype(real)
    change = jnp.zeros((n + 1, levels), real).at[:n].add(born).at[problem.death + 1].add(-born)
    load = jnp.cumsum(change, axis=0)[:n] + jnp.sum(x[:, 0] * problem.weight_units.astype(real), axis=0)[None]
    capacity = problem.capacity_units.astype(real)
    excess = jax.nn.relu((load - capacity) / jnp.maximum(capacity, 1))[:, 1:]
    return jnp.sum(jnp.where(problem.mask[:, None], excess, 0))


def operation_scale_s(problem: Problem) -> Float[Array, ""]:
    """Mean time of an operation with everything in level 0: the unit of τ."""
    store = jnp.zeros((), jnp.int32)
    parents = jnp.zeros((problem.shape[1],), jnp.int32)
    seconds = jax.vmap(lambda tables: operation_seconds(tables, problem, store, store, parents))(
        operation_tables(problem)
    )
    return jnp.sum(jnp.where(problem.mask, seconds, 0)) / jnp.sum(problem.mask).astype(seconds.dtype)


def excess_s(problem: Problem, share: Number) -> Float[Array, ""]:
    """The most by which the soft latency exceeds the exact one at one-hot x.

    ρ τ log(1 + L) per operation for the longest term, and τ log 2 per dual-ported level for its two halves.
    """
    tau = share * operation_scale_s(problem)
    real = tau.dtype
    dual = jnp.sum(problem.dual_ported).astype(real)
    count = jnp.sum(problem.mask).astype(real)
    rho = problem.overlap
    longest = jnp.log(1 + jnp.asarray(problem.shape[2], real)) + jnp.minimum(dual, 1) * jnp.log(2.0).astype(
        real
    )
    return count * tau * (rho * longest + (1 - rho) * dual * jnp.log(2.0).astype(real))
