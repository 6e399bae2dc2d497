"""The parts of a network that are reconstructed one after the other, found from its equations.

A cut between two equations is admissible where no operation with weights is open. "layer" cuts behind every
such operation, with the activation function and residual add that belong to it (AdaRound, Nagel et al. 2020).
"block" cuts only where a single activation passes, so that residual branches stay together (BRECQ, Li et al.
2021): that value dominates all that follows. What stands between two operations without weights of its own
(pooling, attention scores) belongs to the later one.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwmodel import Program, Workload

from ..traced import Traced

Mode = Literal["layer", "block"]
# Single layers without a fork between them (MobileNet's bottlenecks at stride 2, a stem) make up blocks of so
# many. Departs from BRECQ, whose blocks are named by hand for every network.
LAYERS_PER_BLOCK = 3


@dataclass(frozen=True)
class Unit:
    """Equations first, ..., last - 1 of a program, with the activations that they read and leave behind."""

    first: int
    last: int
    operations: tuple[str, ...]  # with weights
    entries: tuple[int, ...]  # values made before and read here
    exits: tuple[int, ...]  # values made here and read later, or outputs of the network


def find_units(traced: Traced, mode: Mode = "layer") -> tuple[Unit, ...]:
    """Units in execution order, from the first equation to the last operation with weights."""
    work = traced.workload()
    program, spans = work.program, _spans(work)
    last_read = _last_reads(program)
    ends = [end for end in _ends(spans) if _splits(traced, _alive(program, last_read, end))]
    if not ends:
        return ()
    if mode == "block":
        ends = _block_ends(program, last_read, ends, spans)
    bounds = [0, *ends]
    return tuple(
        _unit(program, last_read, first, last, [name for name, (a, b) in spans.items() if first <= a < last])
        for first, last in itertools.pairwise(bounds)
    )


def _spans(work: Workload) -> dict[str, tuple[int, int]]:
    """operation with weights -> first equation and one past its last."""
    return {
        op.name: (min(op.equations), max(op.equations) + 1) for op in work.operations if op.weight_point >= 0
    }


def _ends(spans: dict[str, tuple[int, int]]) -> list[int]:
    """Ends of the spans, those that overlap (branches whose equations alternate) joined."""
    ends: list[int] = []
    for first, last in sorted(spans.values()):
        if ends and first < ends[-1]:
            ends[-1] = max(ends[-1], last)
        else:
            ends.append(last)
    return ends


def _last_reads(program: Program) -> dict[int, int]:
    """activation -> the last equation that reads it; one past all for outputs of the network."""
    last = {v: i for i, eqn in enumerate(program.equations) for v in eqn.inputs if not program.is_weight(v)}
    return last | dict.fromkeys(program.outputs, len(program.equations))


def _alive(program: Program, last_read: dict[int, int], cut: int) -> list[int]:
    """Activations made before the cut and read behind it."""
    return [v for v, last in last_read.items() if last >= cut and program.producer.get(v, -1) < cut]


def _splits(traced: Traced, values: Sequence[int]) -> bool:
    """Whether all values can be taken apart by samples: only the leading axis grows with the batch."""
    one, two = (traced.workload(batch).program.values for batch in (1, 2))
    return all(one[v].shape and two[v].shape == (2 * one[v].shape[0], *one[v].shape[1:]) for v in values)


def _block_ends(
    program: Program, last_read: dict[int, int], ends: list[int], spans: dict[str, tuple[int, int]]
) -> list[int]:
    narrow = [
        end
        for end in ends
        # What no parameter has touched (inputs, masks) passes by without making a fork.
        if len([v for v in _alive(program, last_read, end) if v in program.parametric]) <= 1
    ]
    kept, start, run = [], 0, 0
    for end in [*narrow, *([] if narrow and narrow[-1] == ends[-1] else [ends[-1]])]:
        layers = sum(start <= first < end for first, _ in spans.values())
        if layers > 1 or run == LAYERS_PER_BLOCK:  # a fork, or a full run: what came before is closed
            if run:
                kept.append(start)
            run = 0
        if layers > 1:
            kept.append(end)
        else:
            run += 1
        start = end
    return [*kept, *([start] if run else [])]


def _unit(program: Program, last_read: dict[int, int], first: int, last: int, names: Sequence[str]) -> Unit:
    made = {out for eqn in program.equations[first:last] for out in eqn.outputs if not program.is_weight(out)}
    read = dict.fromkeys(
        v
        for eqn in program.equations[first:last]
        if not program.is_weight(eqn.outputs[0])
        for v in eqn.inputs
        if not program.is_weight(v) and v not in made
    )
    exits = sorted(v for v in made if last_read.get(v, -1) >= last)
    return Unit(first, last, tuple(names), tuple(read), tuple(exits))
