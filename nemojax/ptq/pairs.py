"""Pairs of operations between which a channel's scale can move, found from the equations.

From the output of one operation the channel axis is followed through functions that are positively
homogeneous and act on each channel alone, f(s·x) = s·f(x) for s > 0: ReLU, poolings, products with positive
numbers, views. Where it arrives, alone, as a contracted axis of one other operation, the two are a pair. A
value that is read twice (a residual fork) or an operation whose weights are tied is in no pair.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from hwmodel import Equation, Operation, Program, Workload

_POOLS = frozenset({"reduce_window_max", "reduce_window_sum"})
_SAME = frozenset({"convert_element_type", "copy", "copy_p", "stop_gradient", "reduce_precision"})


class Pair(NamedTuple):
    """Two operations, and what stands between them."""

    first: str
    second: str
    input_axis: int  # of the second's weight, contracted with the channels; the output axis if depthwise
    clips: tuple["Clip", ...]  # bounds from above (ReLU6)


class Clip(NamedTuple):
    """A minimum with a constant between a pair."""

    value: int  # the constant, of Program.values
    bound: float
    axis: int  # of the channels, where it stands
    rank: int


class _Walk(NamedTuple):
    value: int
    axis: int  # of the channels


def find_pairs(work: Workload) -> tuple[Pair, ...]:
    """All pairs, in execution order."""
    program = work.program
    tied = Counter(op.weight_point for op in work.operations if op.weight_point >= 0)
    own = [op for op in work.operations if tied[op.weight_point] == 1 and op.kind != "gather"]
    starts = {op.equations[0]: op for op in own}
    pairs = (_pair_from(program, op, starts) for op in own)
    return tuple(pair for pair in pairs if pair is not None)


def _pair_from(program: Program, op: Operation, starts: dict[int, Operation]) -> Pair | None:
    at = _Walk(op.affine_value, output_axis(program, program.equations[op.equations[0]]))
    clips: list[Clip] = []
    while program.uses(at.value) == 1 and at.value in program.consumers:
        i = program.consumers[at.value][0]
        if i in starts:
            axis = _input_axis(program, program.equations[i], at.axis)
            return None if axis is None else Pair(op.name, starts[i].name, axis, tuple(clips))
        moved = _through(program, program.equations[i], at, clips)
        if moved is None:
            return None
        at = moved
    return None


def output_axis(program: Program, eqn: Equation) -> int:
    """The axis of a product's output that its bias runs along."""
    if eqn.name == "conv_general_dilated":
        return eqn.params["dimension_numbers"].out_spec[1]
    return len(program.values[eqn.outputs[0]].shape) - 1


def _input_axis(program: Program, eqn: Equation, axis: int) -> int | None:
    """The axis of the weight that meets the activation's `axis`; None: it is not contracted."""
    if eqn.name == "conv_general_dilated":
        dims = eqn.params["dimension_numbers"]
        groups, channels = eqn.params["feature_group_count"], program.values[eqn.inputs[0]].shape[axis]
        if axis != dims.lhs_spec[1] or eqn.params["batch_group_count"] != 1:
            return None
        if groups == 1:
            return dims.rhs_spec[1]
        # In groups of several channels, channel i of every group meets the same place of the input axis.
        outputs = program.values[eqn.inputs[1]].shape[dims.rhs_spec[0]]
        return dims.rhs_spec[0] if groups == channels == outputs else None
    (lhs, rhs), _ = eqn.params["dimension_numbers"]
    return rhs[lhs.index(axis)] if axis in lhs else None


def _through(program: Program, eqn: Equation, at: _Walk, clips: list[Clip]) -> _Walk | None:
    """Where the channels stand behind an equation; None: it is not homogeneous, or mixes channels."""
    out = eqn.outputs[0]
    others = [v for v in eqn.inputs if v != at.value]
    if len(eqn.outputs) != 1 or not all(program.is_weight(v) for v in others):
        return None
    if eqn.name in _SAME or (eqn.name == "max" and _constant(program, others) == 0.0):
        return _Walk(out, at.axis)
    bound = _constant(program, others)
    if eqn.name == "min" and bound is not None and bound > 0 and program.uses(others[0]) == 1:
        clips.append(Clip(others[0], bound, at.axis, len(program.values[out].shape)))
        return _Walk(out, at.axis)
    if eqn.name in ("mul", "div") and eqn.inputs[0] == at.value and (_constant(program, others) or 0) > 0:
        return _Walk(out, at.axis)
    if eqn.name in _POOLS and eqn.params["window_dimensions"][at.axis] == 1:
        return _Walk(out, at.axis)
    if eqn.name in ("reduce_sum", "reduce_max") and at.axis not in eqn.params["axes"]:
        return _Walk(out, at.axis - sum(axis < at.axis for axis in eqn.params["axes"]))
    if eqn.name == "transpose":
        return _Walk(out, tuple(eqn.params["permutation"]).index(at.axis))
    if eqn.name in ("reshape", "squeeze", "expand_dims"):
        axis = _reshaped(program.values[at.value].shape, program.values[out].shape, at.axis)
        return None if axis is None else _Walk(out, axis)
    return None


def _reshaped(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """Where an axis is found again: the same length, with as many elements before and behind it."""
    wanted = (int(np.prod(before[:axis])), before[axis])
    for i, size in enumerate(after):
        if (int(np.prod(after[:i])), size) == wanted and size > 1:
            return i
    return None


def _constant(program: Program, values: list[int]) -> float | None:
    """The one number that a constant holds everywhere; None: there is none."""
    if len(values) != 1:
        return None
    value = values[0]
    while value in program.producer and program.equations[program.producer[value]].name in (
        "broadcast_in_dim",
        "convert_element_type",
    ):
        value = program.equations[program.producer[value]].inputs[0]
    array = np.asarray(program.constants[value]) if value in program.constants else np.zeros(0)
    same = array.size > 0 and (array == array.flat[0]).all()
    return float(array.flat[0]) if same else None
