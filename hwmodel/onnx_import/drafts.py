"""From groups of ONNX nodes to the finished workload: names, tied weights, edges."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..tracing.geometry import Geometry
from ..workload import Edge, Operation, Workload
from .model import Model, Node
from .operators import VIEWS


@dataclass
class Draft:
    """An operation while nodes still join it."""

    node: Node  # that opened it, and names it
    geometry: Geometry
    outputs: list[str]  # so far; several for a split
    reads: list[tuple[str, int]]  # activations with the elements read, views resolved
    weight: str = ""
    bias_elems: int = 0
    foldable: bool = False  # whether another affine step may join
    pools: bool = False
    reduces: bool = False  # a normalization or softmax written out, which may go on

    @property
    def tail(self) -> str | None:
        """The output, if there is one only."""
        return self.outputs[0] if len(self.outputs) == 1 else None


def assemble(model: Model, drafts: list[Draft], viewed: Mapping[str, str]) -> Workload:
    """Operations in the order of their drafts; `viewed`: view -> the value that it shows."""
    made_by = {value: i for i, draft in enumerate(drafts) for value in draft.outputs}
    outputs = {viewed.get(value, value) for value in model.outputs}
    names: dict[str, int] = {}
    tied: dict[str, int] = {}
    operations = []
    for i, draft in enumerate(drafts):
        g, weight = draft.geometry, _stored(model, draft.weight)
        w_elems = model.elems(weight, draft.node) if weight else 0
        o_elems = sum(model.elems(value, draft.node) for value in draft.outputs)
        operations.append(
            Operation(
                name=_unique(draft.node.name, names),
                kind=g.kind,
                macs=g.macs,
                w_elems=w_elems,
                w_reads=o_elems if w_elems and g.kind == "gather" else w_elems,
                w_id=tied.setdefault(weight, i) if w_elems else -1,
                bias_elems=draft.bias_elems,
                o_elems=o_elems,
                parents=tuple(Edge(made_by[v], n) for v, n in draft.reads if v not in model.inputs),
                ifm=g.ifm,
                ofm=g.ofm,
                kernel=g.kernel,
                stride=g.stride,
                pad=g.pad,
                dilation=g.dilation,
                groups=g.groups,
                batch=g.batch,
                ext_in=sum(n for v, n in draft.reads if v in model.inputs),
                is_output=not outputs.isdisjoint(draft.outputs),
            )
        )
    if not operations:
        raise ValueError("the graph has no operations: its outputs are views of its inputs")
    return Workload(tuple(operations), name=model.name)


def _stored(model: Model, weight: str) -> str:
    """The constant that `weight` shows: the same elements, perhaps in another order or type."""
    while weight in model.producer:
        node = model.nodes[model.producer[weight]]
        source = node.reads(0)
        if node.op not in VIEWS | {"Transpose"} or source not in model.shapes:
            break
        if model.elems(source, node) != model.elems(weight, node):
            break
        weight = source
    return weight


def _unique(name: str, seen: dict[str, int]) -> str:
    found = name
    while found in seen:
        seen[name] += 1
        found = f"{name}_{seen[name]}"
    seen[found] = 1
    return found
