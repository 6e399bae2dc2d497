"""From drafts (groups of equations) to the finished workload: names, edges and quantizable points."""

from dataclasses import dataclass, field

from .geometry import Geometry
from .program import Program
from .workload import Affine, Edge, Operation, Point, PointSource, Workload

VIEWS = {
    "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "convert_element_type", "copy", "stop_gradient",
}  # fmt: skip


@dataclass
class Draft:
    """An operation while equations still join it."""

    geometry: Geometry
    equations: list[int]
    tail: int  # its output so far
    source: PointSource  # what a quantizer of the tail would see
    reads: list[int]  # activation values read, views resolved
    weight: int = -1
    affine: list[Affine] = field(default_factory=list)
    affine_value: int = -1
    foldable: bool = False  # whether another affine step may join
    inner: list[tuple[int, PointSource]] = field(default_factory=list)  # values before a residual add

    def keeps_values(self, program: Program) -> bool:
        """A max pooling only chooses among its operand's values, so it needs no quantizer of its own."""
        return [program.equations[i].name for i in self.equations] == ["reduce_window_max"]


def assemble(program: Program, drafts: list[Draft], quantize_pooled_input: bool) -> Workload:
    """Names operations and places the points, in execution order."""
    names = _Names()
    read = {v for draft in drafts for v in draft.reads}
    points: list[Point] = []
    feeds: dict[int, int] = {}  # activation value -> the point that quantizes it
    tied: dict[int, int] = {}  # stored weight -> operation that owns it
    made_by = {draft.tail: i for i, draft in enumerate(drafts)}
    operations: list[Operation] = []
    outputs = {_root(program, value) for value in program.outputs}

    def point(name: str, source: PointSource, operation: int, value: int, axis: int) -> int:
        points.append(Point(names.unique(name), source, operation, value, program.values[value].elems, axis))
        return len(points) - 1

    for value in (v for v in program.inputs if v in read):
        rank = len(program.values[value].shape)
        feeds[value] = point("input", "input", -1, value, rank - 1)
    for i, draft in enumerate(drafts):
        g = draft.geometry
        elems = program.values[draft.weight].elems if draft.weight >= 0 else 0
        behind = program.params_behind(draft.weight) if draft.weight >= 0 else ()
        name = names.unique(_weight_name(program, behind) if draft.weight >= 0 else g.kind)
        owner = tied.setdefault(_root(program, draft.weight), i) if draft.weight >= 0 else i
        weight_point = -1
        if draft.weight >= 0 and owner == i:
            weight_point = point(f"{name}.weight", "weight", i, draft.weight, g.weight_axis)
        elif draft.weight >= 0:
            weight_point = operations[owner].weight_point
        input_point = feeds.get(draft.reads[0], -1)
        for value, source in draft.inner:
            feeds[value] = point(f"{name}.{source}", source, i, value, g.channel_axis)
        if draft.keeps_values(program) or draft.tail not in read:
            feeds[draft.tail] = input_point
        elif draft.source == "pool" and not quantize_pooled_input:
            feeds[draft.tail] = -1  # a mean of quantized values is not on their grid
        else:
            feeds[draft.tail] = point(f"{name}.{draft.source}", draft.source, i, draft.tail, g.channel_axis)
        outside = [v for v in draft.reads if v in program.inputs]
        operations.append(
            Operation(
                name=name,
                kind=g.kind,
                macs=g.macs,
                w_elems=elems,
                w_reads=elems,
                w_id=owner if draft.weight >= 0 else -1,
                bias_elems=_unquantized(program, draft),
                o_elems=program.values[draft.tail].elems,
                parents=tuple(
                    Edge(made_by[v], program.values[v].elems) for v in draft.reads if v not in program.inputs
                ),
                ext_in=sum(program.values[v].elems for v in outside),
                is_output=draft.tail in outputs,
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
    """The value that `value` is a view of; of a weight also a transposition, for it is stored once."""
    views = VIEWS | {"transpose"} if program.is_weight(value) else VIEWS
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


def _unquantized(program: Program, draft: Draft) -> int:
    """Elements of a folded bias, and of parameters that meet activations elsewhere (a batch norm alone)."""
    bias = draft.geometry.ofm[2] if any(step.op in ("add", "sub") for step in draft.affine) else 0
    first = 1 + len(draft.affine) if draft.weight >= 0 else 0
    met = {v for i in draft.equations[first:] for v in program.equations[i].inputs if program.is_weight(v)}
    return bias + sum(_before_broadcast(program, v) for v in met if program.params_behind(v))


def _before_broadcast(program: Program, value: int) -> int:
    """Elements of `value` as it is stored."""
    made_by = program.producer.get(value)
    while made_by is not None and program.equations[made_by].name in VIEWS:
        value = program.equations[made_by].inputs[0]
        made_by = program.producer.get(value)
    return program.values[value].elems


def _weight_name(program: Program, behind: tuple[int, ...]) -> str:
    """The largest parameter leaf behind the weight names the operation: stem/conv/kernel -> stem/conv."""
    if not behind:
        return "constant"
    leaf = max(behind, key=lambda i: program.values[program.params[i]].elems)
    name = program.param_names[leaf]
    head, _, last = name.rpartition("/")
    return head if head and last in ("kernel", "weight", "w", "embedding") else name
