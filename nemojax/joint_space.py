"""Bits and memories in one genome: a space that a search of bit-widths takes as it is.

The first n decisions are the bit-widths of a network's points. Then comes one decision for each tensor that a
chip has to place, in execution order: an operation's weights, if it owns some, and its output. A `BitSpace`
holds whole numbers from 2, so level k of the chip's memories is written as 2 + k there; `split` and `join`
translate. What does not fit slides to slower levels, as a compiler has it (`hwmodel.rectify`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

import hwmodel as hw

from .space import HIGHEST_BITS, LOWEST_BITS, BitSpace

FIRST = LOWEST_BITS  # the number that stands for level 0
_NAMES = ("weight_memory", "output_memory")  # columns of a placement


@dataclass(frozen=True)
class JointSpace(BitSpace):
    """A `BitSpace` of n bit-widths and D memories; hashable. Made by `JointSpace.of`."""

    bits: BitSpace | None = None
    workload: hw.Workload | None = None
    chip: hw.Chip | None = None

    @classmethod
    def of(cls, bits: BitSpace, workload: hw.Workload, chip: hw.Chip) -> "JointSpace":
        """The space of a network's bit-widths, which keep their ties and pairs, and of its memories.

        Raises:
            ValueError: bits of another network, a space that is joint already, a chip with more levels than
                bit-widths have numbers.
        """
        if isinstance(bits, JointSpace):
            raise ValueError("the space holds memories already: give that of the bit-widths")
        if bits.names != workload.point_names:
            raise ValueError("bits is of another network: make it with search_space(network, bits)")
        levels = len(chip.levels)
        if FIRST + levels - 1 > HIGHEST_BITS:
            raise ValueError(
                f"chip {chip.name!r} has {levels} levels, a genome has room for {HIGHEST_BITS - FIRST + 1}: "
                "join memories that are alike"
            )
        names = tuple(
            f"{workload.operations[i].name}.{_NAMES[column]}" for i, column in _tensors(workload, chip)
        )
        allowed = (tuple(range(FIRST, FIRST + levels)),) * len(names)
        return cls(
            bits.names + names,
            bits.allowed + allowed,
            bits.groups,
            bits.feeds,
            bits.pairs,
            bits,
            workload,
            chip,
        )

    @property
    def points(self) -> int:
        """n: the first decisions, which are bit-widths."""
        return len(self.parts[1].points)

    @cached_property
    def memories(self) -> np.ndarray:
        """(D, 2) int32: the operation, and the column of a placement, that each further decision is about."""
        _, workload, chip = self.parts
        return np.array(_tensors(workload, chip), np.int32).reshape(-1, 2)

    @property
    def parts(self) -> tuple[BitSpace, hw.Workload, hw.Chip]:
        """What it was made of."""
        if self.bits is None or self.workload is None or self.chip is None:
            raise ValueError("a JointSpace needs bits, workload and chip: make it with JointSpace.of")
        return self.bits, self.workload, self.chip

    def split(
        self, genome: Int[Array | np.ndarray, "*K G"]
    ) -> tuple[Int[Array, "*K n"], Int[Array, "*K N 2"]]:
        """Bit-widths, and the levels wished for; what no decision is about lies on level 0."""
        _, workload, chip = self.parts
        genome = jnp.asarray(genome)
        levels = jnp.clip(genome[..., self.points :] - FIRST, 0, len(chip.levels) - 1)
        operation, column = self.memories.T
        shape = (*genome.shape[:-1], len(workload.operations), 2)
        placement = jnp.zeros(shape, genome.dtype).at[..., operation, column].set(levels)
        return genome[..., : self.points], placement

    def join(self, bits: Any, placement: Any) -> Int[Array, "*K G"]:
        """The genome of bit-widths (..., n) and levels (..., N, 2)."""
        operation, column = self.memories.T
        levels = jnp.asarray(placement)[..., operation, column].astype(jnp.int32) + FIRST
        return jnp.concatenate([jnp.asarray(bits, jnp.int32), levels], axis=-1)

    def uniform(self, width: int) -> Int[np.ndarray, " G"]:
        """`width` bits everywhere, and everything in the last level, from where it slides: first fit."""
        bits, _, chip = self.parts
        last = np.full(len(self.memories), FIRST + len(chip.levels) - 1, np.int32)
        return np.concatenate([bits.uniform(width), last])


def _tensors(workload: hw.Workload, chip: hw.Chip) -> list[tuple[int, int]]:
    """(operation, column) of what has bytes, weights before the output."""
    found = []
    for i, op in enumerate(workload.operations):
        if op.w_id in (-1, i) and (op.w_elems or (chip.count_bias and op.bias_elems)):
            found.append((i, 0))
        found.append((i, 1))
    return found
