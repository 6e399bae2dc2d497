"""trace: from the jaxpr of a plain JAX function to the workload graph.

The flat program is read once, in order. Convolutions, matrix products and pooling open an operation;
biases, batch norms, activation functions and residual adds join the operation that made their operand,
as long as nothing else reads it; reshapes vanish. What is not known is refused by name.
"""

from collections.abc import Callable
from typing import Any

from .assemble import VIEWS, Draft, assemble
from .geometry import Geometry, convolution, matrix_product, pointwise, pooling
from .program import Equation, Program, flatten
from .workload import Affine, Kind, PointSource, Workload

_ARITHMETIC = {"add", "sub", "mul", "div"}
_ACTIVATIONS = {"max", "min", "clamp", "tanh", "logistic"}
_POOLING = {"reduce_window_max", "reduce_window_sum", "reduce_sum"}
_KNOWN = sorted({"conv_general_dilated", "dot_general"} | VIEWS | _ARITHMETIC | _ACTIVATIONS | _POOLING)


def trace(
    fn: Callable[..., Any], params: Any, *inputs: Any, quantize_pooled_input: bool = True, fusion: bool = True
) -> Workload:
    """The workload graph of `fn(params, *inputs)`.

    Args:
        fn: any JAX function; nothing in it needs to know about quantization or placement.
        params: pytree of arrays or ShapeDtypeStructs; what depends on it alone is a weight.
        inputs: arrays or ShapeDtypeStructs; their leading axis is the batch.
        quantize_pooled_input: whether a quantizer stands behind an average pooling. (Miret et al. 2022
            count ResNet50's 125 quantizers with it and MobileNet-V2's 116 without.)
        fusion: False keeps one operation per equation, but for views and weight arithmetic.

    Raises:
        ValueError: a primitive or a use of it that is not known, with its place in the source.
    """
    program = flatten(fn, params, *inputs)
    drafts = _Tracer(program, fusion).run()
    return assemble(program, drafts, quantize_pooled_input)


class _Tracer:
    def __init__(self, program: Program, fusion: bool):
        self.program, self.fusion = program, fusion
        self.drafts: list[Draft] = []
        self.owner = dict.fromkeys(program.inputs, -1)  # activation value -> draft, -1: a graph input
        self.viewed: dict[int, int] = {}  # view -> the value it shows

    def run(self) -> list[Draft]:
        for i, eqn in enumerate(self.program.equations):
            if not self.program.is_weight(eqn.outputs[0]):
                self.step(i, eqn)
        for value in self.program.outputs:
            if self.program.is_weight(value):
                raise ValueError("an output of fn does not depend on its inputs; trace needs activations")
        return self.drafts

    def step(self, i: int, eqn: Equation) -> None:
        active = [v for v in eqn.inputs if not self.program.is_weight(v)]
        if eqn.name in ("conv_general_dilated", "dot_general"):
            self.contraction(i, eqn)
        elif eqn.name in _POOLING:
            self.open(i, eqn, pooling(self.program, eqn), "pool", active)
        elif eqn.name in VIEWS and self._is_view(eqn):
            self.view(i, eqn)
        elif eqn.name in _ARITHMETIC and len(active) == 1:
            if not self.affine(i, eqn, active[0]):
                self.absorb(i, eqn, active[0], "norm", None)
        elif eqn.name in _ACTIVATIONS and len(active) == 1:
            self.absorb(i, eqn, active[0], "act", "activation")
        elif eqn.name == "add" and self._same_shapes(active):
            self.residual(i, eqn, active)
        else:
            uses = f" of {len(active)} activations" if len(active) > 1 else ""
            if eqn.name in VIEWS:
                before, after = (self.program.values[v] for v in (eqn.inputs[0], eqn.outputs[0]))
                uses = f" from {before.dtype}{before.shape} to {after.dtype}{after.shape}"
            raise ValueError(
                f"trace does not know primitive {eqn.name!r}{uses} at {eqn.where}; "
                f"it knows {', '.join(_KNOWN)}"
            )

    def contraction(self, i: int, eqn: Equation) -> None:
        x, w = eqn.inputs
        if self.program.is_weight(x) or not self.program.is_weight(w):
            raise ValueError(
                f"{eqn.name} at {eqn.where}: trace knows an activation on the left and a weight on the right"
            )
        geometry = (convolution if eqn.name == "conv_general_dilated" else matrix_product)(self.program, eqn)
        self.open(i, eqn, geometry, "linear", [x])
        draft = self.drafts[-1]
        draft.weight, draft.affine_value, draft.foldable = w, eqn.outputs[0], self.fusion

    def open(self, i: int, eqn: Equation, geometry: Geometry, source: PointSource, reads: list[int]) -> None:
        self.drafts.append(Draft(geometry, [i], eqn.outputs[0], source, [self.root(v) for v in reads]))
        self.owner[eqn.outputs[0]] = len(self.drafts) - 1

    def view(self, i: int, eqn: Equation) -> None:
        (out,), x = eqn.outputs, eqn.inputs[0]
        self.viewed[out], self.owner[out] = self.root(x), self.owner[x]

    def affine(self, i: int, eqn: Equation, x: int) -> bool:
        """Bias and batch norm: y (op) c with c constant along all but the channels joins the contraction."""
        draft = self.drafts[self.owner[x]] if self.owner[x] >= 0 else None
        if draft is None or not draft.foldable or x != draft.tail or self.program.uses(x) != 1:
            return False
        if self._widens(eqn, x):
            return False
        reversed_ = eqn.inputs[1] == x
        constant = self.channel_constant(
            eqn.inputs[0 if reversed_ else 1], self.program.values[x].shape, draft.geometry.channel_axis
        )
        if constant is None or (eqn.name == "div" and reversed_):
            return False
        draft.affine.append(Affine(eqn.name, constant, reversed_))  # type: ignore[arg-type]
        draft.affine_value = eqn.outputs[0]
        self.join(draft, i, eqn)
        return True

    def absorb(self, i: int, eqn: Equation, x: int, kind: Kind, source: PointSource | None) -> None:
        """Element-wise on one activation: into its producer if nothing else reads it, else a node."""
        draft = self.sole_reader(x)
        if draft is None or self._widens(eqn, x):
            self.open(i, eqn, pointwise(self.program, eqn, kind), "activation", [x])
        else:
            draft.foldable = False
            draft.source = source or draft.source
            self.join(draft, i, eqn)

    def residual(self, i: int, eqn: Equation, active: list[int]) -> None:
        """An add of two activations joins the later of their producers; the other one becomes a parent."""
        latest = max(active, key=lambda v: self.owner[v])
        draft = self.sole_reader(latest)
        if draft is None or draft.source == "pool":
            self.open(i, eqn, pointwise(self.program, eqn, "add"), "sum", active)
            return
        draft.inner.append((draft.tail, draft.source))
        draft.foldable, draft.source = False, "sum"
        draft.reads.append(self.root(active[0] if latest == active[1] else active[1]))
        self.join(draft, i, eqn)

    def join(self, draft: Draft, i: int, eqn: Equation) -> None:
        draft.equations.append(i)
        draft.tail = eqn.outputs[0]
        self.owner[draft.tail] = self.drafts.index(draft)

    def root(self, value: int) -> int:
        return self.viewed.get(value, value)

    def sole_reader(self, x: int) -> Draft | None:
        """The draft that makes x, if its output is read here and nowhere else."""
        draft = self.drafts[self.owner[x]] if self.fusion and self.owner[x] >= 0 else None
        if draft is None or self.root(x) != draft.tail:
            return None
        value = x
        while self.program.uses(value) == 1:
            if value == draft.tail:
                return draft
            value = self.program.equations[self.program.producer[value]].inputs[0]
        return None

    def channel_constant(self, value: int, shape: tuple[int, ...], axis: int) -> int | None:
        """`value` before it was broadcast, if it is a scalar or varies along `axis` alone."""
        if self._varies_along(self.program.values[value].shape, shape, axis):
            return value
        made_by = self.program.producer.get(value)
        if made_by is None or self.program.equations[made_by].name != "broadcast_in_dim":
            return None
        eqn = self.program.equations[made_by]
        source = self.program.values[eqn.inputs[0]]
        lifted = [1] * len(shape)
        for size, dim in zip(source.shape, eqn.params["broadcast_dimensions"], strict=True):
            lifted[dim] = size
        return eqn.inputs[0] if self._varies_along(tuple(lifted), shape, axis) else None

    @staticmethod
    def _varies_along(shape: tuple[int, ...], full: tuple[int, ...], axis: int) -> bool:
        if shape == ():
            return True
        return len(shape) == len(full) and all(n == 1 for d, n in enumerate(shape) if d != axis)

    def _is_view(self, eqn: Equation) -> bool:
        value, out = self.program.values[eqn.inputs[0]], self.program.values[eqn.outputs[0]]
        return value.elems == out.elems and value.dtype == out.dtype

    def _widens(self, eqn: Equation, x: int) -> bool:
        """Whether x is broadcast against the other operand."""
        return self.program.values[eqn.outputs[0]].elems != self.program.values[x].elems

    def _same_shapes(self, values: list[int]) -> bool:
        return len(values) == 2 and len({self.program.values[v].shape for v in values}) == 1
