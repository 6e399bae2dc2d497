"""From drafts (groups of equations) to the finished workload: names, edges and quantizable points."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..workload import Affine, Edge, Operation, Point, PointSource, Workload
from .geometry import Geometry
from .primitives import CHOOSING, VIEWS
from .program import Program


@dataclass
class Draft:
    """An operation while equations still join it."""

    geometry: Geometry
    equations: list[int]
    tail: int  # its output so far
    source: PointSource  # what a quantizer of the tail would see
    reads: list[int]  # activation values read, views resolved
    index: int  # among the drafts
    others: tuple[int, ...] = ()  # outputs besides the tail, of an equation with several
    partial: bool = False  # reads no more of an operand than comes out
    weight: int = -1
    affine: list[Affine] = field(default_factory=list)
    affine_value: int = -1
    foldable: bool = False  # whether another affine step may join
    inner: list[tuple[int, PointSource]] = field(default_factory=list)  # values before a residual add
    kept: int = -1  # the value that the tail shows where it is not masked; -1: the tail is no masked value

    def keeps_values(self, program: Program) -> bool:
        """A max pooling only chooses among its operand's values, so it needs no quantizer of its own."""
        return (
            self.weight < 0
            and len(self.equations) == 1
            and program.equations[self.equations[0]].name in CHOOSING
        )

    def outputs(self) -> tuple[int, ...]:
        return (self.tail, *self.others)


def assemble(
    program: Program, drafts: list[Draft], viewed: Mapping[int, int], quantize_pooled_input: bool
) -> Workload:
    """Names operations and places the points, in execution order.

    Args:
        viewed: view -> the value it shows, of activations.
    """
    names = _Names()
    read = {v for draft in drafts for v in draft.reads}
    points: list[Point] = []
    feeds: dict[int, int] = {}  # activation value -> the point that quantizes it
    tied: dict[int, int] = {}  # stored weight -> operation that owns it
    weight_points: dict[int, int] = {}  # stored weight -> its point
    counted: set[int] = set()  # parameters without a quantizer
    inputs = set(program.inputs)
    made_by = {value: i for i, draft in enumerate(drafts) for value in draft.outputs()}
    operations: list[Operation] = []
    outputs = {viewed.get(value, value) for value in program.outputs}

    def point(name: str, source: PointSource, operation: int, value: int, axis: int) -> int:
        points.append(Point(names.unique(name), source, operation, value, program.values[value].elems, axis))
        return len(points) - 1

    def taken(draft: Draft, value: int, made: int) -> int:
        """Elements of `value` that a draft reads."""
        elems = program.values[value].elems
        return min(elems, made) if draft.partial else elems

    for value in (v for v in program.inputs if v in read and program.is_real(v)):
        rank = len(program.values[value].shape)
        feeds[value] = point("input", "input", -1, value, rank - 1)
    for i, draft in enumerate(drafts):
        g = draft.geometry
        name = names.unique(_weight_name(program, draft.weight) if draft.weight >= 0 else g.kind)
        elems, owner, weight_point = 0, i, -1
        if draft.weight >= 0:
            elems, stored = program.values[draft.weight].elems, _root(program, draft.weight)
            owner = tied.setdefault(stored, i)
            if g.weight_axis >= 0 and stored not in weight_points:
                weight_points[stored] = point(f"{name}.weight", "weight", i, draft.weight, g.weight_axis)
            weight_point = weight_points[stored] if g.weight_axis >= 0 else -1
        input_point = feeds.get(draft.reads[0], -1) if draft.reads else -1
        for value, source in draft.inner:
            if program.is_real(value):
                feeds[value] = point(f"{name}.{source}", source, i, value, g.channel_axis)
        if draft.keeps_values(program) or not read.intersection(draft.outputs()):
            feeds.update(dict.fromkeys(draft.outputs(), input_point))
        elif draft.kept >= 0:
            feeds[draft.tail] = feeds.get(draft.kept, -1)
        elif (draft.source == "pool" and not quantize_pooled_input) or not program.is_real(draft.tail):
            feeds[draft.tail] = -1  # a mean of quantized values is not on their grid
        else:
            for value in (v for v in draft.outputs() if v in read):
                feeds[value] = point(f"{name}.{draft.source}", draft.source, i, value, g.channel_axis)
        made = sum(program.values[v].elems for v in draft.outputs())
        operations.append(
            Operation(
                name=name,
                kind=g.kind,
                macs=g.macs,
                w_elems=elems,
                w_reads=min(elems, made) if g.kind in ("gather", "layout") else elems,
                w_id=owner if draft.weight >= 0 else -1,
                bias_elems=_unquantized(program, draft, owner != i, counted),
                o_elems=made,
                parents=tuple(
                    Edge(made_by[v], taken(draft, v, made)) for v in draft.reads if v not in inputs
                ),
                ext_in=sum(taken(draft, v, made) for v in draft.reads if v in inputs),
                is_output=not outputs.isdisjoint(draft.outputs()),
                equations=tuple(draft.equations),
                affine=tuple(draft.affine),
                affine_value=draft.affine_value,
                weight_point=weight_point,
                weight_axis=g.weight_axis,
                input_point=input_point,
                ifm=g.ifm,
                ofm=g.ofm,
                batch=g.batch,
                kernel=g.kernel,
                stride=g.stride,
                pad=g.pad,
                dilation=g.dilation,
                groups=g.groups,
            )
        )
    return Workload(tuple(operations), tuple(points), program)


def _root(program: Program, value: int) -> int:
    """The weight that `value` is a view or a transposition of, for it is stored once."""
    views = VIEWS | {"transpose"}
    while value in program.producer:
        eqn = program.equations[program.producer[value]]
        if eqn.name not in views or program.values[eqn.inputs[0]].elems != program.values[value].elems:
            break
        value = eqn.inputs[0]
    return value


class _Names:
    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def unique(self, name: str) -> str:
        found = name
        while found in self.seen:  # "conv_2" may be a parameter's own name
            self.seen[name] += 1
            found = f"{name}_{self.seen[name]}"
        self.seen[found] = 1
        return found


def _unquantized(program: Program, draft: Draft, tied: bool, counted: set[int]) -> int:
    """Elements of a folded bias, and of parameters that meet activations elsewhere (a batch norm alone).

    A value that several operations read is stored, and counted, once: `counted` grows. A folded bias is
    shared only where the weight is, too.
    """
    shifts = {_root(program, step.value) for step in draft.affine if step.op in ("add", "sub")}
    bias = draft.geometry.ofm[2] if shifts and not (tied and shifts <= counted) else 0
    first = 1 + len(draft.affine) if draft.weight >= 0 else 0
    met = {
        _stored(program, v)
        for i in draft.equations[first:]
        for v in program.equations[i].inputs
        if program.is_weight(v) and v in program.parametric and v != draft.weight
    }
    elems = bias + sum(program.values[v].elems for v in met - counted)
    counted |= shifts | met
    return elems


def _stored(program: Program, value: int) -> int:
    """`value` before it was broadcast, as it is stored."""
    made_by = program.producer.get(value)
    while made_by is not None and program.equations[made_by].name in VIEWS:
        value = program.equations[made_by].inputs[0]
        made_by = program.producer.get(value)
    return value


def _weight_name(program: Program, weight: int) -> str:
    """The largest parameter leaf behind the weight names the operation: stem/conv/kernel -> stem/conv."""
    behind = program.params_behind(weight)
    if not behind:
        return "constant"
    leaf = max(behind, key=lambda i: program.values[program.params[i]].elems)
    name = program.param_names[leaf]
    head, _, last = name.rpartition("/")
    return head if head and last in ("kernel", "weight", "w", "embedding") else name
