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
from typing import Literal

import jax
import numpy as np
from jaxtyping import Int

from .baselines import BASELINES
from .linear_program import LinearProgram
from .placements import latency, rectify
from .problem import Problem

MOST_CUTS = 50  # placements that do not quite fit, before the search for the optimum is given up
ROUNDING = 1e-5  # of latencies in float32


@dataclass(frozen=True)
class Optimum:
    """A placement, what it takes, and the proof of how much better any other can be."""

    placement: Int[np.ndarray, "N 2"]
    latency_s: float  # by the exact model
    lower_bound_s: float  # no placement takes less
    status: Literal["optimal", "stopped"]  # stopped: by the time limit or HiGHS's tolerances
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

    Every answer is checked in whole units against all capacities and timed by the exact model. Where HiGHS
    finds none or a worse one, the best of the baselines stands.

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
    host: Problem = jax.tree.map(np.asarray, problem)
    scale = _scale(problem)
    program, x = integer_program(host, scale)
    rules = np.stack([rule(problem) for rule in BASELINES.values()])
    bound, proven, solutions = float(host.compute_s.sum(dtype=np.float64)), False, [*rules]
    for _ in range(MOST_CUTS):
        left = time_limit_s - (time.perf_counter() - start)
        answer = program.solve(max(left, 0.01), relative_gap)
        if answer.mip_dual_bound is not None and math.isfinite(answer.mip_dual_bound):
            bound = max(bound, (answer.mip_dual_bound + program.constant) / scale)
        if answer.x is None:
            break
        placement = np.argmax(answer.x[x], axis=-1).astype(np.int32)
        cut = _overfull(host, x, placement)
        if not cut:
            solutions.append(placement)
            proven = answer.status == 0
            break
        # HiGHS takes binaries within 1e-6 of whole, which is many bytes of a large tensor. What does not
        # fit is cut off, and what remains is still a relaxation, so its bound holds.
        solutions.append(np.asarray(rectify(problem, placement).placement))
        program.row([(t, 1.0) for t in cut], -np.inf, len(cut) - 1.0)
        if left <= 0:
            break
    times = np.asarray(latency(problem, np.stack(solutions)), np.float64)
    best = int(np.argmin(times))
    found = float(times[best])
    proven = proven and found <= bound * (1 + relative_gap + ROUNDING)
    return Optimum(
        placement=solutions[best],
        latency_s=found,
        lower_bound_s=min(bound, found),  # they meet within rounding
        status="optimal" if proven else "stopped",
        seconds=time.perf_counter() - start,
    )


def _scale(problem: Problem) -> float:
    """The mean time of an operation with all in the backing store becomes 1: tolerances are absolute."""
    n = problem.shape[0]
    total = float(latency(problem, np.zeros((n, 2), np.int32)))
    return float(problem.mask.sum()) / total if total > 0 else 1.0


def _overfull(host: Problem, x: np.ndarray, placement: np.ndarray) -> list[int]:
    """Binaries of tensors that together exceed a level at some step; as few as do. Empty: all fits."""
    n, _, levels = host.shape
    for k in range(1, levels):
        stored = [(int(host.weight_units[i, k]), x[i, 0, k]) for i in np.flatnonzero(placement[:, 0] == k)]
        made = np.flatnonzero(placement[:, 1] == k)
        for s in range(n):
            alive = [(int(host.output_units[i, k]), x[i, 1, k]) for i in made if i <= s <= host.death[i]]
            room, cover, taken = int(host.capacity_units[s, k]), [], 0
            if sum(units for units, _ in stored + alive) <= room:
                continue
            for units, t in sorted(stored + alive, key=lambda item: (-item[0], item[1])):
                cover.append(int(t))
                taken += units
                if taken > room:
                    return cover
    return []


def integer_program(host: Problem, scale: float) -> tuple[LinearProgram, np.ndarray]:
    """The program above, and its binaries x as indices (N, 2, L): operation, weights or output, level.

    Args:
        host: the problem in NumPy arrays.
        scale: units of time of the program per second.
    """
    n, _, levels = host.shape
    program = LinearProgram()
    x = np.array([program.variable(high=1.0, integer=True) for _ in range(n * 2 * levels)]).reshape(
        n, 2, levels
    )
    for i in range(n):
        for column in range(2):
            program.row([(t, 1.0) for t in x[i, column]], 1.0, 1.0)
            if host.pin[i, column] >= 0:
                program.row([(x[i, column, host.pin[i, column]], 1.0)], 1.0, 1.0)
    _add_times(program, host, x, scale)
    _add_capacities(program, host, x)
    if host.move_s_per_byte is not None:
        _add_moves(program, host, x, scale * np.asarray(host.move_s_per_byte, np.float64))
    return program, x


def _add_times(program: LinearProgram, host: Problem, x: np.ndarray, scale: float) -> None:
    """T_i over compute and each level's term; a dual-ported level has one term to read, one to write."""
    n, parents, levels = host.shape
    rho = float(host.overlap)
    for i in range(n):
        compute = scale * float(host.compute_s[i])
        longest = program.variable(low=compute, cost=rho)
        program.constant += (1 - rho) * compute
        for k in range(levels):
            reads = [(x[host.weight_of[i], 0, k], scale * float(host.weight_read_s[i, k]))]
            for p in range(parents):
                reads.append((x[host.parent[i, p], 1, k], scale * float(host.parent_read_s[i, p, k])))
            writes = [(x[i, 1, k], scale * float(host.output_write_s[i, k]))]
            read_in = scale * float(host.external_read_s[i, k])
            written_out = scale * float(host.external_write_s[i, k])
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


def _add_moves(program: LinearProgram, host: Problem, x: np.ndarray, cost_per_byte: np.ndarray) -> None:
    """The product x_pa · x_ib of an edge p → i as a flow y_ab: Σ_b y_ab = x_pa, Σ_a y_ab = x_ib."""
    n, parents, levels = host.shape
    for i in range(n):
        for p in range(parents):
            if host.parent_bytes[i, p] == 0:
                continue
            cost = float(host.parent_bytes[i, p]) * cost_per_byte
            y = np.array([program.variable(high=1.0, cost=c) for c in cost.ravel()]).reshape(levels, levels)
            for a in range(levels):
                program.row([*((f, 1.0) for f in y[a]), (x[host.parent[i, p], 1, a], -1.0)], 0.0, 0.0)
                program.row([*((f, 1.0) for f in y[:, a]), (x[i, 1, a], -1.0)], 0.0, 0.0)
