"""Fusion of ONNX nodes into operations, by the rules that `trace` follows.

Biases and batch norms join the convolution or matrix product before them, activation functions whatever
makes their operand, residual adds the later of their producers, as long as nothing else reads the value in
between. Reshapes vanish, and so do transpositions that only a matrix product reads; other rearrangements
are operations of kind "layout".
"""

from ..tracing.geometry import Geometry
from ..workload import Kind
from .drafts import Draft
from .geometry import channel_axis, convolution, einsum, moving, pointwise, pooling, product, reduction
from .model import Model, Node
from .operators import (
    ARITHMETIC,
    CONVOLUTIONS,
    GATHERS,
    GLOBAL_POOLING,
    KIND_OF_SEVERAL,
    LAYOUT,
    NORMS,
    PARTIAL,
    POOLING,
    PRODUCTS,
    REDUCTIONS,
    RESAMPLING,
    SEVERAL,
    SOFTMAX,
    UNARY,
    VIEWS,
)
from .regions import Region, find_regions

_SEVERAL_OUTPUTS = POOLING | NORMS | LAYOUT  # that may be read


class Importer:
    """Reads the nodes once, in order; `run` gives the drafts, `viewed` the values behind views."""

    def __init__(self, model: Model, elementwise: bool, fusion: bool):
        self.model, self.elementwise, self.fusion = model, elementwise, fusion
        self.drafts: list[Draft] = []
        self.owner = dict.fromkeys(model.inputs, -1)  # activation -> draft, -1: a graph input
        self.viewed: dict[str, str] = {}
        self.channel = {v: channel_axis(model.shapes[v]) for v in model.inputs}

    def run(self) -> list[Draft]:
        regions = find_regions(self.model) if self.fusion else {}
        inside = {i for region in regions.values() for i in region.nodes}
        for i, node in enumerate(self.model.nodes):
            if i in regions:
                self.region(regions[i])
            elif i not in inside and node.outputs[0] not in self.model.constants:
                self.step(node)
        return self.drafts

    def step(self, node: Node) -> None:
        model, op = self.model, node.op
        active = model.active(node)
        if not active:
            raise ValueError(f"{node.where} makes something of nothing, which from_onnx does not know")
        if any(map(model.uses, node.outputs[1:])) and op not in _SEVERAL_OUTPUTS:
            raise ValueError(
                f"{node.where}: something reads its second output, which from_onnx does not know"
            )
        axis = self.channel[active[0]]
        if op in CONVOLUTIONS:
            self.contraction(node, *CONVOLUTIONS[op])
        elif op in PRODUCTS:
            self.contraction(node, *PRODUCTS[op])
        elif op == "Einsum":
            self.contraction(node, 0, 1, -1)
        elif op in POOLING | GLOBAL_POOLING:
            self.open(node, pooling(model, node), active[:1]).pools = True
        elif op in REDUCTIONS:
            self.open(node, reduction(model, node, axis), active[:1]).pools = True
        elif op == "BatchNormalization":
            self.batch_norm(node, active[0])
        elif op in UNARY | ARITHMETIC | SEVERAL and len(active) == 1:
            self.elementwise_of_one(node, active[0])
        elif op in UNARY | ARITHMETIC | SEVERAL:
            self.join_several(node, active)
        elif op in NORMS | SOFTMAX:
            kind: Kind = "norm" if op in NORMS else "softmax"
            draft = self.open(node, pointwise(self.out_shape(node), kind, axis), active)
            draft.bias_elems = self.constant_elems(node)
        elif (op in VIEWS and self.keeps_elements(node, active[0])) or (
            op == "Transpose" and self.is_view(node)
        ):
            self.view(node, active[0])
        elif op in LAYOUT | VIEWS | RESAMPLING | GATHERS:
            self.rearrange(node, active, axis)
        elif self.elementwise:
            draft = self.open(node, pointwise(self.out_shape(node), "other", axis), active)
            draft.bias_elems = self.constant_elems(node)
        else:
            raise ValueError(
                f"{node.where}: operator {node.domain + '.' if node.domain else ''}{op} is not known; "
                'unknown="elementwise" counts it as one operation per element'
            )

    def contraction(self, node: Node, data: int, weight: int, bias: int) -> None:
        model = self.model
        fixed = [node.reads(i) in model.constants for i in (data, weight)]
        if fixed[0]:  # weight @ activation
            data, weight = weight, data
        if node.op in CONVOLUTIONS:
            geometry = convolution(model, node)
        else:
            geometry = einsum(model, node) if node.op == "Einsum" else product(model, node)
        reads = [node.reads(data)] if any(fixed) else [node.reads(data), node.reads(weight)]
        extra = node.reads(bias) if bias >= 0 else ""
        draft = self.open(node, geometry, [*reads, *([extra] if extra in self.owner else [])])
        if any(fixed):
            draft.weight, draft.foldable = node.reads(weight), self.fusion
        if extra in model.constants:
            draft.bias_elems = geometry.ofm[2]

    def batch_norm(self, node: Node, x: str) -> None:
        draft = self.foldable(x)
        if draft is not None:
            draft.bias_elems = draft.geometry.ofm[2]
            self.join(draft, node, x)
        else:
            shape = self.model.shape(x, node)
            self.absorb(node, x, "norm").bias_elems += 2 * (shape[1] if len(shape) > 1 else 1)

    def elementwise_of_one(self, node: Node, x: str) -> None:
        """Bias or scale into the contraction, activation functions and the rest into any producer."""
        arithmetic = node.op in ("Add", "Sub", "Mul", "Div", "Sum")
        draft = self.foldable(x)
        if arithmetic and draft is not None and self.is_affine(node, x, draft):
            if node.op in ("Add", "Sub", "Sum"):
                draft.bias_elems = draft.geometry.ofm[2]
            self.join(draft, node, x)
            return
        kind: Kind = "norm" if arithmetic else "other" if node.op in SEVERAL else "act"
        self.absorb(node, x, kind).bias_elems += self.constant_elems(node)

    def is_affine(self, node: Node, x: str, draft: Draft) -> bool:
        """x (op) c, or c (op) x but for a quotient, with c constant along all axes but the channels."""
        if self.model.uses(x) != 1 or (node.op == "Div" and node.inputs[0] != x):
            return False
        rank = len(self.model.shape(x, node))
        for value in self.model.fixed(node):
            shape = self.model.shape(value, node)
            lifted = (1,) * (rank - len(shape)) + shape
            wide = [axis for axis, n in enumerate(lifted) if n != 1]
            if len(lifted) != rank or wide not in ([], [draft.geometry.channel_axis]):
                return False
        return self.out_shape(node) == self.model.shape(x, node)

    def region(self, region: Region) -> None:
        """All nodes of a region at once: an activation function into the producer, a reduction as a node."""
        model = self.model
        last, x = model.nodes[region.nodes[-1]], region.source
        reads = sum(model.nodes[i].inputs.count(x) for i in region.nodes)
        draft = self.sole_reader(x, reads)
        out = self.out_shape(last)
        if region.reduces and draft is not None and not draft.reduces:
            draft = None
        if draft is not None and not self.keeps_elements(last, x):
            draft = None
        before = model.nodes[model.producer[x]].op if x in model.producer else ""
        exponential = region.exponential or before == "Exp"
        if draft is None:
            kind: Kind = ("softmax" if exponential else "norm") if region.reduces else "act"
            draft = self.open(last, pointwise(out, kind, self.channel[x]), [x])
            draft.reduces = region.reduces
        else:
            if draft.reduces and exponential:
                draft.geometry = draft.geometry._replace(kind="softmax")
            self.join(draft, last, x)
        draft.foldable = False
        draft.bias_elems += sum(self.constant_elems(model.nodes[i]) for i in region.nodes)

    def join_several(self, node: Node, active: list[str]) -> None:
        """A sum (product, choice, ...) of activations joins the latest producer; others become parents."""
        latest = max(active, key=lambda v: self.owner[v])
        draft = self.sole_reader(latest, 1)
        if draft is None or draft.pools or not self.keeps_elements(node, latest):
            widest = max(active, key=lambda v: len(self.model.shape(v, node)))
            kind = KIND_OF_SEVERAL.get(node.op, "other")
            draft = self.open(node, pointwise(self.out_shape(node), kind, self.channel[widest]), active)
        else:
            draft.foldable = False
            draft.reads += [self.read(v, node) for v in active if v != latest]
            self.join(draft, node, latest)
        draft.bias_elems += self.constant_elems(node)

    def rearrange(self, node: Node, active: list[str], axis: int) -> None:
        """Elements are moved, looked up or, by resampling other than of the nearest, mixed."""
        model = self.model
        looks_up = node.op in GATHERS and not {*node.inputs[1:]} <= model.constants
        kind: Kind = "gather" if looks_up else "layout"
        mixes = node.op in RESAMPLING and node.text("mode", "nearest") != "nearest"
        table = node.reads(0) if node.op in GATHERS and node.reads(0) in model.constants else ""
        shape = self.out_shape(node)
        out = axis if len(shape) == len(model.shape(active[0], node)) else channel_axis(shape)
        if node.op == "Transpose":
            out = self.permutation(node).index(axis)
        geometry = moving(model, node, "other" if mixes else kind, out, per_element=int(mixes))
        draft = self.open(node, geometry, active)
        draft.weight = table
        if node.op in PARTIAL and not table:
            value, elems = draft.reads[0]
            draft.reads[0] = value, min(elems, model.elems(node.outputs[0], node))
        if node.op == "Concat":
            draft.bias_elems = self.constant_elems(node)

    def open(self, node: Node, geometry: Geometry, reads: list[str]) -> Draft:
        made = [v for v in node.outputs if v and self.model.uses(v)]
        self.drafts.append(Draft(node, geometry, made, [self.read(v, node) for v in reads]))
        for value in made:
            self.owner[value] = len(self.drafts) - 1
            rank = len(self.model.shape(value, node))
            self.channel[value] = min(geometry.channel_axis, max(rank - 1, 0))
        return self.drafts[-1]

    def absorb(self, node: Node, x: str, kind: Kind) -> Draft:
        """Element-wise on one activation: into its producer if nothing else reads it, else a node."""
        draft = self.sole_reader(x, node.inputs.count(x))
        if draft is None or not self.keeps_elements(node, x):
            return self.open(node, pointwise(self.out_shape(node), kind, self.channel[x]), [x])
        draft.foldable = False
        self.join(draft, node, x)
        return draft

    def join(self, draft: Draft, node: Node, x: str) -> None:
        """`node`, which reads the draft's output as `x`, makes the draft's output from now on."""
        self.owner[node.outputs[0]], self.channel[node.outputs[0]] = self.owner[x], self.channel[x]
        draft.outputs = [node.outputs[0]]

    def view(self, node: Node, x: str) -> None:
        out = node.outputs[0]
        self.viewed[out], self.owner[out] = self.viewed.get(x, x), self.owner[x]
        shape, before = self.out_shape(node), self.model.shape(x, node)
        if node.op == "Transpose":
            self.channel[out] = self.permutation(node).index(self.channel[x])
        else:
            self.channel[out] = self.channel[x] if len(shape) == len(before) else channel_axis(shape)

    def read(self, value: str, node: Node) -> tuple[str, int]:
        return self.viewed.get(value, value), self.model.elems(value, node)

    def foldable(self, x: str) -> Draft | None:
        """The contraction that makes x, if only affine steps came after it and x is read here alone."""
        draft = self.sole_reader(x, 1)
        return draft if draft is not None and draft.foldable and draft.tail == x else None

    def sole_reader(self, x: str, reads: int) -> Draft | None:
        """The draft that makes x, if its output is read `reads` times here and nowhere else."""
        draft = self.drafts[self.owner[x]] if self.fusion and self.owner[x] >= 0 else None
        if draft is None or draft.tail is None or self.viewed.get(x, x) != draft.tail:
            return None
        if draft.geometry.kind == "layout":
            return None
        value = x
        while self.model.uses(value) == reads:
            if value == draft.tail:
                return draft
            reads, value = 1, self.model.active(self.model.nodes[self.model.producer[value]])[0]
        return None

    def is_view(self, node: Node) -> bool:
        """A transposition that keeps the order of elements, or one that a matrix product sees to."""
        shape = self.model.shape(node.inputs[0], node)
        wide = [axis for axis in self.permutation(node) if shape[axis] != 1]
        return wide == sorted(wide) or (
            self.fusion and (self.behind_product(node.inputs[0]) or self.feeds_products(node.outputs[0]))
        )

    def permutation(self, node: Node) -> list[int]:
        rank = len(self.model.shape(node.inputs[0], node))
        found = list(node.wholes("perm") or reversed(range(rank)))
        if sorted(found) != list(range(rank)):
            raise ValueError(f"{node.where}: perm {found} is no permutation of {rank} axes")
        return found

    def behind_product(self, value: str) -> bool:
        """Whether a matrix product, and then only views of it, make `value`, all read once."""
        if value not in self.model.producer or self.model.uses(value) != 1:
            return False
        made_by = self.model.nodes[self.model.producer[value]]
        if made_by.op in VIEWS | {"Transpose"}:
            return self.behind_product(made_by.inputs[0])
        return made_by.op in PRODUCTS or made_by.op == "Einsum"

    def feeds_products(self, value: str) -> bool:
        readers = [self.model.nodes[i] for i in self.model.consumers.get(value, ())]
        if value in self.model.outputs or not readers:
            return False
        return all(
            r.op in PRODUCTS
            or r.op == "Einsum"
            or (
                (r.op in VIEWS | {"Transpose"} or (r.op in ARITHMETIC and len(self.model.active(r)) == 1))
                and self.feeds_products(r.outputs[0])
            )
            for r in readers
        )

    def keeps_elements(self, node: Node, x: str) -> bool:
        return self.model.elems(x, node) == self.model.elems(node.outputs[0], node)

    def out_shape(self, node: Node) -> tuple[int, ...]:
        return self.model.shape(node.outputs[0], node)

    def constant_elems(self, node: Node) -> int:
        """Elements of the constants that a node reads; scalars are no parameters."""
        return sum(
            n
            for v in self.model.fixed(node)
            if v in self.model.shapes and (n := self.model.elems(v, node)) > 1
        )
