"""The parameters that a network stores, each once: what `hwmodel.model_ratio` counts and a packed file holds.

A kernel (or the table of a lookup) is stored with its first operation; operations tied to it read the same
numbers, perhaps transposed. A folded bias is stored with its operation, and a parameter that activations meet
elsewhere (the scale of a layer norm) with the first operation that reads it, as it was before a broadcast.
"""

import math
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

import numpy as np

from hwmodel import Operation, Program, Workload

from ..quantized import QuantizedNetwork
from .emit.shapes import Constants, Sizes
from .grids import Kernel, PointGrid

Part = Literal["kernels", "biases", "constants", "code"]  # of `Folded`; code: a constant of the function
_VIEWS = ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "convert_element_type")


@dataclass(frozen=True)
class Alias:
    """Another place in `Folded` that reads a stored tensor, transposed by `axes` and reshaped to `shape`."""

    part: Part
    key: str
    axes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Stored:
    """One tensor of the file."""

    name: str
    part: Part
    key: str  # in that part
    array: np.ndarray  # float32 or int32; of a kernel with a grid, its integers
    grid: PointGrid | None = None
    aliases: tuple[Alias, ...] = ()


def stored_tensors(network: QuantizedNetwork, kernels: dict[str, Kernel]) -> list[Stored]:
    """All of them in execution order.

    Args:
        kernels: of `quantized_kernels`.

    Raises:
        ValueError: tied operations hold different numbers, or a parameter is counted otherwise than it is
            carried, so that a file of the counted size could not restore it.
    """
    return _Collector(network, kernels).run()


class _Collector:
    def __init__(self, network: QuantizedNetwork, kernels: dict[str, Kernel]):
        self.network, self.kernels, self.work = network, kernels, network.workload
        self.program = self.work.program
        self.constants = {int(v): np.asarray(a) for v, a in network.folded.constants.items()}
        self.biases = {name: np.asarray(b, np.float32) for name, b in network.folded.biases.items()}
        self.found: list[Stored] = []
        self.place: dict[int, int] = {}  # root of a parameter -> in `found`
        self.owners: dict[int, dict[Part, int]] = {}  # operation that owns weights -> its tensors in `found`

    def run(self) -> list[Stored]:
        for i, op in enumerate(self.work.operations):
            weight = _weight_value(self.program, op)
            if op.w_elems and op.w_id == i:
                self._own(i, op, weight)
            elif op.w_elems and op.weight_point >= 0:
                self._tie(op)
            before = sum(t.array.size for t in self.found)
            for value in _met(self.program, op, weight):
                self._meet(op, value)
            met = sum(t.array.size for t in self.found) - before
            self._bias(i, op, op.bias_elems - met)
        names: dict[str, int] = {}
        for k, tensor in enumerate(self.found):
            names[tensor.name] = names.get(tensor.name, 0) + 1
            if names[tensor.name] > 1:
                self.found[k] = replace(tensor, name=f"{tensor.name}_{names[tensor.name]}")
        return self.found

    def _own(self, i: int, op: Operation, weight: int | None) -> None:
        self.owners[i] = {"kernels": len(self.found)}
        if op.weight_point >= 0:
            kernel = self.kernels[op.name]
            array = kernel.values if kernel.integers is None else kernel.integers
            self.found.append(Stored(f"{op.name}.weight", "kernels", op.name, array, kernel.grid))
            return
        assert weight is not None
        if weight in self.constants:
            self.place[_root(self.program, weight)] = len(self.found)
            self.found.append(
                Stored(f"{op.name}.weight", "constants", str(weight), _word(self.constants[weight]))
            )
            return
        array = Constants(Sizes.of(self.network.traced, 1), self.constants).array(weight)
        self.found.append(Stored(f"{op.name}.weight", "code", op.name, _word(array)))

    def _tie(self, op: Operation) -> None:
        k = self.owners[op.w_id]["kernels"]
        owner, own = self.found[k], self.kernels[op.name]
        numbers = own.values if own.integers is None else own.integers
        axes = None
        if own.grid is None or (owner.grid is not None and _same_grid(owner.grid, own.grid)):
            orders = permutations(range(owner.array.ndim))
            axes = next((order for order in orders if _is_view(owner.array, order, numbers)), None)
        if axes is None:
            raise ValueError(
                f"operations {owner.key!r} and {op.name!r} share weights but not their numbers (batch norms "
                "fold into them differently, or their ranges lie along different axes), so a file cannot "
                "hold them once: give their quantizer 32 bits, or quantize with per_channel=False"
            )
        alias = Alias("kernels", op.name, axes, numbers.shape)
        self.found[k] = replace(owner, aliases=(*owner.aliases, alias))

    def _meet(self, op: Operation, value: int) -> None:
        """A parameter that activations meet outside of kernels."""
        root = _root(self.program, value)
        array = _word(self.constants[value])
        if root not in self.place:
            self.place[root] = len(self.found)
            self.found.append(
                Stored(f"{op.name}.{_leaf(self.program, root)}", "constants", str(value), array)
            )
            return
        k = self.place[root]
        first = self.found[k]
        if (first.part, first.key) == ("constants", str(value)):
            return
        same = tuple(range(first.array.ndim))
        if not _is_view(first.array, same, array):
            raise ValueError(
                f"operation {op.name!r} reads the parameter stored as {first.name!r} in another form, which "
                "a packed file does not know: give each its own parameter"
            )
        alias = Alias("constants", str(value), same, array.shape)
        if alias not in first.aliases:
            self.found[k] = replace(first, aliases=(*first.aliases, alias))

    def _bias(self, i: int, op: Operation, counted: int) -> None:
        bias = self.biases.get(op.name)
        if bias is not None and counted == bias.size and counted:
            self.owners.setdefault(i, {})["biases"] = len(self.found)
            self.found.append(Stored(f"{op.name}.bias", "biases", op.name, bias))
            return
        if counted:
            raise ValueError(
                f"operation {op.name!r} counts {counted} parameters without a quantizer that it does not "
                "carry: a packed file cannot hold it"
            )
        if bias is None or not bias.any():
            return
        k = self.owners.get(op.w_id, {}).get("biases")
        if k is None or not np.array_equal(self.found[k].array, bias):
            raise ValueError(
                f"operation {op.name!r} adds a bias that is stored with another one in another form, which a "
                "packed file does not know: give each its own parameter"
            )
        owner = self.found[k]
        self.found[k] = replace(owner, aliases=(*owner.aliases, Alias("biases", op.name, (0,), bias.shape)))


def _same_grid(one: PointGrid, other: PointGrid) -> bool:
    """Whether two quantizers of tied weights are one, which holds for all of the tensor."""
    if one.scale.size != 1 or other.scale.size != 1:
        return one.scale.shape == other.scale.shape and np.array_equal(one.low, other.low)
    return bool(np.allclose(one.scale, other.scale, rtol=1e-6) and one.zero.item() == other.zero.item())


def _is_view(array: np.ndarray, axes: tuple[int, ...], wanted: np.ndarray) -> bool:
    return array.size == wanted.size and np.array_equal(array.transpose(axes).reshape(wanted.shape), wanted)


def _word(array: np.ndarray) -> np.ndarray:
    """In 32 bits an element, as parameters without a quantizer are counted."""
    return array.astype(np.int32 if array.dtype.kind in "iub" else np.float32)


def _weight_value(program: Program, op: Operation) -> int | None:
    """The weight that an operation contracts with or looks up in; None without one."""
    for i in op.equations:
        eqn = program.equations[i]
        if eqn.name == "gather" and program.is_weight(eqn.inputs[0]):
            return eqn.inputs[0]
        if eqn.name in ("conv_general_dilated", "dot_general"):
            return next((v for v in eqn.inputs[::-1] if program.is_weight(v)), None)
    return None


def _met(program: Program, op: Operation, weight: int | None) -> list[int]:
    """Parameters that an operation reads beside its weight, as `interpreter.carried` has them."""
    first = 1 + len(op.affine) if op.weight_point >= 0 and op.kind != "gather" else 0
    found = []
    for i in op.equations[first:]:
        for v in program.equations[i].inputs:
            if not program.is_weight(v) or v not in program.parametric or v == weight:
                continue
            while (made_by := program.producer.get(v)) is not None and program.equations[
                made_by
            ].name == "broadcast_in_dim":
                v = program.equations[made_by].inputs[0]
            found.append(v)
    return found


def _root(program: Program, value: int) -> int:
    """The parameter that `value` shows in another way."""
    while (made_by := program.producer.get(value)) is not None:
        eqn = program.equations[made_by]
        if (
            eqn.name not in _VIEWS
            or math.prod(program.values[eqn.inputs[0]].shape) != program.values[value].elems
        ):
            break
        value = eqn.inputs[0]
    return value


def _leaf(program: Program, value: int) -> str:
    """The last part of the name of the parameter behind a value."""
    behind = program.params_behind(value)
    return program.param_names[behind[0]].rpartition("/")[2] if behind else "constant"


def counted_bits(work: Workload, bits: np.ndarray) -> tuple[int, int]:
    """(parameters, bits of all of them) as `hwmodel.model_ratio` counts both."""
    points = {op.w_id: op.weight_point for op in work.operations if op.weight_point >= 0}
    parameters = total = 0
    for i, op in enumerate(work.operations):
        if op.w_elems and op.w_id == i:
            parameters += op.w_elems
            total += op.w_elems * (int(bits[points[i]]) if i in points else 32)
        parameters += op.bias_elems
        total += 32 * op.bias_elems
    return parameters, total
