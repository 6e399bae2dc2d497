"""The best placement with a proof: an integer program solved by HiGHS (scipy.optimize.milp).

::

    minimise Σ_i  ρ T_i + (1 - ρ)(T_comp,i + Σ_k U_ik) + Σ_edges moves
    where    Σ_k x_tk = 1                              every tensor on one level
             T_i ≥ T_comp,i,  T_i ≥ U_ik               U_ik = T_level(i, k), linear in x
             Σ_t alive at s  units_tk x_tk ≤ capacity_sk   for steps s and levels k ≥ 1

Whether the tensors of a level can be given addresses is not in it (see addresses).
"""

import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from .baselines import BASELINES
from .linear_program import LinearProgram
from .placements import latency
from .problem import Problem

MICRO = 1e6  # the program counts microseconds


@dataclass(frozen=True)
class Optimum:
    """A placement, what it takes, and the proof of how much better any other can be."""

    placement: Int[np.ndarray, "N 2"]
    latency_s: float  # by the exact model
    lower_bound_s: float  # no placement takes less
    status: Literal["optimal", "time limit"]
    seconds: float  # spent

    @property
    def gap(self) -> float:
        """latency / lower bound - 1."""
        return self.latency_s / self.lower_bound_s - 1 if self.lower_bound_s > 0 else math.inf

    def __str__(self) -> str:
        return (
            f"{1e6 * self.latency_s:.6g} us, at most {100 * self.gap:.3g} % above the best possible "
            f"({self.status} after {self.seconds:.2g} s)"
        )


def optimal_placement(problem: Problem, time_limit_s: float = 60.0, relative_gap: float = 1e-6) -> Optimum:
    """The best placement that HiGHS finds within the limit, with its lower bound.

    Where HiGHS finds none or a worse one, the best of the baselines stands.

    Raises:
        ValueError: a limit or gap out of range, an operation that the chip cannot compute, several problems.
    """
    if not time_limit_s > 0 or not relative_gap >= 0:
        raise ValueError(
            f"time_limit_s must be above 0 and relative_gap at least 0, got {time_limit_s} and {relative_gap}"
        )
    if problem.compute_s.ndim != 1:
        raise ValueError(f"one problem at a time: compute_s has shape {problem.compute_s.shape}")
    if not np.isfinite(problem.compute_s).all():
        raise ValueError("some operation's bit-widths have no compute rate on this chip; there is no latency")
    start = time.perf_counter()
    program, x = integer_program(problem)
    answer = program.solve(time_limit_s, relative_gap)
    candidates = [rule(problem) for rule in BASELINES.values()]
    if answer.x is not None:
        candidates.append(np.argmax(answer.x[x], axis=-1).astype(np.int32))
    times = np.asarray(latency(problem, jnp.asarray(np.stack(candidates))), np.float64)
    best = int(np.argmin(times))
    bound = float(np.asarray(problem.compute_s, np.float64).sum())
    if answer.mip_dual_bound is not None and math.isfinite(answer.mip_dual_bound):
        bound = max(bound, (answer.mip_dual_bound + program.constant) / MICRO)
    return Optimum(
        placement=candidates[best],
        latency_s=float(times[best]),
        lower_bound_s=min(bound, float(times[best])),  # they meet within rounding
        status="optimal" if answer.status == 0 else "time limit",
        seconds=time.perf_counter() - start,
    )


def integer_program(problem: Problem) -> tuple[LinearProgram, np.ndarray]:
    """The program above, and its binaries x as indices (N, 2, L): operation, weights or output, level."""
    host = jax.tree.map(np.asarray, problem)
    n, _, levels = problem.shape
    program = LinearProgram()
    x = np.array([program.variable(high=1.0, integer=True) for _ in range(n * 2 * levels)]).reshape(
        n, 2, levels
    )
    for i in range(n):
        for column in range(2):
            program.row([(t, 1.0) for t in x[i, column]], 1.0, 1.0)
            if host.pin[i, column] >= 0:
                program.row([(x[i, column, host.pin[i, column]], 1.0)], 1.0, 1.0)
    _add_times(program, host, x)
    _add_capacities(program, host, x)
    if host.move_s_per_byte is not None:
        _add_moves(program, host, x, host.move_s_per_byte)
    return program, x


def _add_times(program: LinearProgram, host: Problem, x: np.ndarray) -> None:
    """T_i over compute and each level's term; a dual-ported level has one term to read, one to write."""
    n, parents, levels = host.shape
    rho = float(host.overlap)
    for i in range(n):
        compute = MICRO * float(host.compute_s[i])
        longest = program.variable(low=compute, cost=rho)
        program.constant += (1 - rho) * compute
        for k in range(levels):
            reads = [(x[host.weight_of[i], 0, k], MICRO * float(host.weight_read_s[i, k]))]
            for p in range(parents):
                reads.append((x[host.parent[i, p], 1, k], MICRO * float(host.parent_read_s[i, p, k])))
            writes = [(x[i, 1, k], MICRO * float(host.output_write_s[i, k]))]
            read_in = MICRO * float(host.external_read_s[i, k])
            written_out = MICRO * float(host.external_write_s[i, k])
            parts = [(reads + writes, read_in + written_out)]
            if host.dual_ported[k]:
                parts = [(reads, read_in), (writes, written_out)]
            at_least = [longest]
            if rho < 1 and len(parts) == 1:
                program.constant += (1 - rho) * parts[0][1]
                program.add_cost((t, (1 - rho) * s) for t, s in parts[0][0])
            elif rho < 1:
                at_least.append(program.variable(cost=1 - rho))
            for terms, fixed in parts:
                used = [(t, -s) for t, s in terms if s > 0]
                for bound in at_least if used or fixed else ():
                    program.row([(bound, 1.0), *used], fixed, np.inf)


def _add_capacities(program: LinearProgram, host: Problem, x: np.ndarray) -> None:
    """One row per level and step, but for steps whose live outputs and capacity a neighbour's row covers."""
    n, _, levels = host.shape
    alive = [{i for i in range(s + 1) if host.death[i] >= s and host.output_bytes[i]} for s in range(n)]
    stored = [i for i in range(n) if host.weight_bytes[i]]
    for k in range(1, levels):
        room = host.capacity_units[:, k]
        weights = [(x[i, 0, k], float(host.weight_units[i, k])) for i in stored]
        for s in range(n):
            neighbours = [t for t in (s - 1, s + 1) if 0 <= t < n and room[t] <= room[s]]
            covered = any(alive[s] < alive[t] or (alive[s] == alive[t] and t < s) for t in neighbours)
            if not covered:
                outputs = [(x[i, 1, k], float(host.output_units[i, k])) for i in sorted(alive[s])]
                program.row([t for t in weights + outputs if t[1]], -np.inf, float(room[s]))


def _add_moves(program: LinearProgram, host: Problem, x: np.ndarray, s_per_byte: Any) -> None:
    """The product x_pa · x_ib of an edge p → i as a flow y_ab: Σ_b y_ab = x_pa, Σ_a y_ab = x_ib."""
    n, parents, levels = host.shape
    for i in range(n):
        for p in range(parents):
            if host.parent_bytes[i, p] == 0:
                continue
            cost = MICRO * float(host.parent_bytes[i, p]) * s_per_byte.astype(np.float64)
            y = np.array([program.variable(high=1.0, cost=c) for c in cost.ravel()]).reshape(levels, levels)
            for a in range(levels):
                program.row([*((f, 1.0) for f in y[a]), (x[host.parent[i, p], 1, a], -1.0)], 0.0, 0.0)
                program.row([*((f, 1.0) for f in y[:, a]), (x[i, 1, a], -1.0)], 0.0, 0.0)
