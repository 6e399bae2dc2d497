"""Environments at traced bit-widths [ours]: one compiled program for all configurations of a search of bits.

`environment` checks a workload, a chip and bit-widths on the host and makes tables of them. Here the tables
are a pure function of the bit-widths, so that a policy places a network inside the same program that says
what its bit-widths cost. Nothing can be refused there: what the chip cannot compute takes infinitely long.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Bool, Float

import hwmodel as hw

from .environment import Environment, exact_latency

Features = Literal["paper19", "onehot", "plus"]


def environment_at(
    workload: hw.Workload, chip: hw.Chip, *, contention: float | None = None, features: Features = "plus"
) -> Callable[[hw.Bits], Environment]:
    """`environment(workload, chip, bits=bits)` as a pure function of `bits`: jit it, vmap it.

    The same numbers to rounding: node features are worked out in float32 there.

    Args:
        contention: see `hwmodel.contended_latency`.
        features: of the graph's nodes; those of "plus" follow the bytes.

    Raises:
        ValueError: a negative contention; what `hwmodel.workload_arrays` and `chip_arrays` refuse.
    """
    if contention is not None and not contention >= 0:
        raise ValueError(f"contention must be at least 0, got {contention}")
    graph = hw.policy_graph(workload, features, chip, hw.INT8)

    def at(bits: hw.Bits) -> Environment:
        problem = hw.problem_from_arrays(hw.workload_arrays(workload), hw.chip_arrays(chip), bits)
        real = problem.output_write_s.dtype
        nodes = _nodes(graph, workload, chip, problem) if features == "plus" else jnp.asarray(graph.nodes)
        made = Environment(
            problem,
            jax.tree.map(jnp.asarray, graph)._replace(nodes=nodes),
            allowed_levels(problem),
            jnp.zeros((), real),
            jnp.zeros((), real),
            None if contention is None else jnp.asarray(contention, real),
        )
        n, _, levels = problem.shape
        fastest = jnp.full((n, 2), levels - 1, jnp.int32)  # what `hwmodel.first_fit` asks for
        return made._replace(reference_s=exact_latency(made, fastest))

    return at


def allowed_levels(problem: hw.Problem) -> Bool[Array, "N 2 L"]:
    """Levels on which a tensor alone would fit; level 0 for what has no bytes, a pin's level for a pin."""
    units = jnp.stack([problem.weight_units, problem.output_units], axis=1)
    sizes = jnp.stack([problem.weight_bytes, problem.output_bytes], axis=1)
    levels = jnp.arange(units.shape[-1])
    backing = levels[None, None] == 0
    fits = (units <= jnp.max(problem.capacity_units, axis=0)[None, None]) & (sizes > 0)[..., None]
    pin = problem.pin[..., None]
    return jnp.where(pin >= 0, levels[None, None] == pin, fits | backing)


def _nodes(
    graph: jraph.GraphsTuple, workload: hw.Workload, chip: hw.Chip, problem: hw.Problem
) -> Float[Array, "N F"]:
    """The features with their columns of bytes as the problem has them.

    A size s stands there as log(1 + s) / log(1 + c); c, the package's scale, is in the column at 8 bits.
    """
    names, nodes = hw.feature_names("plus", chip), jnp.asarray(graph.nodes)
    count = len(workload.operations)
    then = {"weight": np.zeros(count), "output": np.zeros(count)}
    for tensor in hw.tensors(workload, hw.INT8, chip.count_bias):
        then["output" if tensor.column else "weight"][tensor.operation] = tensor.bytes
    now = {"weight": problem.weight_bytes, "output": problem.output_bytes}
    room = {"bytes": 1.0}
    for level in chip.levels[1:]:
        room[level.name] = float(level.capacity_bytes or 0) - level.reserved_bytes
    for kind in ("weight", "output"):
        for where, free in room.items():
            name = f"{kind}_bytes" if where == "bytes" else f"{where}.{kind}_share"
            column = names.index(name)
            old = np.log1p(then[kind] / free)
            scale = np.where(old > 0, np.asarray(graph.nodes[:count, column]) / np.where(old > 0, old, 1), 0)
            new = jnp.log1p(now[kind].astype(nodes.dtype) / np.float32(free)) * scale.astype(np.float32)
            nodes = nodes.at[:count, column].set(new)
    return nodes
