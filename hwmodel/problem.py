"""Problem: one workload at given bit-widths on one chip, as the tables that every cost function reads.

All that a placement can change is linear in it: tensor t on level k costs `seconds[t, k]`. So latency, its
soft form, the integer program and the greedy rules share these tables and cannot disagree about them.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .arrays import MOST_UNITS, ChipArrays, WorkloadArrays, chip_arrays, workload_arrays
from .bits import INT8, Bits
from .checks import check
from .chip import Chip
from .workload import Workload


class Problem(NamedTuple):
    """N operations, P parents, L levels; seconds and bytes at the bit-widths asked for.

    A placement is an integer array (N, 2): the level of each operation's weights and of its output.
    """

    compute_s: Float[Array, " N"]
    weight_read_s: Float[Array, "N L"]  # if the weights lie on level k
    output_write_s: Float[Array, "N L"]
    parent_read_s: Float[Array, "N P L"]
    external_read_s: Float[Array, "N L"]  # graph inputs, wherever tensors lie
    external_write_s: Float[Array, "N L"]  # graph outputs
    parent: Int[Array, "N P"]  # the operation itself where absent
    parent_bytes: Float[Array, "N P"]  # read along the edge
    weight_of: Int[Array, " N"]  # owner of the weights
    death: Int[Array, " N"]
    slot: Int[Array, " N"]  # see lifetimes.py
    dying: Int[Array, "N D"]
    slots: Int[Array, " S"]
    weight_bytes: Int[Array, " N"]  # 0 where another operation owns them
    output_bytes: Int[Array, " N"]
    weight_units: Int[Array, "N L"]  # room taken on level k, in units of its alignment
    output_units: Int[Array, "N L"]
    capacity_units: Int[Array, "N L"]  # at each step; what pins hold is taken off
    pin: Int[Array, "N 2"]  # the level a tensor is pinned to; -1: free. Pinned tensors take 0 units
    checks: Int[Array, " K"]  # steps at which pinned outputs are born
    dual_ported: Bool[Array, " L"]
    overlap: Float[Array, ""]
    mask: Bool[Array, " N"]  # False: padding
    move_s_per_byte: Float[Array, "L L"] | None
    compute_j: Float[Array, " N"] | None  # None: the chip reports no energy
    level_j_per_byte: Float[Array, " L"] | None
    weight_traffic_bytes: Float[Array, " N"]
    external_level: Float[Array, " L"]  # 1 at the level of graph inputs and outputs
    external_bytes: Float[Array, " N"]  # read and written there

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, L)."""
        n, p = self.parent.shape
        return n, p, self.capacity_units.shape[1]


def problem(workload: Workload, chip: Chip, bits: Bits = INT8, nodes: int | None = None) -> Problem:
    """The tables of a workload on a chip, checked; `nodes` pads to a number of operations.

    Raises:
        ValueError: bit-widths outside 1-32 or that the chip cannot compute, a tensor of 2 GiB or more, a
            network larger than the backing store, with the operation and the numbers.
    """
    arrays = workload_arrays(workload, nodes)
    weights, outputs, inputs = check(workload, chip, bits)
    more = (0, arrays.death.shape[0] - len(weights))
    padded = Bits(
        weights=jnp.asarray(np.pad(weights, more, constant_values=8).astype(np.int32)),
        outputs=jnp.asarray(np.pad(outputs, more, constant_values=8).astype(np.int32)),
        inputs=jnp.asarray(inputs, jnp.int32),
    )
    return problem_from_arrays(arrays, chip_arrays(chip), padded)


def problem_from_arrays(work: WorkloadArrays, chip: ChipArrays, bits: Bits = INT8) -> Problem:
    """`problem` as a pure function of arrays: jit it, vmap it over chips or bit-widths.

    Nothing can be refused here: an operation whose bit-widths no rate holds takes infinitely long.
    """
    shape = work.macs.shape
    w_bits, o_bits = (jnp.broadcast_to(jnp.asarray(b, jnp.int32), shape) for b in bits[:2])
    in_bits = jnp.asarray(bits.inputs, jnp.int32)
    w_bits = w_bits[work.weight_of]
    weights = tensor_bytes(work.weight_elems, w_bits)
    bias = tensor_bytes(work.bias_elems, jnp.broadcast_to(chip.bias_bits, shape))
    made = tensor_bytes(work.output_elems, o_bits)
    outside = tensor_bytes(work.external_elems, jnp.broadcast_to(in_bits, shape))
    real = jnp.result_type(work.macs)

    weight_traffic = weights.astype(real) * work.weight_reads + bias.astype(real)
    parent_bytes = made.astype(real)[work.parent] * work.parent_reads
    present = work.parent_reads > 0
    a_bits = jnp.max(jnp.where(present, o_bits[work.parent], 0), axis=1)
    a_bits = jnp.maximum(a_bits, jnp.where(work.external_elems > 0, in_bits, 0))
    a_bits = jnp.where(a_bits > 0, a_bits, o_bits)
    rate = _rate(chip, jnp.where(weights > 0, w_bits, a_bits), a_bits)
    efficiency = chip.efficiency[work.kind]  # a share of ops_per_s
    overhead = jnp.where(work.mask, chip.overhead_s, jnp.zeros((), real))

    def seconds(traffic: Array, s_per_byte: Array) -> Array:
        """(..., L): transfer plus the level's latency, nothing for nothing."""
        some = (traffic > 0)[..., None]
        lead = (1,) * traffic.ndim
        taken = traffic[..., None] * s_per_byte.reshape(*lead, -1) + chip.latency_s.reshape(*lead, -1)
        return jnp.where(some, taken, jnp.zeros((), real))

    read, write = chip.read_s_per_byte, chip.write_s_per_byte
    owned = work.weight_of == jnp.arange(shape[0], dtype=work.weight_of.dtype)
    kept = jnp.where(owned, weights, 0).at[work.weight_of].add(bias)  # biases lie beside shared weights
    outside_out = jnp.where(work.is_output, made, 0)
    return Problem(
        compute_s=_compute_s(work.macs / efficiency, chip, rate) + overhead,
        weight_read_s=seconds(weight_traffic, read),
        output_write_s=seconds(made.astype(real), write),
        parent_read_s=seconds(parent_bytes, read),
        external_read_s=seconds(outside.astype(real), read) * chip.external[None],
        external_write_s=seconds(outside_out.astype(real), write) * chip.external[None],
        parent=work.parent,
        parent_bytes=parent_bytes,
        weight_of=work.weight_of,
        death=work.death,
        slot=work.slot,
        dying=work.dying,
        slots=work.slots,
        weight_bytes=kept,
        output_bytes=made,
        weight_units=_units(kept, chip) * chip.weight_copies,
        output_units=_units(made, chip),
        capacity_units=jnp.broadcast_to(chip.capacity_units, (*shape, *chip.capacity_units.shape)),
        pin=jnp.full((*shape, 2), -1, jnp.int32),
        checks=jnp.zeros((0,), jnp.int32),
        dual_ported=chip.dual_ported,
        overlap=chip.overlap,
        mask=work.mask,
        move_s_per_byte=chip.move_s_per_byte,
        compute_j=_compute_j(work.macs, chip, rate),
        level_j_per_byte=chip.level_j_per_byte,
        weight_traffic_bytes=weight_traffic,
        external_level=chip.external,
        external_bytes=outside.astype(real) + outside_out.astype(real),
    )


def tensor_seconds(problem: Problem) -> Float[Array, "N 2 L"]:
    """What all transfers of a tensor take if it lies on level k: weights (at their owner) and outputs."""
    weight = jnp.zeros_like(problem.weight_read_s).at[problem.weight_of].add(problem.weight_read_s)
    output = problem.output_write_s.at[problem.parent].add(problem.parent_read_s)
    return jnp.stack([weight, output], axis=1)


def saved_density(problem: Problem) -> Float[Array, "N 2 L"]:
    """Seconds that a tensor saves on level k against level 0, per byte and step of its life.

    What the rule `density` goes by. 0 for tensors without bytes.
    """
    n = problem.shape[0]
    seconds = tensor_seconds(problem)
    size = jnp.stack([problem.weight_bytes, problem.output_bytes], axis=1).astype(seconds.dtype)
    steps = jnp.sum(problem.mask, dtype=jnp.int32)  # weights live through all of them
    lives = jnp.stack([jnp.full((n,), steps), problem.death - jnp.arange(n, dtype=jnp.int32) + 1], axis=1)
    lives = lives.astype(seconds.dtype)
    return (seconds[..., :1] - seconds) / jnp.maximum(size * lives, 1)[..., None]


def tensor_bytes(elems: Int[Array, " N"], bits: Int[Array, " N"]) -> Int[Array, " N"]:
    """ceil(elems * bits / 8), exact in 32 bits up to 2 GiB."""
    return elems // 8 * bits + (elems % 8 * bits + 7) // 8


def _rate(chip: ChipArrays, w_bits: Int[Array, " N"], a_bits: Int[Array, " N"]) -> Int[Array, " N"]:
    """Index of the smallest rate that holds both bit-widths; R where none does."""
    holds = (chip.rate_weight_bits[None] >= w_bits[:, None]) & (
        chip.rate_activation_bits[None] >= a_bits[:, None]
    )
    return jnp.where(jnp.any(holds, axis=1), jnp.argmax(holds, axis=1), chip.s_per_op.shape[0])


def _compute_s(macs: Float[Array, " N"], chip: ChipArrays, rate: Int[Array, " N"]) -> Float[Array, " N"]:
    """Two operations a multiply-accumulate; infinite where no rate holds the bit-widths."""
    known = rate < chip.s_per_op.shape[0]
    s_per_op = chip.s_per_op[jnp.where(known, rate, 0)]
    return jnp.where(known | (macs == 0), 2 * macs * s_per_op, jnp.inf)


def _compute_j(macs: Float[Array, " N"], chip: ChipArrays, rate: Int[Array, " N"]) -> Array | None:
    """Energy of all multiply-accumulates; None where the chip reports none."""
    if chip.mac_j is None:
        return None
    per_mac = jnp.append(chip.mac_j, jnp.inf)[rate]
    return jnp.where(macs == 0, 0, macs * per_mac)


def _units(size: Int[Array, " N"], chip: ChipArrays) -> Int[Array, "N L"]:
    """Room in units of alignment; what cannot fit takes one unit more than there is, so sums stay small."""
    units = -(-size[:, None] // chip.align_bytes[None])
    return jnp.minimum(units, jnp.minimum(chip.capacity_units, MOST_UNITS)[None] + 1)
