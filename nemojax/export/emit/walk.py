"""The walk over a network's equations that `interpreter.execute` takes: the same folding and points."""

from collections import Counter
from typing import Any, NamedTuple

import jax
import numpy as np

from hwmodel import Equation, Operation

from ...quantized import QuantizedNetwork
from ..grids import activation_grids, quantized_kernels
from .by_value import ByValue
from .containers import weight_container
from .contractions import convolution, matrix_product
from .elementwise import ELEMENTWISE
from .emitter import Emitter
from .gathers import gather
from .graph import Graph
from .layout import LAYOUT
from .notes import Notes
from .patterns import Finder, Match
from .quantizers import guard_moves, quantized
from .reductions import REDUCTIONS
from .shapes import Constants, Dim, Sizes, Unsupported
from .tensors import Tensor, laid
from .weights import Apart, Weight

RULES = {
    **ELEMENTWISE,
    **LAYOUT,
    **REDUCTIONS,
    "gather": gather,
    "conv_general_dilated": convolution,
    "dot_general": matrix_product,
}


class Port(NamedTuple):
    """An input or output of the graph."""

    name: str
    dtype: Any
    shape: tuple[Dim, ...]


class Emitted(NamedTuple):
    """A graph, its ends, and what became of the quantizers."""

    graph: Graph
    inputs: list[Port]
    output: Port
    notes: Notes


def emit(network: QuantizedNetwork, bits: np.ndarray, opset: int, batch: int | str) -> Emitted:
    """The graph of a network at (n,) bits.

    Raises:
        ValueError: equations without an ONNX form, all of them, with their places in the user's code.
    """
    sizes = Sizes.of(network.traced, batch)
    carried = {int(v): np.asarray(a) for v, a in network.folded.constants.items()}
    em = Emitter(Graph(opset), sizes, Constants(sizes, carried))
    return _Walk(network, bits, em).run()


class _Walk:
    def __init__(self, network: QuantizedNetwork, bits: np.ndarray, em: Emitter):
        self.network, self.em, self.graph = network, em, em.graph
        self.work, self.program = em.sizes.workload, em.program
        self.notes = Notes()
        self.missing: Counter[tuple[str, str, str]] = Counter()
        self.activation_grids = activation_grids(network, bits)
        self.kernels = quantized_kernels(network, bits)
        grids = (*self.activation_grids.values(), *(k.grid for k in self.kernels.values() if k.grid))
        self.plain = {grid.bits for grid in grids} == {8}
        points = self.work.points
        self.point_at = {points[i].value: i for i in self.activation_grids}
        made_by = {points[i].operation for i in self.activation_grids}
        self.quantized_outputs = {self.work.operations[i].name for i in made_by if i >= 0}
        weighted = [op for op in self.work.operations if op.weight_point >= 0]
        self.lookups = [op for op in weighted if op.kind == "gather"]
        self.opened = {op.equations[0]: op for op in weighted if op.kind != "gather"}
        self.away = {i for op in self.opened.values() for i in op.equations[1 : 1 + len(op.affine)]}
        self.owner = {i: op.name for op in self.work.operations for i in op.equations}

    def run(self) -> Emitted:
        inputs = self._inputs()
        for op in self.lookups:
            self.graph.scope = op.name
            weight = self._weight(op)
            shape = weight.kernel.values.shape
            order = tuple(range(len(shape)))
            self.em.env[self._table(op)] = Tensor(order, shape, weight.laid(self.graph, order))
        matches = self._matches()
        done = {i for match in matches.values() for i in match.equations}
        for i, eqn in enumerate(self.program.equations):
            self.graph.scope = self.owner.get(i, "network")
            if i in self.opened:
                self._contraction(eqn, self.opened[i])
            elif i in matches:
                self._try(eqn, lambda: [matches[i].emit()])  # noqa: B023
            elif i not in done and i not in self.away and not self.program.is_weight(eqn.outputs[0]):
                self._try(eqn, lambda: self._rule(eqn))  # noqa: B023
        if self.missing:
            raise ValueError(_message(self.network.name, self.missing))
        output = self._output()
        guard_moves(self.graph)
        return Emitted(self.graph, inputs, output, self.notes)

    def _inputs(self) -> list[Port]:
        paths = jax.tree_util.tree_flatten_with_path(self.network.traced.sample)[0]
        ports = []
        for value, (path, _) in zip(self.program.inputs, paths, strict=True):
            given = "/".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)
            name, shape = self.graph.unique(given or "input"), self.em.shape(value)
            ports.append(Port(name, self.program.values[value].dtype, shape))
            self.em.batch_input = (name, 0)
            x = Tensor(tuple(range(len(shape))), shape, name)
            self.graph.scope = name
            if order := self._convolutions_order(value):  # so that the quantizer feeds them directly
                x = Tensor(order, shape, laid(self.graph, x, order))
            self._put(value, x)
        return ports

    def _convolutions_order(self, value: int) -> tuple[int, ...] | None:
        """The order of axes that all readers want, if they are convolutions."""
        readers = [self.program.equations[i] for i in self.program.consumers.get(value, ())]
        orders = {
            tuple(eqn.params["dimension_numbers"].lhs_spec) if eqn.inputs[0] == value else None
            for eqn in readers
            if eqn.name == "conv_general_dilated"
        }
        same = len(orders) == 1 and all(eqn.name == "conv_general_dilated" for eqn in readers)
        return next(iter(orders)) if same else None

    def _matches(self) -> dict[int, Match]:
        """last equation -> match; where two overlap, the later one stands."""
        kept = set(self.point_at) | {op.affine_value for op in self.opened.values()}
        simple, valued = Finder(self.em, kept), ByValue(self.em, self.work.operations, kept)
        found: dict[int, Match] = {}
        claimed: set[int] = set(self.opened) | self.away
        for i in range(len(self.program.equations) - 1, -1, -1):
            if i in claimed or self.program.is_weight(self.program.equations[i].outputs[0]):
                continue
            for finder in (valued, simple):
                try:
                    match = finder.ending_at(i)
                except Unsupported:  # said again, with its place, when the equation is met
                    continue
                if match is not None and not match.equations & claimed:
                    found[i] = match
                    claimed |= match.equations
                    break
        return found

    def _rule(self, eqn: Equation) -> list[Tensor]:
        if eqn.name not in RULES:
            raise Unsupported("it has no ONNX form here")
        made = RULES[eqn.name](self.em, eqn)
        return made if isinstance(made, list) else [made]

    def _contraction(self, eqn: Equation, op: Operation) -> None:
        rule = convolution if eqn.name == "conv_general_dilated" else matrix_product
        self._try(eqn, lambda: [rule(self.em, eqn, self._weight(op))], (op.affine_value,))

    def _try(self, eqn: Equation, make: Any, outputs: tuple[int, ...] | None = None) -> None:
        """Puts what `make` gives; what cannot be exported is noted, and a stand-in goes on."""
        values = outputs or eqn.outputs
        try:
            made = make()
        except Unsupported as error:
            self.missing[eqn.name, eqn.where, str(error)] += 1
            made = [self._stand_in(v) for v in values]
        for value, tensor in zip(values, made, strict=True):
            self._put(value, tensor)

    def _stand_in(self, value: int) -> Tensor:
        try:
            shape = self.em.shape(value)
        except Unsupported:
            shape = self.program.values[value].shape
        return Tensor(tuple(range(len(shape))), shape, "missing")

    def _put(self, value: int, tensor: Tensor) -> None:
        i = self.point_at.get(value)
        if i is not None:
            name, grid = self.work.points[i].name, self.activation_grids[i]
            small = not self._is_pooled(value)
            tensor = quantized(self.em, tensor, name, grid, self.notes, small=small)
        self.em.env[value] = tensor

    def _weight(self, op: Operation) -> Weight:
        bias = np.asarray(self.network.folded.biases[op.name]) if op.affine else None
        return Weight(
            op.name,
            self.work.points[op.weight_point].name,
            self.kernels[op.name],
            bias if bias is not None and bias.any() else None,
            self._bias_apart(op),
            self.notes,
        )

    def _bias_apart(self, op: Operation) -> Apart:
        """How the bias of `op` is kept from a runtime that would round it between quantizers.

        onnxruntime makes it a multiple of s_x·s_w when it loads a file (and a float32 weight int8), if it
        belongs to the convolution. Where all is 8 bits that costs little, and its integer kernels need it so;
        with fewer bits s_x·s_w is coarse, and a configuration would no longer be the one that was measured.
        """
        x, w = self.activation_grids.get(op.input_point), self.kernels[op.name].grid
        if x is None or op.name not in self.quantized_outputs:
            return ""
        if w is None:
            return "Sub"
        container = weight_container(w, self.graph.opset).dtype
        if container == "float32":
            return "Sub"
        if x.bits == 4 and container in (
            "int8",
            "uint8",
        ):  # QLinearConv would get 4-bit tensors
            return "Sub"
        bias = np.asarray(self.network.folded.biases[op.name])
        fits = np.abs(bias).max() < 2**30 * (x.scale * w.scale).min()
        return "" if fits and self.plain else "Add"

    def _is_pooled(self, value: int) -> bool:
        """Whether a MaxPool reads a value, itself or through what only moves it: not in 4 bits."""
        for i in self.program.consumers.get(value, ()):
            eqn = self.program.equations[i]
            if eqn.name in ("reduce_window_max", "reduce_window_min"):
                return True
            if eqn.name in LAYOUT and self._is_pooled(eqn.outputs[0]):
                return True
        return False

    def _table(self, op: Operation) -> int:
        gathers = (self.program.equations[i] for i in op.equations)
        return next(
            eqn.inputs[0] for eqn in gathers if eqn.name == "gather" and self.program.is_weight(eqn.inputs[0])
        )

    def _output(self) -> Port:
        (value,) = self.program.outputs
        self.graph.scope = "logits"
        name = self.em.plain(self.em.whole(value))
        made = {out for node in self.graph.nodes for out in node.output}
        wanted = self.graph.unique("logits")
        if name in made:
            for node in self.graph.nodes:
                for names in (node.input, node.output):
                    for k, given in enumerate(names):
                        if given == name:
                            names[k] = wanted
        else:  # an input or a constant itself
            self.graph.node("Identity", [name], called=wanted)
        return Port(wanted, self.program.values[value].dtype, self.em.shape(value))


def _message(network: str, missing: Counter[tuple[str, str, str]]) -> str:
    lines = [
        f"{name} at {where} ({reason}{f'; {count} times' if count > 1 else ''})"
        for (name, where, reason), count in missing.items()
    ]
    return (
        f"{network!r} cannot be exported to ONNX, for {len(lines)} "
        f"{'kind of equation has' if len(lines) == 1 else 'kinds of equations have'} no form there: "
        + "; ".join(lines)
    )
