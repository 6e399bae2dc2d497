"""Groups of equations that are one operation for a chip: softmax, normalization, activation functions.

A region has one activation going in and one value coming out, and nothing outside reads a value in
between. Where such a region ends, its entry is found by dominators: the immediate dominator of a value
is the last one that every path from the inputs to it passes (Cooper, Harvey and Kennedy 2001).
"""

from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

from .equations import Equation
from .primitives import ACTIVATIONS, ARITHMETIC, ELEMENTWISE, SCATTERS, VIEWS
from .program import Program
from .views import moves_unit_axes_only

_ROOT = -1  # above all inputs
_LARGEST = 64  # equations of a region; longer chains of arithmetic stay as they are
_INSIDE = ELEMENTWISE | VIEWS | {"reduce_sum", "reduce_max", "transpose"}
_INDEXING = ELEMENTWISE | VIEWS | {"concatenate"}
_PLACES: dict[str, slice] = {  # operands that say where, and are computed with integers
    "gather": slice(1, 2),
    "dynamic_slice": slice(1, None),
    "dynamic_update_slice": slice(2, None),
} | dict.fromkeys(SCATTERS, slice(1, 2))
_JOINS = ELEMENTWISE - {"add_any"}

Pattern = Literal["softmax", "norm", "act", "index"]


class Region(NamedTuple):
    """Equations in order, the last one makes the output; `entries` are the activations read."""

    pattern: Pattern
    equations: tuple[int, ...]
    entries: tuple[int, ...]


def find_regions(program: Program, passes: Collection[str]) -> dict[int, Region]:
    """last equation -> region; regions are disjoint, and the largest that end where they end.

    Args:
        passes: patterns to look for: "softmax", "norm", "activation".
    """
    finder = _Finder(program)
    found: dict[int, Region] = {}
    for i in range(len(program.equations) - 1, -1, -1):
        eqn = program.equations[i]
        if i in finder.claimed or program.is_weight(eqn.outputs[0]):
            continue
        for region in finder.ending_at(i, eqn, passes):
            finder.claimed.update(region.equations)
            found[region.equations[-1]] = region
            break
    return found


class _Finder:
    def __init__(self, program: Program):
        self.program = program
        self.claimed: set[int] = set()
        self.outputs = set(program.outputs)
        self.dominator = _dominators(program)

    def ending_at(self, i: int, eqn: Equation, passes: Collection[str]) -> Iterator[Region]:
        if eqn.name in _PLACES:
            yield from self.index(i, eqn)
        if eqn.name not in _JOINS or len(self.active(eqn)) < 2:
            return
        entry = self.dominator[eqn.outputs[0]]
        inside = self.between(entry, i)
        if inside is None:
            return
        names = {self.program.equations[j].name for j in inside}
        if "reduce_sum" in names:
            if "softmax" in passes:
                yield from self.softmax(entry, i, inside, names)
            if "norm" in passes:
                yield from self.norm(entry, i, inside, names)
        elif "activation" in passes and "reduce_max" not in names and self.is_new(inside):
            yield from self.closed("act", inside, entry, i)

    def softmax(self, entry: int, i: int, inside: set[int], names: set[str]) -> Iterator[Region]:
        """exp(x - max x) / Σ exp(x - max x), or x - max x - log Σ exp(x - max x); max may be left out."""
        name = self.program.equations[i].name
        if name == "sub":
            if not {"exp", "log"} <= names:
                return
        elif name not in ("div", "mul"):
            return
        elif not names & {"exp", "exp2"}:  # exp x is read twice, so it is the entry so far
            made_by = self.program.producer.get(entry)
            if made_by is None or self.program.equations[made_by].name not in ("exp", "exp2"):
                return
            inside, entry = inside | {made_by}, self.program.equations[made_by].inputs[0]
        inside, entry = self.extended(inside, entry, "reduce_max")
        yield from self.closed("softmax", inside, entry, i)

    def norm(self, entry: int, i: int, inside: set[int], names: set[str]) -> Iterator[Region]:
        """(x - mean) / sqrt(variance + ε) and its kin: a value times a root of its own sums."""
        if self.program.equations[i].name not in ("mul", "div") or not names & {"rsqrt", "sqrt", "pow"}:
            return
        inside, entry = self.extended(inside, entry, "reduce_sum")
        yield from self.closed("norm", inside, entry, i)

    def index(self, i: int, eqn: Equation) -> Iterator[Region]:
        """Integer arithmetic on places to read or write: wrapping of negative ones, clipping."""
        places = eqn.inputs[_PLACES[eqn.name]]
        data = [v for v in self.active(eqn) if v not in places]
        inside, entries = {i}, []
        stack = [v for v in places if not self.program.is_weight(v)]
        while stack:
            v = stack.pop()
            made_by = self.program.producer.get(v)
            before = None if made_by is None else self.program.equations[made_by]
            if before is None or made_by is None or made_by in self.claimed or before.name not in _INDEXING:
                entries.append(v)
            elif made_by not in inside:
                inside.add(made_by)
                stack.extend(self.active(before))
        if 1 < len(inside) <= _LARGEST and self.is_closed(inside, i):
            yield Region("index", tuple(sorted(inside)), tuple(dict.fromkeys(data + entries)))

    def extended(self, inside: set[int], entry: int, reduction: str) -> tuple[set[int], int]:
        """With x - (a reduction of x) before the entry, if that is what makes the entry."""
        start, views = entry, set()
        while (made_by := self.program.producer.get(start)) is not None and self.is_view(made_by):
            views.add(made_by)
            start = self.program.equations[made_by].inputs[0]
        if made_by is None or self.program.equations[made_by].name != "sub":
            return inside, entry
        before = self.between(self.dominator[start], made_by)
        if before is None or reduction not in {self.program.equations[j].name for j in before}:
            return inside, entry
        return inside | views | before, self.dominator[start]

    def between(self, entry: int, last: int) -> set[int] | None:
        """All equations on paths from value `entry` to equation `last`, if they are a closed region."""
        if entry == _ROOT:
            return None
        inside, stack = {last}, list(self.active(self.program.equations[last]))
        while stack:
            v = stack.pop()
            if v == entry:
                continue
            i = self.program.producer.get(v)
            if i is None:
                return None
            if i in inside:
                continue
            eqn = self.program.equations[i]
            if i in self.claimed or eqn.name not in _INSIDE or len(inside) >= _LARGEST:
                return None
            if eqn.name == "transpose" and not moves_unit_axes_only(self.program, eqn):
                return None
            inside.add(i)
            stack.extend(self.active(eqn))
        return inside if self.is_closed(inside, last) else None

    def is_closed(self, inside: set[int], last: int) -> bool:
        """Whether nothing but the last equation's output is read outside."""
        return not any(
            out in self.outputs or any(reader not in inside for reader in self.program.consumers.get(out, ()))
            for i in inside - {last}
            for out in self.program.equations[i].outputs
        )

    def is_new(self, inside: set[int]) -> bool:
        """Whether some equation is more than an activation function or an add that fuses on its own."""
        for i in inside:
            eqn = self.program.equations[i]
            several = len(self.active(eqn)) > 1
            if eqn.name not in ARITHMETIC | ACTIVATIONS | VIEWS or (several and eqn.name != "add"):
                return True
        return False

    def is_view(self, i: int) -> bool:
        eqn = self.program.equations[i]
        return (
            eqn.name in VIEWS
            and len({self.program.values[v].elems for v in (eqn.inputs[0], eqn.outputs[0])}) == 1
        )

    def active(self, eqn: Equation) -> list[int]:
        return [v for v in eqn.inputs if not self.program.is_weight(v)]

    def closed(self, pattern: Pattern, inside: set[int], entry: int, last: int) -> Iterator[Region]:
        """The region, if nothing inside is read outside and as many elements come out as go in."""
        out = self.program.equations[last].outputs[0]
        if (
            self.is_closed(inside, last)
            and self.program.values[entry].elems == self.program.values[out].elems
        ):
            yield Region(pattern, tuple(sorted(inside)), (entry,))


def _dominators(program: Program) -> dict[int, int]:
    """activation -> immediate dominator; _ROOT above inputs."""
    above: dict[int, int] = dict.fromkeys(program.inputs, _ROOT)
    depth: dict[int, int] = {_ROOT: 0} | dict.fromkeys(program.inputs, 1)
    for eqn in program.equations:
        active = [v for v in eqn.inputs if not program.is_weight(v)]
        if not active:
            continue
        common = active[0]
        for v in active[1:]:
            while common != v:
                if depth[common] >= depth[v]:
                    common = above[common]
                else:
                    v = above[v]
        for out in eqn.outputs:
            above[out], depth[out] = common, depth[common] + 1
    return above
