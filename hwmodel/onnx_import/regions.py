"""Groups of ONNX nodes that are one operation for a chip, written out: GELU, SiLU, layer norm, softmax.

A region starts where several element-wise nodes read one value, holds only nodes that compute from that
value and constants, and ends in the first node whose output is all that is read outside. A region with a
reduction is (part of) a normalization or, with an exponential, a softmax; one without is an activation
function.
"""

from typing import NamedTuple

from .model import Model
from .operators import ARITHMETIC, UNARY

_REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare", "ReduceL2"}
_ELEMENTWISE = ARITHMETIC | UNARY | {"Cast", "Identity"}
_LARGEST = 64  # nodes


class Region(NamedTuple):
    """Nodes in order, the last one makes the output; `source` is the activation that they compute from."""

    source: str
    nodes: tuple[int, ...]
    reduces: bool
    exponential: bool


def find_regions(model: Model) -> dict[int, Region]:
    """first node -> region; regions are disjoint."""
    found: dict[int, Region] = {}
    claimed: set[int] = set()
    for i, node in enumerate(model.nodes):
        if i in claimed or node.outputs[0] in model.constants:
            continue
        for source in dict.fromkeys(model.active(node)):
            region = _region(model, source, claimed)
            if region is not None and region.nodes[0] == i:
                found[i] = region
                claimed.update(region.nodes)
                break
    return found


def _region(model: Model, source: str, claimed: set[int]) -> Region | None:
    inside: list[int] = []
    values = {source}
    waiting = set(model.consumers.get(source, ()))
    while waiting and len(inside) < _LARGEST:
        i = min(waiting)
        waiting.remove(i)
        if _joins(model, i, values, claimed):
            inside.append(i)
            values.add(model.nodes[i].outputs[0])
            waiting.update(model.consumers.get(model.nodes[i].outputs[0], ()))
    starts = [i for i in inside if source in model.nodes[i].inputs]
    if len(starts) < 2:
        return None
    for end, i in enumerate(inside, 1):
        if i >= starts[-1] and _is_closed(model, inside[:end]):
            names = {model.nodes[j].op for j in inside[:end]}
            return Region(source, tuple(inside[:end]), bool(names & _REDUCTIONS), "Exp" in names)
    return None


def _joins(model: Model, i: int, values: set[str], claimed: set[int]) -> bool:
    node = model.nodes[i]
    if i in claimed or node.op not in _ELEMENTWISE | _REDUCTIONS or any(node.outputs[1:]):
        return False
    return all(v in values for v in model.active(node))


def _is_closed(model: Model, inside: list[int]) -> bool:
    """Whether nothing outside reads what the nodes make, but for the output of the last one."""
    made = [model.nodes[i].outputs[0] for i in inside[:-1]]
    return not any(v in model.outputs or set(model.consumers.get(v, ())) - set(inside) for v in made)
