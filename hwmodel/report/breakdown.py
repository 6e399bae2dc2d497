"""The terms of each operation's time in double precision, from exact byte counts: the model told plainly.

This shares no code with the compiled tables of problem.py, so that each checks the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int

from ..bits import HostBits
from ..chip import Chip, Level, Rate
from ..tensors import OUTPUT, WEIGHT, nbytes
from ..workload import Operation, Workload


@dataclass(frozen=True, eq=False)
class Breakdown:
    """n operations, L levels."""

    ops_per_s: Float[np.ndarray, " n"]  # the rate at the operation's bit-widths, efficiency included
    compute_s: Float[np.ndarray, " n"]
    read_bytes: Float[np.ndarray, "n L"]  # a fraction where an operation reads a part of a packed tensor
    write_bytes: Float[np.ndarray, "n L"]
    level_s: Float[np.ndarray, "n L"]
    move_s: Float[np.ndarray, " n"]
    time_s: Float[np.ndarray, " n"]
    energy_j: Float[np.ndarray, " n"] | None  # None: the chip does not report it
    holds_weights: Bool[np.ndarray, " n"]  # reads weights or biases, its own or shared ones


@dataclass(frozen=True)
class _Transfer:
    level: int
    amount: Fraction  # bytes
    write: bool = False


def breakdown(
    workload: Workload,
    chip: Chip,
    wide: HostBits,
    placement: Int[np.ndarray, "n 2"],
    contention: float = 0.0,
) -> Breakdown:
    """Terms of each operation under a placement, whether or not the tensors fit.

    Args:
        workload: n operations.
        chip: L levels.
        wide: bit-widths in full, from `check`.
        placement: levels of weights and outputs; where weights are shared, their owner's entry counts.
        contention: share of a level's time that each further stream to it costs an operation.
    """
    n, levels = len(workload.operations), chip.levels
    rates = [_rate(workload, chip, wide, i) for i in range(n)]
    share = dict(chip.efficiency)
    ops_per_s = np.array(
        [
            rate.ops_per_s * share.get(op.kind, 1.0)
            for rate, op in zip(rates, workload.operations, strict=True)
        ]
    )
    compute_s = 2 * workload.column("macs") / ops_per_s + chip.overhead_s
    read_bytes, write_bytes, level_s = (np.zeros((n, len(levels))) for _ in range(3))
    move_s, weights = np.zeros(n), np.zeros(n, bool)
    for i, op in enumerate(workload.operations):
        inputs = _inputs(workload, wide, op, placement)
        read = _weights(workload, chip, wide, i)
        weights[i] = read > 0
        owner = op.w_id if op.w_id >= 0 else i
        transfers = [_Transfer(int(placement[owner, WEIGHT]), read), *inputs, *_outside(chip, wide, op, i)]
        transfers.append(_Transfer(int(placement[i, OUTPUT]), _made(wide, op, i), write=True))
        for k, level in enumerate(levels):
            own = [t for t in transfers if t.level == k and t.amount]
            read_bytes[i, k] = float(sum(t.amount for t in own if not t.write))
            write_bytes[i, k] = float(sum(t.amount for t in own if t.write))
            level_s[i, k] = _level_seconds(level, own) * (1 + contention * max(0, len(own) - 1))
        move_s[i] = _move_seconds(chip, inputs, int(placement[i, OUTPUT]))
    terms = np.column_stack([compute_s, level_s])
    time_s = chip.overlap * terms.max(axis=1) + (1 - chip.overlap) * terms.sum(axis=1) + move_s
    level_j, mac_j = [level.energy_j_per_byte for level in levels], [r.energy_j_per_mac for r in chip.compute]
    energy_j = None
    if None not in level_j and None not in mac_j:
        per_mac = np.array([rate.energy_j_per_mac for rate in rates], np.float64)
        moved = (read_bytes + write_bytes) @ np.array(level_j, np.float64)
        energy_j = workload.column("macs") * per_mac + moved
    return Breakdown(
        ops_per_s, compute_s, read_bytes, write_bytes, level_s, move_s, time_s, energy_j, weights
    )


def _rate(workload: Workload, chip: Chip, wide: HostBits, i: int) -> Rate:
    """The rate for the operation's weights and its widest input; its output where it reads nothing."""
    op = workload.operations[i]
    read = [int(wide.outputs[edge.producer]) for edge in op.parents] + [wide.inputs] * (op.ext_in > 0)
    activation_bits = max(read, default=int(wide.outputs[i]))
    return chip.rate(int(wide.weights[i]) if op.w_elems else activation_bits, activation_bits)


def _weights(workload: Workload, chip: Chip, wide: HostBits, i: int) -> Fraction:
    """Bytes of weights read in one inference, with biases at 32 bits where the chip counts them."""
    op = workload.operations[i]
    bias = 4 * op.bias_elems if chip.count_bias else 0
    if not op.w_elems:
        return Fraction(bias)
    return Fraction(nbytes(op.w_elems, int(wide.weights[i])) * op.w_reads, op.w_elems) + bias


def _made(wide: HostBits, op: Operation, i: int) -> Fraction:
    return Fraction(nbytes(op.o_elems, int(wide.outputs[i])))


def _inputs(workload: Workload, wide: HostBits, op: Operation, placement: np.ndarray) -> list[_Transfer]:
    found = []
    for edge in op.parents:
        producer = workload.operations[edge.producer]
        amount = _made(wide, producer, edge.producer) * Fraction(edge.elems, producer.o_elems)
        found.append(_Transfer(int(placement[edge.producer, OUTPUT]), amount))
    return found


def _outside(chip: Chip, wide: HostBits, op: Operation, i: int) -> list[_Transfer]:
    """Graph inputs and outputs, where the chip says where they are."""
    if chip.external_io is None:
        return []
    level = chip.level_index(chip.external_io)
    found = [_Transfer(level, Fraction(nbytes(op.ext_in, wide.inputs)))]
    return [*found, _Transfer(level, _made(wide, op, i), write=True)] if op.is_output else found


def _level_seconds(level: Level, transfers: Sequence[_Transfer]) -> float:
    read, write = 0.0, 0.0
    for one in transfers:
        if one.write:
            write += float(one.amount) / level.write_bytes_per_s + level.latency_s
        else:
            read += float(one.amount) / level.read_bytes_per_s + level.latency_s
    return max(read, write) if level.ports == "dual" else read + write


def _move_seconds(chip: Chip, inputs: Sequence[_Transfer], target: int) -> float:
    if not chip.move_cost:
        return 0.0
    write = chip.levels[target].write_bytes_per_s
    seconds = [
        float(one.amount) / min(chip.levels[one.level].read_bytes_per_s, write)
        for one in inputs
        if one.level != target
    ]
    return float(sum(seconds))
