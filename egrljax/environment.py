"""The compiler and the chip as an environment: maps of a workload in, latency and validity out.

An episode is one step: one map for the whole network, one measurement (Khadka et al. 2021, section 3). A map
(N, 2) gives the level of every operation's weights and output. The compiler rectifies it, and what it had to
re-assign is counted in bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

import hwmodel as hw


class Environment(NamedTuple):
    """N operations, L levels; a pytree."""

    problem: hw.Problem
    graph: jraph.GraphsTuple  # what policies and critics see: `hwmodel.policy_graph`, padded to its bucket
    allowed: Bool[Array, "N 2 L"]  # levels that a decision may take; one is left where there is no choice
    reference_s: Float[Array, ""]  # latency of `first_fit`, the compiler whose speed is 1
    noise: Float[Array, ""]  # standard deviation of the log of a measurement's error
    contention: Float[Array, ""] | None  # of `hwmodel.contended_latency`; None: the linear model

    @property
    def decisions(self) -> Int[Array, ""]:
        """How many of the 2 N decisions have a choice."""
        return jnp.sum(jnp.sum(self.allowed, axis=-1, dtype=jnp.int32) > 1, dtype=jnp.int32)


class Measured(NamedTuple):
    """Of M maps, or of one."""

    latency_s: Float[Array, "*M"]  # of the rectified map, with the noise of the measurement
    moved: Float[Array, "*M"]  # bytes re-assigned / all bytes
    valid: Bool[Array, "*M"]
    placement: Int[Array, "*M N 2"]  # as rectified


def environment(
    workload: hw.Workload,
    chip: hw.Chip,
    *,
    bits: hw.Bits = hw.INT8,
    pins: Mapping[str, str] | None = None,
    forbidden: Mapping[str, Sequence[str]] | None = None,
    noise: float = 0.0,
    contention: float | None = None,
    nodes: int | None = None,
    features: Literal["paper19", "onehot", "plus"] = "plus",
) -> Environment:
    """The environment of a workload on a chip; everything that cannot be is refused here.

    Args:
        pins: tensor -> level, {"conv1.weight": "sram"}.
        forbidden: tensor -> levels that it must not lie on. Regions that are not the network's are the chip's
            `reserved_bytes`.
        noise: sigma; a measurement is the latency times exp(sigma · normal).
        contention: see `hwmodel.contended_latency`.
        nodes: pads problem and graph to a number of operations, so that workloads share compiled programs.
        features: of the graph's nodes; "paper19" are the paper's, "plus" tell of sizes and of the chip.

    Raises:
        ValueError: of `hwmodel.problem`, `pinned` and `forbidden`; a negative noise or contention; nothing to
            decide: every tensor is pinned or fits on one level only.
    """
    for name, value in (("noise", noise), ("contention", contention)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    problem = hw.problem(workload, chip, bits, nodes)
    if pins:
        problem = hw.pinned(problem, workload, chip, pins, bits)
    if forbidden:
        problem = hw.forbidden(problem, workload, chip, forbidden, bits)
    allowed = _allowed(problem)
    if not (allowed.sum(axis=-1) > 1).any():
        raise ValueError(
            f"nothing to decide: every tensor of workload {workload.name!r} is pinned, or fits no level of "
            f"chip {chip.name!r} but {chip.level_names[0]!r}"
        )
    real = problem.output_write_s.dtype
    made = Environment(
        problem,
        jax.tree.map(jnp.asarray, hw.policy_graph(workload, features, chip, bits, nodes=nodes)),
        jnp.asarray(allowed),
        jnp.zeros((), real),
        jnp.asarray(noise, real),
        None if contention is None else jnp.asarray(contention, real),
    )
    return made._replace(reference_s=exact_latency(made, jnp.asarray(hw.first_fit(problem))))


def _allowed(problem: hw.Problem) -> Bool[np.ndarray, "N 2 L"]:
    """Levels on which a tensor alone would fit; level 0 for what has no bytes, a pin's level for a pin."""
    pin = np.asarray(problem.pin)
    units = np.stack([problem.weight_units, problem.output_units], axis=1).astype(np.int64)
    most = np.asarray(problem.capacity_units, np.int64).max(axis=0)
    sizes = np.stack([problem.weight_bytes, problem.output_bytes], axis=1)
    levels = np.arange(units.shape[-1])
    fits = ((units <= most) | (levels == 0)) & (sizes > 0)[..., None]
    fits[..., 0] = True
    return np.where(pin[..., None] >= 0, levels == pin[..., None], fits)


def measure(
    key: jax.Array, env: Environment, maps: Int[Array, "M N 2"], mesh: Mesh | None = None
) -> Measured:
    """One measurement of each map, latencies in seconds; every map counts as one evaluation.

    Args:
        mesh: devices that share the maps, static under jit; see `hwmodel.devices`.
    """
    evaluate = _evaluate if mesh is None else hw.sharded(_evaluate, mesh, (None, hw.POP))
    found = evaluate(env, maps)
    latency_s = found.latency_s
    error = jnp.exp(env.noise * jax.random.normal(key, latency_s.shape, latency_s.dtype))
    return Measured(latency_s * error, found.moved, found.valid, found.placement)


def exact_latency(env: Environment, maps: Int[Array, "*M N 2"]) -> Float[Array, "*M"]:
    """Seconds of rectified maps without noise: for reports, never for the search."""
    return _evaluate(env, maps).latency_s


def _evaluate(env: Environment, maps: Int[Array, "*M N 2"]) -> hw.Evaluation:
    found = hw.evaluate(env.problem, maps)
    if env.contention is None:
        return found
    return found._replace(latency_s=hw.contended_latency(env.problem, found.placement, env.contention))
