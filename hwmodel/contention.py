r"""Latency where tensors on one level get into each other's way: no longer linear in the placement.

::

    T_level(i, k) = (1 + c · max(0, n_ik - 1)) · T_level(i, k) of latency.py

with n_ik the number of tensors that operation i reads from or writes to level k, graph inputs and outputs
among them: each further stream costs a share c of the level's time, as when two of them share the banks or
the rows of one memory [ours]. c = 0 is the exact model. The integer program of optimum.py does not know of
it: its bound holds, since contention only adds, and nobody may reach it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .operation_latency import never
from .problem import Problem


def contended_latency(
    problem: Problem, placement: Int[Array, "*M N 2"], factor: Float[Array, ""] | float, *, chunk: int = 64
) -> Float[Array, "*M"]:
    """Seconds of one inference, operations one after the other; for one placement or a batch.

    Args:
        placement: levels of weights and outputs, as `rectify` leaves them: pins are not looked at.
        factor: c, at least 0; traced.
        chunk: placements of a batch at once; it bounds memory and changes no result beyond rounding.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    real = problem.output_write_s.dtype
    levels = problem.shape[2]
    share = jnp.asarray(factor, real)

    def one(placement: Int[Array, "N 2"]) -> Float[Array, ""]:
        at = jax.nn.one_hot(placement, levels, dtype=real)  # (N, 2, L)
        weight, output = at[problem.weight_of, 0], at[:, 1]
        read_s = jnp.stack([problem.external_read_s, weight * problem.weight_read_s], axis=1)
        read_s = jnp.concatenate([read_s, output[problem.parent] * problem.parent_read_s], axis=1)
        write_s = jnp.stack([problem.external_write_s, output * problem.output_write_s], axis=1)
        streams = jnp.sum((read_s > 0).astype(real), axis=1) + jnp.sum((write_s > 0).astype(real), axis=1)
        reads, writes = jnp.sum(read_s, axis=1), jnp.sum(write_s, axis=1)
        seconds = jnp.where(problem.dual_ported[None], jnp.maximum(reads, writes), reads + writes)
        seconds *= 1 + share * jax.nn.relu(streams - 1)
        compute = jnp.where(jnp.isinf(problem.compute_s), 0, problem.compute_s)
        longest = jnp.maximum(compute, jnp.max(seconds, axis=1))
        total = compute + jnp.sum(seconds, axis=1)
        taken = problem.overlap * longest + (1 - problem.overlap) * total
        if problem.move_s_per_byte is not None:
            pair = jnp.einsum("npa,ab,nb->np", output[problem.parent], problem.move_s_per_byte, output)
            taken += jnp.sum(pair * problem.parent_bytes, axis=1)
        return jnp.sum(jnp.where(problem.mask, taken, 0)) + never(problem)

    return one(placement) if placement.ndim == 2 else jax.lax.map(one, placement, batch_size=chunk)
