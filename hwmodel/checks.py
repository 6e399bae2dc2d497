"""What is checked once on the host before a workload meets a chip."""

from typing import Any

import numpy as np
from jaxtyping import Int

from .bits import INT8, Bits, HostBits, host_bits
from .chip import Chip
from .tensors import WEIGHT, aligned, nbytes, occupancy, tensors
from .workload import Workload


def check(workload: Workload, chip: Chip, bits: Bits = INT8) -> HostBits:
    """The bit-widths in full.

    Raises:
        ValueError: bit-widths of a wrong kind or that no rate of the chip holds, a tensor of 2 GiB or more, a
            workload that the backing store cannot hold; always with the operation and the numbers.
    """
    wide = host_bits(workload, bits)
    for i, op in enumerate(workload.operations):
        inputs = [int(wide.outputs[edge.producer]) for edge in op.parents] + [wide.inputs] * (op.ext_in > 0)
        activation_bits = max(inputs, default=int(wide.outputs[i]))
        try:
            chip.rate(int(wide.weights[i]) if op.w_elems else activation_bits, activation_bits)
        except ValueError as error:
            raise ValueError(f"operation {op.name!r}: {error}") from None
        for what, elems, width in (
            ("weights", op.w_elems, int(wide.weights[i])),
            ("output", op.o_elems, int(wide.outputs[i])),
            ("graph inputs", op.ext_in, wide.inputs),
        ):
            if nbytes(elems, width) >= 2**31:
                raise ValueError(
                    f"operation {op.name!r}: its {what} of {elems} elements at {width} bits take 2 GiB or "
                    "more; sizes are counted in 32 bits: split the operation"
                )
    for tensor in tensors(workload, bits, chip.count_bias):
        if tensor.bytes >= 2**31:
            raise ValueError(
                f"tensor {tensor.name!r} takes {tensor.bytes} bytes with its biases; sizes are counted in 32 "
                "bits: split the operation"
            )
    _check_backing_store(workload, chip, bits)
    return wide


def checked_placement(workload: Workload, chip: Chip, placement: Any) -> Int[np.ndarray, "N 2"]:
    """The placement as int32, shared weights at their owner's level; ValueError for what is none."""
    given, n, levels = np.asarray(placement), len(workload.operations), len(chip.levels)
    hint = "; pass its .placement" if hasattr(placement, "placement") else ""
    if given.shape != (n, 2) or given.dtype.kind not in "iu":
        raise ValueError(
            f"placement must be whole numbers of shape ({n}, 2), levels of weights and outputs, got "
            f"{given.dtype} of shape {given.shape}{hint}"
        )
    wrong = np.argwhere((given < 0) | (given >= levels))
    if len(wrong):
        i, column = wrong[0]
        raise ValueError(
            f"placement puts the {('weights', 'output')[column]} of operation "
            f"{workload.operations[i].name!r} on level {given[i, column]}; chip {chip.name!r} has 0 to "
            f"{levels - 1}"
        )
    placed = given.astype(np.int32)
    owner = [op.w_id if op.w_id >= 0 else i for i, op in enumerate(workload.operations)]
    placed[:, WEIGHT] = placed[owner, WEIGHT]
    return placed


def _check_backing_store(workload: Workload, chip: Chip, bits: Bits) -> None:
    """Everything must fit the first level, where rectification puts what fits nowhere else."""
    level = chip.levels[0]
    if level.capacity_bytes is None:
        return
    copies = 2 if chip.double_buffer else 1
    held = [
        (t, aligned(t.bytes, level.align_bytes) * (copies if t.column == WEIGHT else 1))
        for t in tensors(workload, bits, chip.count_bias)
    ]
    used = occupancy(workload, held)
    step = int(np.argmax(used))
    free = level.capacity_bytes - level.reserved_bytes
    if used[step] > free:
        weights = sum(size for t, size in held if t.column == WEIGHT)
        largest, size = max(held, key=lambda item: item[1])
        raise ValueError(
            f"workload {workload.name!r} needs {used[step]} bytes at operation "
            f"{workload.operations[step].name!r} ({weights} of them weights; the largest tensor is "
            f"{largest.name!r} with {size}), but {free} bytes are free in the backing store {level.name!r} "
            f"of chip {chip.name!r}"
        )
