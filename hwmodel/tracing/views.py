"""Which equations only show their operand in another way, so that they are no operation."""

from .equations import Equation
from .primitives import ELEMENTWISE, VIEWS
from .program import Program

_PRODUCT = frozenset({"dot_general"})


def is_view(program: Program, eqn: Equation, transpositions: bool) -> bool:
    """Whether the output shows the same elements, or repeats them for those who take them one by one.

    Args:
        transpositions: whether one next to a matrix product is a view, for a product reads and writes its
            operands in any order.
    """
    out = eqn.outputs[0]
    if eqn.name == "transpose":
        return moves_unit_axes_only(program, eqn) or (
            transpositions
            and (
                _behind_product(program, eqn.inputs[0])
                or _feeds_only(program, out, _PRODUCT, VIEWS | {"transpose"})
            )
        )
    if eqn.name not in VIEWS:
        return False
    if program.values[eqn.inputs[0]].elems == program.values[out].elems:
        return True
    return eqn.name == "broadcast_in_dim" and _feeds_only(program, out, ELEMENTWISE, VIEWS)


def moves_unit_axes_only(program: Program, eqn: Equation) -> bool:
    """Whether a transposition leaves the elements in their order."""
    shape = program.values[eqn.inputs[0]].shape
    wide = [axis for axis in eqn.params["permutation"] if shape[axis] != 1]
    return wide == sorted(wide)


def _behind_product(program: Program, value: int) -> bool:
    """Whether a matrix product and transpositions make `value`, all read once."""
    made_by = program.producer.get(value)
    if made_by is None or program.uses(value) != 1:
        return False
    eqn = program.equations[made_by]
    return eqn.name in _PRODUCT or (eqn.name == "transpose" and _behind_product(program, eqn.inputs[0]))


def _feeds_only(program: Program, value: int, readers: frozenset[str], through: frozenset[str]) -> bool:
    """Whether all who read the value, itself or through views, are among `readers`."""
    if value in program.outputs:
        return False
    for i in program.consumers.get(value, ()):
        eqn = program.equations[i]
        if eqn.name in readers:
            continue
        if eqn.name not in through or not _feeds_only(program, eqn.outputs[0], readers, through):
            return False
    return True
