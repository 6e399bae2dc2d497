"""Groups equations into operations, in one walk over the program."""

from ..workload import Affine, Kind, PointSource
from .assemble import Draft
from .equations import Equation
from .geometry import (
    Geometry,
    convolution,
    is_lookup,
    matrix_product,
    pointwise,
    reduction,
    window_pooling,
)
from .masks import Masks
from .primitives import (
    ARITHMETIC,
    CONTRACTIONS,
    ELEMENTWISE,
    LAYOUT,
    PARTIAL,
    REDUCTIONS,
    SCATTERS,
    WINDOWS,
)
from .program import Program
from .regions import Region, find_regions
from .views import is_view


class Tracer:
    """Walks a program; `run` gives the drafts of its operations, `viewed` what each view shows."""

    def __init__(self, program: Program, passes: frozenset[str], refuse: bool = True):
        self.program, self.passes, self.refuse = program, passes, refuse
        self.drafts: list[Draft] = []
        self.dissolved: set[int] = set()  # drafts that became part of others
        self.owner = dict.fromkeys(program.inputs, -1)  # activation value -> draft, -1: a graph input
        self.viewed: dict[int, int] = {}  # view -> the value it shows
        self.outputs = set(program.outputs)
        self.regions = find_regions(program, passes)
        self.masks = Masks(program)

    def run(self) -> list[Draft]:
        """Drafts in execution order.

        Raises:
            ValueError: a primitive that is not known, an output that is no activation.
        """
        inside = {i for region in self.regions.values() for i in region.equations}
        for i, eqn in enumerate(self.program.equations):
            if i in self.regions:
                self.region(self.regions[i])
            elif i not in inside and not self.program.is_weight(eqn.outputs[0]):
                self.step(i, eqn)
        for value in self.program.outputs:
            if self.program.is_weight(value):
                raise ValueError("an output of fn does not depend on its inputs; trace needs activations")
        return [draft for draft in self.drafts if draft.index not in self.dissolved]

    def step(self, i: int, eqn: Equation) -> None:
        active = [v for v in eqn.inputs if not self.program.is_weight(v)]
        if eqn.name in CONTRACTIONS:
            self.contraction(i, eqn, active)
        elif eqn.name in WINDOWS:
            self.open([i], window_pooling(self.program, eqn), "pool", active)
        elif eqn.name in REDUCTIONS:
            self.open([i], reduction(self.program, eqn), "pool", active)
        elif is_view(self.program, eqn, "layout" in self.passes):
            self.view(eqn)
        elif eqn.name == "gather":
            self.gather([i], eqn, active)
        elif eqn.name in SCATTERS:
            self.scatter([i], eqn, active)
        elif eqn.name in LAYOUT:
            self.move([i], eqn, active)
        elif (kept := self.masks.masked(eqn)) is not None:
            self.join_several(i, eqn, active)
            self.drafts[self.owner[eqn.outputs[0]]].kept = self.root(kept)
        elif eqn.name in ARITHMETIC and len(active) == 1:
            if not self.affine(i, eqn, active[0]):
                self.absorb([i], active[0], "norm", None)
        elif eqn.name in ELEMENTWISE and len(active) == 1:
            self.absorb([i], active[0], "act", "activation")
        elif eqn.name in ELEMENTWISE:
            self.join_several(i, eqn, active)
        elif not self.refuse:
            self.open([i], pointwise(self.program, eqn, "other"), "activation", active)
        else:
            raise ValueError(
                f"trace does not know primitive {eqn.name!r} at {eqn.where}: write that step with others. "
                "For costs alone, hwmodel.trace(..., unknown='elementwise') makes it an operation of kind "
                "'other', which counts one step per output element"
            )

    def region(self, region: Region) -> None:
        """A pattern as one operation, or into the producer where it is an activation function."""
        equations, last = list(region.equations), self.program.equations[region.equations[-1]]
        if region.pattern == "act":
            self.absorb(equations, region.entries[0], "act", "activation")
        elif last.name == "gather":
            self.gather(equations, last, list(region.entries))
        elif region.pattern == "index" and last.name in SCATTERS:
            self.scatter(equations, last, list(region.entries))
        elif region.pattern == "index":
            self.move(equations, last, list(region.entries))
        else:
            geometry = pointwise(self.program, last, region.pattern)
            self.open(equations, geometry, "activation", list(region.entries))

    def contraction(self, i: int, eqn: Equation, active: list[int]) -> None:
        x, w = eqn.inputs
        if eqn.name == "dot_general":
            geometry = matrix_product(self.program, eqn)
        else:
            geometry = convolution(self.program, eqn)
        if self.program.is_weight(x):  # a convolution of a weight by an activation
            geometry = geometry._replace(weight_axis=-1)
        draft = self.open([i], geometry, "linear", active)
        if len(active) == 1:
            draft.weight = x if self.program.is_weight(x) else w
            if geometry.weight_axis >= 0:
                draft.affine_value, draft.foldable = eqn.outputs[0], "affine" in self.passes

    def gather(self, equations: list[int], eqn: Equation, reads: list[int]) -> None:
        """A lookup in a table of weights or at computed places; at constant places elements just move."""
        fixed = self.program.is_weight(eqn.inputs[1])
        geometry = pointwise(self.program, eqn, "layout" if fixed else "gather", 0)
        draft = self.open(equations, geometry, "activation", reads)
        if not self.program.is_weight(eqn.inputs[0]):
            draft.partial = True
            return
        draft.weight = eqn.inputs[0]
        if not fixed and is_lookup(self.program, eqn):
            draft.geometry = geometry._replace(weight_axis=len(self.program.values[draft.weight].shape) - 1)

    def scatter(self, equations: list[int], eqn: Equation, reads: list[int]) -> None:
        """Updates written to places, or added up there: one step per element of the updates."""
        if eqn.name == "scatter":
            geometry = pointwise(self.program, eqn, "layout", 0)
        else:
            updates = self.program.values[eqn.inputs[2]].elems
            geometry = pointwise(self.program, eqn, "other")._replace(macs=updates)
        self.open(equations, geometry, "activation", reads)

    def move(self, equations: list[int], eqn: Equation, reads: list[int]) -> None:
        draft = self.open(equations, pointwise(self.program, eqn, "layout", 0), "activation", reads)
        draft.partial = eqn.name in PARTIAL

    def open(self, equations: list[int], geometry: Geometry, source: PointSource, reads: list[int]) -> Draft:
        eqn = self.program.equations[equations[-1]]
        tail, *others = eqn.outputs
        roots = [self.root(v) for v in reads]
        draft = Draft(geometry, equations, tail, source, roots, len(self.drafts), tuple(others))
        self.drafts.append(draft)
        self.owner.update(dict.fromkeys(eqn.outputs, draft.index))
        return draft

    def view(self, eqn: Equation) -> None:
        (out,), x = eqn.outputs, eqn.inputs[0]
        self.viewed[out], self.owner[out] = self.root(x), self.owner[x]

    def affine(self, i: int, eqn: Equation, x: int) -> bool:
        """Bias and batch norm: y (op) c with c constant along all but the channels joins the contraction."""
        draft = self.drafts[self.owner[x]] if self.owner[x] >= 0 else None
        if draft is None or not draft.foldable or x != draft.tail or self.program.uses(x) != 1:
            return False
        if self.widens(eqn, x):
            return False
        reversed_ = eqn.inputs[1] == x
        constant = self.channel_constant(
            eqn.inputs[0 if reversed_ else 1], self.program.values[x].shape, draft.geometry.channel_axis
        )
        if constant is None or (eqn.name == "div" and reversed_):
            return False
        draft.affine.append(Affine(eqn.name, constant, reversed_))  # type: ignore[arg-type]
        draft.affine_value = eqn.outputs[0]
        self.join(draft, [i])
        return True

    def absorb(self, equations: list[int], x: int, kind: Kind, source: PointSource | None) -> None:
        """Element-wise on one activation: into its producer if nothing else reads it, else a node."""
        last = self.program.equations[equations[-1]]
        wanted = "affine" if kind == "norm" else "activation"
        draft = self.sole_reader(x, equations) if wanted in self.passes else None
        if draft is None or self.widens(last, draft.tail):
            self.open(equations, pointwise(self.program, last, kind), "activation", [x])
        else:
            draft.foldable = False
            draft.source = source or draft.source
            self.join(draft, equations)

    def join_several(self, i: int, eqn: Equation, active: list[int]) -> None:
        """A sum (product, choice, ...) of activations joins the latest producer; others become parents."""
        fused = "residual" in self.passes
        masks = {v: self.drafts[self.owner[v]] for v in active if fused and self.is_mask_for(v, i)}
        rest = [v for v in active if v not in masks]
        latest = max(rest or active, key=lambda v: self.owner[v])
        once = active.count(latest) == 1  # y + y is an operation of its own
        draft = self.sole_reader(latest, [i]) if once and rest and fused else None
        added = eqn.name in ("add", "add_any")
        if (
            draft is None
            or draft.source == "pool"
            or self.widens(eqn, draft.tail)
            or any(self.owner[v] >= draft.index for mask in masks.values() for v in mask.reads)
        ):
            kind: Kind = "add" if added else "other"
            self.open([i], pointwise(self.program, eqn, kind), "sum" if added else "activation", active)
            return
        draft.inner.append((draft.tail, draft.source))
        draft.foldable, draft.source = False, "sum" if added else "activation"
        for mask in masks.values():  # computed in passing, as what it reads is there by then
            draft.equations.extend(mask.equations)
            draft.reads.extend(mask.reads)
            self.dissolved.add(mask.index)
        rest.remove(latest)
        draft.reads.extend(self.root(v) for v in rest)
        self.join(draft, [i])

    def is_mask_for(self, value: int, i: int) -> bool:
        """Whether `value` is a comparison or the like, an operation that equation i alone reads."""
        draft = self.sole_reader(value, [i])
        return draft is not None and draft.geometry.kind == "act" and not self.program.is_real(draft.tail)

    def join(self, draft: Draft, equations: list[int]) -> None:
        draft.equations.extend(equations)
        draft.kept = -1
        draft.tail = self.program.equations[equations[-1]].outputs[0]
        self.owner[draft.tail] = draft.index

    def root(self, value: int) -> int:
        return self.viewed.get(value, value)

    def sole_reader(self, x: int, readers: list[int]) -> Draft | None:
        """The draft that makes x, if its output is read by the equations `readers` and nowhere else."""
        draft = self.drafts[self.owner[x]] if self.owner[x] >= 0 else None
        if draft is None or self.root(x) != draft.tail or draft.others or draft.geometry.kind == "layout":
            return None
        if x in self.outputs or not set(self.program.consumers[x]) <= set(readers):
            return None
        value = x
        while value != draft.tail:
            value = self.program.equations[self.program.producer[value]].inputs[0]
            if self.program.uses(value) != 1:
                return None
        return draft

    def channel_constant(self, value: int, shape: tuple[int, ...], axis: int) -> int | None:
        """`value` before it was broadcast, if it is a scalar or varies along `axis` alone."""
        if _varies_along(self.program.values[value].shape, shape, axis):
            return value
        made_by = self.program.producer.get(value)
        if made_by is None or self.program.equations[made_by].name != "broadcast_in_dim":
            return None
        eqn = self.program.equations[made_by]
        source = self.program.values[eqn.inputs[0]]
        lifted = [1] * len(shape)
        for size, dim in zip(source.shape, eqn.params["broadcast_dimensions"], strict=True):
            lifted[dim] = size
        return eqn.inputs[0] if _varies_along(tuple(lifted), shape, axis) else None

    def widens(self, eqn: Equation, x: int) -> bool:
        """Whether x is broadcast against the other operand."""
        return self.program.values[eqn.outputs[0]].elems != self.program.values[x].elems


def _varies_along(shape: tuple[int, ...], full: tuple[int, ...], axis: int) -> bool:
    if shape == ():
        return True
    return len(shape) == len(full) and all(n == 1 for d, n in enumerate(shape) if d != axis)
