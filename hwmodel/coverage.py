"""What a network's quantizers cover, and what is left at full precision, with the reason."""

from dataclasses import dataclass
from typing import Literal

from .tracing.primitives import CHOOSING
from .workload import Operation, Workload

WHY: dict[str, str] = {
    "bias": "added in the accumulator at full precision, one number a channel",
    "normalization": "folded into the weights before it, what is left is one number a channel",
    "meets activations": "a parameter that is added to or multiplied with activations element by element",
    "looked up by number": "single numbers or columns of a table, no rows of one",
    "multiplied as the other operand": "a weight that an activation slides over, without output channels",
    "output": "nothing in the network reads it",
    "chosen from quantized values": "moves or picks values that a quantizer has rounded already",
    "whole numbers or a mask": "no real numbers",
    "mean of quantized values": "quantize_pooled_input is off",
}


@dataclass(frozen=True)
class Unquantized:
    """A tensor without a quantizer of its own."""

    name: str  # of the parameter, or of the operation that makes the tensor
    tensor: Literal["parameter", "activation"]
    elems: int  # an activation's are of one sample
    reason: str


@dataclass(frozen=True)
class Coverage:
    """What of a network is quantized and what is not."""

    quantizers: int
    parameters: int
    left: tuple[Unquantized, ...]  # parameters in the order of their tree, then activations as they run

    @property
    def quantized_parameters(self) -> int:
        return self.parameters - sum(row.elems for row in self.left if row.tensor == "parameter")

    def table(self) -> str:
        """As text: the share of the parameters that has a quantizer, then a line for all that has none."""
        if not self.left:
            return f"{self.quantizers} quantizers; every tensor has one"
        share = self.quantized_parameters / max(self.parameters, 1)
        head = (
            f"{self.quantizers} quantizers; {self.quantized_parameters:,} of {self.parameters:,} parameters "
            f"({share:.1%}) have one. Left at full precision:"
        )
        width = max(len(row.name) for row in self.left)
        lines = [f"{row.name:{width}}  {row.elems:>11,}  {row.tensor}: {row.reason}" for row in self.left]
        return "\n".join([head, *lines])


def coverage(workload: Workload) -> Coverage:
    """Every parameter and activation of a traced network at which no quantizer stands, and why.

    What is inside an operation (a softmax's exponentials, say) is no tensor of the graph and does not appear.

    Raises:
        ValueError: a workload that was not traced.
    """
    program = workload.program
    if not program.equations:
        raise ValueError(f"workload {workload.name!r} was not traced: only a traced network has quantizers")
    total = sum(program.values[value].elems for value in program.params)
    return Coverage(len(workload.points), total, (*_parameters(workload), *_activations(workload)))


def _parameters(workload: Workload) -> list[Unquantized]:
    program = workload.program
    quantized: set[int] = set()
    role: dict[int, str] = {}
    for op in workload.operations:
        for step in op.affine:
            kind = "bias" if step.op in ("add", "sub") and len(op.affine) == 1 else "normalization"
            role.update(dict.fromkeys(program.params_behind(step.value), WHY[kind]))
    for op in workload.operations:
        if op.weight_point >= 0:
            quantized.update(program.params_behind(workload.points[op.weight_point].value))
        elif op.w_elems:
            why = "looked up by number" if op.kind == "gather" else "multiplied as the other operand"
            role.update(dict.fromkeys(_weights_of(workload, op), WHY[why]))
    return [
        Unquantized(name, "parameter", program.values[value].elems, role.get(i, WHY["meets activations"]))
        for i, (name, value) in enumerate(zip(program.param_names, program.params, strict=True))
        if i not in quantized
    ]


def _weights_of(workload: Workload, op: Operation) -> tuple[int, ...]:
    """Positions of the parameters that an operation's equations read."""
    program = workload.program
    values = {v for i in op.equations for v in program.equations[i].inputs if program.is_weight(v)}
    return tuple({leaf for v in values for leaf in program.params_behind(v)})


def _activations(workload: Workload) -> list[Unquantized]:
    program = workload.program
    at = {point.operation for point in workload.points if not point.is_weight}
    found = []
    read = {edge.producer for op in workload.operations for edge in op.parents}
    for i, op in enumerate(workload.operations):
        if i in at:
            continue
        last = program.equations[op.equations[-1]]
        if not program.is_real(last.outputs[0]):
            why = "whole numbers or a mask"
        elif i not in read:
            why = "output"
        elif last.name in CHOOSING:
            why = "chosen from quantized values"
        else:
            why = "mean of quantized values"
        found.append(Unquantized(op.name, "activation", op.o_elems, WHY[why]))
    return found
