"""Workloads and chips as pytrees of arrays, so that one compiled program serves many of them.

Nodes and parents can be padded; padding has no elements, no time and no lifetime beyond its own step, and
never changes a result.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .chip import KINDS, Chip
from .lifetimes import lifetimes, power_of_two
from .workload import Workload

_INT32 = 2**31 - 1
MOST_NODES = 2**15  # so that moved bytes can be summed in two halves of 32 bits
MOST_UNITS = 2**30 - 2  # of a level, so that two sums of them stay below 2^31


class WorkloadArrays(NamedTuple):
    """N operations with up to P parents each. Absent parents are the operation itself, reading nothing."""

    macs: Float[Array, " N"]
    weight_elems: Int[Array, " N"]  # stored, also at operations that only share them
    weight_reads: Float[Array, " N"]  # elements read per inference / elements stored
    weight_of: Int[Array, " N"]  # the operation that owns the weights; itself where nothing is shared
    bias_elems: Int[Array, " N"]
    output_elems: Int[Array, " N"]
    parent: Int[Array, "N P"]
    parent_reads: Float[Array, "N P"]  # elements read / elements of that output; 0: absent
    external_elems: Int[Array, " N"]  # read from graph inputs
    death: Int[Array, " N"]  # last step, inclusive, at which the output is alive
    slot: Int[Array, " N"]  # see lifetimes.py
    dying: Int[Array, "N D"]
    slots: Int[Array, " S"]
    kind: Int[Array, " N"]  # index into chip.KINDS
    is_output: Bool[Array, " N"]
    mask: Bool[Array, " N"]  # False: padding


class ChipArrays(NamedTuple):
    """L levels, backing store first, and R compute rates, smallest first."""

    capacity_units: Int[Array, " L"]  # of align_bytes, reserved bytes taken off; the backing store: unlimited
    align_bytes: Int[Array, " L"]
    read_s_per_byte: Float[Array, " L"]
    write_s_per_byte: Float[Array, " L"]
    latency_s: Float[Array, " L"]
    dual_ported: Bool[Array, " L"]
    rate_weight_bits: Int[Array, " R"]
    rate_activation_bits: Int[Array, " R"]
    s_per_op: Float[Array, " R"]
    efficiency: Float[Array, " K"]  # per kind of operation
    overhead_s: Float[Array, ""]
    overlap: Float[Array, ""]
    weight_copies: Int[Array, ""]  # 2 with double buffering
    bias_bits: Int[Array, ""]  # 0: biases do not count
    external: Float[Array, " L"]  # 1 at the level of graph inputs and outputs
    move_s_per_byte: Float[Array, "L L"] | None  # from, to; None: moves are free
    level_j_per_byte: Float[Array, " L"] | None  # None: energy is not reported
    mac_j: Float[Array, " R"] | None


def workload_arrays(workload: Workload, nodes: int | None = None) -> WorkloadArrays:
    """The workload as arrays, padded to `nodes` operations if that is given.

    Room for parents, and the tables of lifetimes.py, are padded to powers of two; with `nodes` generously, so
    that networks of one size share compiled programs.

    Raises:
        ValueError: no operations or too many, too small a padding, a tensor of 2^31 elements or more.
    """
    ops, n = workload.operations, len(workload.operations)
    if n == 0:
        raise ValueError("the workload has no operations")
    fan_in = max(len(op.parents) for op in ops)
    size = n if nodes is None else nodes
    width = power_of_two(fan_in, 2 if nodes is None else 4)
    if size > MOST_NODES:
        raise ValueError(
            f"at most {MOST_NODES} operations can be placed at once, got {size}: split the network"
        )
    if size < n:
        raise ValueError(f"nodes must be at least {n}, the number of operations, got {size}")
    for op in ops:
        for field in ("w_elems", "bias_elems", "o_elems", "ext_in"):
            if getattr(op, field) > _INT32:
                raise ValueError(
                    f"operation {op.name!r} has {field} = {getattr(op, field)}; tensors must stay below "
                    "2^31 elements: split it"
                )

    def column(field: str, dtype: type) -> Array:
        values = [getattr(op, field) for op in ops] + [0] * (size - n)
        return jnp.asarray(np.array(values, dtype))

    death = np.concatenate([workload.death, np.arange(n, size)]).astype(np.int32)
    alive = lifetimes(death) if nodes is None else lifetimes(death, least_dying=4, least_slots=16)
    own = np.tile(np.arange(size)[:, None], (1, width))
    reads: np.ndarray = np.zeros((size, width), _float())
    for i, op in enumerate(ops):
        for j, edge in enumerate(op.parents):
            own[i, j] = edge.producer
            reads[i, j] = edge.elems / ops[edge.producer].o_elems
    owner = np.arange(size)
    owner[:n] = [op.w_id if op.w_id >= 0 else i for i, op in enumerate(ops)]
    share = [op.w_reads / op.w_elems if op.w_elems else 0.0 for op in ops] + [0.0] * (size - n)
    return WorkloadArrays(
        macs=column("macs", _float()),
        weight_elems=column("w_elems", np.int32),
        weight_reads=jnp.asarray(np.array(share, _float())),
        weight_of=jnp.asarray(owner.astype(np.int32)),
        bias_elems=column("bias_elems", np.int32),
        output_elems=column("o_elems", np.int32),
        parent=jnp.asarray(own.astype(np.int32)),
        parent_reads=jnp.asarray(reads),
        external_elems=column("ext_in", np.int32),
        death=jnp.asarray(death),
        slot=jnp.asarray(alive.slot),
        dying=jnp.asarray(alive.dying),
        slots=jnp.asarray(alive.slots),
        kind=jnp.asarray(np.array([KINDS.index(op.kind) for op in ops] + [0] * (size - n), np.int32)),
        is_output=column("is_output", bool),
        mask=jnp.arange(size) < n,
    )


def chip_arrays(chip: Chip) -> ChipArrays:
    """The chip as arrays. Energies are there if every level and every rate states its own.

    Raises:
        ValueError: a level above the backing store with more than 2^30 - 2 units of alignment.
    """
    levels, rates = chip.levels, chip.rates_by_size
    units = [_INT32]
    for level in levels[1:]:
        free = (int(level.capacity_bytes or 0) - level.reserved_bytes) // level.align_bytes
        if free > MOST_UNITS:
            raise ValueError(
                f"level {level.name!r} holds {free} units of align_bytes {level.align_bytes}; occupancy is "
                "counted in 32 bits, which takes at most 2^30 - 2: raise align_bytes"
            )
        units.append(free)

    def floats(values: list[float]) -> Array:
        return jnp.asarray(np.array(values, _float()))

    def ints(values: list[int]) -> Array:
        return jnp.asarray(np.array(values, np.int32))

    read = [1 / level.read_bytes_per_s for level in levels]
    write = [1 / level.write_bytes_per_s for level in levels]
    move = np.maximum(np.array(read)[:, None], np.array(write)[None, :]) * (1 - np.eye(len(levels)))
    level_j = [level.energy_j_per_byte for level in levels]
    mac_j = [rate.energy_j_per_mac for rate in rates]
    known = None not in level_j and None not in mac_j
    efficiency = dict.fromkeys(KINDS, 1.0) | dict(chip.efficiency)
    return ChipArrays(
        capacity_units=ints(units),
        align_bytes=ints([level.align_bytes for level in levels]),
        read_s_per_byte=floats(read),
        write_s_per_byte=floats(write),
        latency_s=floats([level.latency_s for level in levels]),
        dual_ported=jnp.asarray([level.ports == "dual" for level in levels]),
        rate_weight_bits=ints([rate.weight_bits for rate in rates]),
        rate_activation_bits=ints([rate.activation_bits for rate in rates]),
        s_per_op=floats([1 / rate.ops_per_s for rate in rates]),
        efficiency=floats([efficiency[kind] for kind in KINDS]),
        overhead_s=jnp.asarray(chip.overhead_s, _float()),
        overlap=jnp.asarray(chip.overlap, _float()),
        weight_copies=jnp.asarray(2 if chip.double_buffer else 1, jnp.int32),
        bias_bits=jnp.asarray(32 if chip.count_bias else 0, jnp.int32),
        external=floats([float(name == chip.external_io) for name in chip.level_names]),
        move_s_per_byte=jnp.asarray(move.astype(_float())) if chip.move_cost else None,
        level_j_per_byte=floats([j for j in level_j if j is not None]) if known else None,
        mac_j=floats([j for j in mac_j if j is not None]) if known else None,
    )


def _float() -> type:
    """float64 where jax runs with 64 bits, else float32."""
    return jax.dtypes.canonicalize_dtype(np.float64).type
