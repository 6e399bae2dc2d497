"""trace: from the jaxpr of a plain JAX function to the workload graph.

The flat program is read once, in order. Convolutions, matrix products, pooling, softmax and normalization
open an operation; biases, batch norms, activation functions and residual adds join the operation that made
their operand, as long as nothing else reads it; views vanish. What is not known is refused by name.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..workload import Workload
from .assemble import assemble
from .fusion import Tracer
from .program import flatten

PASSES = ("affine", "activation", "residual", "softmax", "norm", "layout")

Fusion = bool | Literal["all", "none"] | Collection[str]


def trace(
    fn: Callable[..., Any],
    *args: Any,
    params: int | Sequence[int] = 0,
    quantize_pooled_input: bool = True,
    fusion: Fusion = True,
    unroll: int = 64,
    unknown: str = "error",
    name: str = "network",
) -> Workload:
    """The workload graph of `fn(*args)`; of `fn(parameters, *inputs)` unless `params` says otherwise.

    Args:
        fn: any JAX function; nothing in it needs to know about quantization or placement.
        args: pytrees of arrays or ShapeDtypeStructs. Each is parameters or inputs as a whole; the leading
            axis of inputs is the batch. Objects that hold more than arrays are split first (nnx.split,
            eqx.partition).
        params: position or positions in `args` of the parameters; () for none. What depends on parameters
            and constants alone is a weight.
        quantize_pooled_input: whether a quantizer stands behind an average pooling. (Miret et al. 2022
            count ResNet50's 125 quantizers with it and MobileNet-V2's 116 without.)
        fusion: True or "all"; False or "none" keeps one operation per equation, but for views and weight
            arithmetic; or the names of the passes to run. Nothing fuses across a value that is read twice.

            - "affine": biases, batch norms and other arithmetic with weights into the producer.
            - "activation": element-wise functions of one activation into the producer, their bodies
              (gelu, elu, softplus, ...) as a whole.
            - "residual": element-wise functions of several activations into the later producer; the
              others become parents.
            - "softmax", "norm": the patterns as one operation each.
            - "layout": transpositions vanish next to a matrix product, which reads and writes any order.
        unroll: a scan of at most so many steps is unrolled, a longer one refused.
        unknown: "error", or "elementwise": a primitive that is not known becomes an operation of kind
            "other", which reads its operands and counts one step per output element.
        name: of the workload, for reports.

    Returns:
        The workload; `Workload.program` holds the equations that it came from.

    Raises:
        ValueError: a primitive or a use of it that is not known, with its place in the source; control flow;
            a symbolic shape; a leaf that is no array; an output that no input reaches; an unknown option.
    """
    passes = _passes(fusion)
    if unknown not in ("error", "elementwise"):
        raise ValueError(f'unknown must be "error" or "elementwise", got {unknown!r}')
    program = flatten(fn, *args, params=params, unroll=unroll)
    tracer = Tracer(program, passes, refuse=unknown == "error")
    work = assemble(program, tracer.run(), tracer.viewed, quantize_pooled_input)
    return replace(work, name=name)


def _passes(fusion: Fusion) -> frozenset[str]:
    if fusion in (True, "all"):
        return frozenset(PASSES)
    if fusion in (False, "none"):
        return frozenset()
    names = {fusion} if isinstance(fusion, str) else set(fusion)  # type: ignore[arg-type]
    if not names <= set(PASSES):
        raise ValueError(f"fusion knows the passes {', '.join(PASSES)}, got {sorted(map(str, names))}")
    return frozenset(names)
