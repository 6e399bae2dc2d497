"""Latency and energy on a chip as objectives of bit-widths: one pure function of bits (n,) each.

The bit-widths of points become those of tensors (chip_bits.py), tensors get their tables (hwmodel's
`problem_from_arrays`) and their places (placing.py), and the exact model says how long that takes, all under
jit. A search sees no difference to any other function of bits.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

import hwmodel as hw

from .chip_bits import Widths, listed, tensor_bits
from .placing import Placing, placing
from .quantized import QuantizedNetwork

Measure = Literal["latency", "energy"]
Bits = Int[Array | np.ndarray, " n"]
Levels = Int[Array | np.ndarray, "N 2"]


@dataclass(frozen=True)
class ChipCost:
    """Seconds or joules of one inference at given bit-widths; equal ones share compiled programs."""

    workload: hw.Workload
    chip: hw.Chip
    place: Placing
    widths: Widths = Widths()  # noqa: RUF009  frozen, and without arrays
    measure: str = "latency"
    schedule: str = "sequential"  # of hwmodel.latency: of the cost, and by which placements are compared

    def __call__(self, bits: Bits) -> Float[Array, ""]:
        """The cost; +inf where the chip cannot compute or hold the network at these bit-widths."""
        return _placed(self, jnp.asarray(bits))[0]

    def placement(self, bits: Bits) -> Int[Array, "N 2"]:
        """Where the tensors lie."""
        return _placed(self, jnp.asarray(bits))[1]

    def at(self, bits: Bits, wish: Levels) -> Float[Array, ""]:
        """The cost of another placement, of which what does not fit slides to slower levels."""
        return _at(self, jnp.asarray(bits), jnp.asarray(wish))[0]

    def rectified(self, bits: Bits, wish: Levels) -> Int[Array, "N 2"]:
        """That placement, as it fits at these bit-widths."""
        return _at(self, jnp.asarray(bits), jnp.asarray(wish))[1]

    @property
    def chip_widths(self) -> list[int]:
        """Bit-widths of weights or activations that the chip lists, ascending."""
        return sorted({b for rate in self.chip.compute for b in (rate.weight_bits, rate.activation_bits)})

    def placed_by(self, place: Any) -> "ChipCost":
        """The same cost with tensors placed otherwise; see `latency`."""
        return replace(self, place=placing(place))

    def problem(self, bits: Bits) -> tuple[hw.Bits, hw.Problem]:
        """Bit-widths of the tensors, and their tables."""
        own = tensor_bits(self.workload, self.chip, bits, self.widths)
        arrays = hw.workload_arrays(self.workload), hw.chip_arrays(self.chip)
        return own, hw.problem_from_arrays(*arrays, own)

    def _measured(self, bits: hw.Bits, problem: hw.Problem, placement: Array) -> Float[Array, ""]:
        if self.measure == "energy":
            found = hw.energy_j(problem, placement)
        else:
            found = hw.latency(problem, placement, self.schedule)
        possible = _held(problem, self.chip) & jnp.all(jnp.isfinite(problem.compute_s))
        if self.widths.unsupported == "inf":
            possible &= listed(self.workload, self.chip, bits)
        return jnp.where(possible, found, jnp.inf)


# With the cost static: called from another program it becomes part of that, called alone it compiles once.
@partial(jax.jit, static_argnums=0)
def _placed(cost: ChipCost, bits: Array) -> tuple[Array, Array]:
    own, problem = cost.problem(bits)
    placement = cost.place(cost.workload, cost.chip, own, problem, cost.schedule)
    return cost._measured(own, problem, placement), placement


@partial(jax.jit, static_argnums=0)
def _at(cost: ChipCost, bits: Array, wish: Array) -> tuple[Array, Array]:
    own, problem = cost.problem(bits)
    placement = hw.rectify(problem, wish).placement
    return cost._measured(own, problem, placement), placement


def latency(
    network: QuantizedNetwork | hw.Workload,
    chip: hw.Chip,
    placement: Any = "best",
    *,
    widths: Widths | None = None,
    schedule: str = "sequential",
) -> ChipCost:
    """Seconds of one inference on a chip, as a function of the bit-widths (n,) of a network's points.

    Args:
        network: quantized, or its workload.
        placement: "first_fit", "density", "banked_greedy", or "best", the fastest of these; a TrainedPolicy
            of egrljax; levels (N, 2) that are wished for at all bit-widths; `Evolved(...)` or
            `Descended(...)`, a short search at every configuration; any `Placing`.
        widths: what becomes of bit-widths that the chip does not compute, and of tensors without a quantizer.
        schedule: of `hwmodel.latency`; placements are compared by it, too.

    Returns:
        A pure JAX function, for the `costs` of a Task.

    Raises:
        ValueError: a workload without points, an unknown rule or schedule, what hwmodel refuses of chip and
            workload.
    """
    return _cost(network, chip, placement, widths, "latency", schedule)


def energy(
    network: QuantizedNetwork | hw.Workload,
    chip: hw.Chip,
    placement: Any = "best",
    *,
    widths: Widths | None = None,
    schedule: str = "sequential",
) -> ChipCost:
    """Joules of one inference on a chip that states its energies; placements as of `latency`, made for speed.

    Args:
        network, chip, placement, widths: as of `latency`.
        schedule: by which placements are compared, that of the `latency` beside it. Energy has none.

    Raises:
        ValueError: as `latency`; a chip that reports no energy for some level or rate.
    """
    silent = [level.name for level in chip.levels if level.energy_j_per_byte is None]
    silent += [f"{r.weight_bits}x{r.activation_bits}" for r in chip.compute if r.energy_j_per_mac is None]
    if silent:
        raise ValueError(
            f"chip {chip.name!r} reports no energy of {', '.join(silent)}: give energy_j_per_byte for all "
            "levels and energy_j_per_mac for all rates"
        )
    return _cost(network, chip, placement, widths, "energy", schedule)


def _cost(
    network: QuantizedNetwork | hw.Workload,
    chip: hw.Chip,
    placement: Any,
    widths: Widths | None,
    measure: Measure,
    schedule: str,
) -> ChipCost:
    workload = network if isinstance(network, hw.Workload) else network.workload
    if not workload.points:
        raise ValueError(f"workload {workload.name!r} has no quantizable points: trace the network")
    hw.workload_arrays(workload)  # raise what they refuse here, not inside a search
    hw.chip_arrays(chip)
    if schedule not in ("sequential", "critical_path"):
        raise ValueError(f"schedule must be 'sequential' or 'critical_path', got {schedule!r}")
    return ChipCost(workload, chip, placing(placement), widths or Widths(), measure, schedule)


def _held(problem: hw.Problem, chip: hw.Chip) -> Bool[Array, ""]:
    """Whether the backing store holds everything at once, as `hwmodel.problem` demands on the host."""
    level = chip.levels[0]
    if level.capacity_bytes is None:
        return jnp.bool_(True)
    n = problem.shape[0]
    made = problem.output_units[:, 0].astype(jnp.float32)
    change = jnp.zeros((n + 1,), jnp.float32).at[:n].add(made).at[problem.death + 1].add(-made)
    most = jnp.max(jnp.cumsum(change)) + jnp.sum(problem.weight_units[:, 0].astype(jnp.float32))
    free = (level.capacity_bytes - level.reserved_bytes) // level.align_bytes
    return most <= jnp.float32(free)
