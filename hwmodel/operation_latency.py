r"""Exact latency: each operation takes its longest term, operations follow each other.

::

    T_level(i, k) = reads_k / read bandwidth_k + writes_k / write bandwidth_k
    T(i)          = ρ · max(T_comp, max_k T_level(i, k)) + (1 - ρ) · (T_comp + Σ_k T_level(i, k)) + T_move(i)
    latency       = Σ_i T(i)

where a dual-ported level takes the longer of its two terms, and the tensors of operation i (its weights, its
parents' outputs, its own output) lie on the levels where the placement puts them. ρ = 1 hides every transfer
behind the longest term, the roofline of Timeloop and DOSA.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .problem import Problem

SCHEDULES = ("sequential", "critical_path")
FEW = 8  # parents: up to here loops over them are unrolled, which XLA:CPU runs twice as fast as sums


class OperationTables(NamedTuple):
    """The tables of one operation; P parents, L levels."""

    compute_s: Float[Array, ""]
    weight_read_s: Float[Array, " L"]
    output_write_s: Float[Array, " L"]
    parent_read_s: Float[Array, "P L"]
    external_read_s: Float[Array, " L"]
    external_write_s: Float[Array, " L"]
    parent_bytes: Float[Array, " P"]


def operation_tables(problem: Problem) -> OperationTables:
    """Tables of all operations, with a leading axis N; an infinite compute_s stands as 0 (see `never`)."""
    return OperationTables(
        compute_s=jnp.where(jnp.isinf(problem.compute_s), 0, problem.compute_s),
        weight_read_s=problem.weight_read_s,
        output_write_s=problem.output_write_s,
        parent_read_s=problem.parent_read_s,
        external_read_s=problem.external_read_s,
        external_write_s=problem.external_write_s,
        parent_bytes=problem.parent_bytes,
    )


def never(problem: Problem) -> Float[Array, ""]:
    """+inf where some operation's bit-widths cannot be computed, else 0: infinity joins once, at the end."""
    return jnp.where(jnp.any(jnp.isinf(problem.compute_s)), jnp.inf, 0.0).astype(problem.compute_s.dtype)


def level_seconds(
    tables: OperationTables,
    problem: Problem,
    weight: Int[Array, "*M"],
    output: Int[Array, "*M"],
    parents: Int[Array, "P ..."],
) -> tuple[Float[Array, "*M"], ...]:
    """T_level(i, k) of one operation for each level k, from the levels of its tensors in M placements."""
    zero = jnp.zeros((), tables.compute_s.dtype)
    times = []
    for k in range(tables.output_write_s.shape[0]):
        reads = tables.external_read_s[k] + jnp.where(weight == k, tables.weight_read_s[k], zero)
        if len(parents) <= FEW:
            for p, level in enumerate(parents):
                reads += jnp.where(level == k, tables.parent_read_s[p, k], zero)
        else:
            read_s = spread(tables.parent_read_s[:, k], parents)
            reads += jnp.sum(jnp.where(parents == k, read_s, zero), axis=0)
        writes = tables.external_write_s[k] + jnp.where(output == k, tables.output_write_s[k], zero)
        times.append(jnp.where(problem.dual_ported[k], jnp.maximum(reads, writes), reads + writes))
    return tuple(times)


def move_seconds(
    tables: OperationTables, problem: Problem, output: Int[Array, "*M"], parents: Int[Array, "P ..."]
) -> Float[Array, "*M"]:
    """T_move(i): each input on another level than the output is copied at the slower of both bandwidths."""
    s_per_byte = problem.move_s_per_byte
    if s_per_byte is None:
        return jnp.zeros(output.shape, tables.compute_s.dtype)
    return jnp.sum(s_per_byte[parents, output[None]] * spread(tables.parent_bytes, parents), axis=0)


def operation_seconds(
    tables: OperationTables,
    problem: Problem,
    weight: Int[Array, "*M"],
    output: Int[Array, "*M"],
    parents: Int[Array, "P ..."],
) -> Float[Array, "*M"]:
    """T(i) of one operation in M placements."""
    levels = level_seconds(tables, problem, weight, output, parents)
    longest, total = tables.compute_s, tables.compute_s
    for seconds in levels:
        longest, total = jnp.maximum(longest, seconds), total + seconds
    overlapped = problem.overlap * longest + (1 - problem.overlap) * total
    if problem.move_s_per_byte is None:
        return overlapped
    return overlapped + move_seconds(tables, problem, output, parents)


def spread(values: Float[Array, " P"], over: Int[Array, "P ..."]) -> Float[Array, "P ..."]:
    """(P,) -> (P, 1, ..., 1), to meet the placements of `over`."""
    return values.reshape(-1, *(1,) * (over.ndim - 1))
