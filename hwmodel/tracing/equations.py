"""Values and equations: the parts of a flat program.

Values are numbered, so that a tracer and an evaluator talk about the same things.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from jax.extend import core as jex

_LIBRARIES = ("jax", "flax", "equinox", "jaxlib", "jaxtyping", "beartype")

Role = Literal["weight", "activation"]


class Value(NamedTuple):
    """One array of the program. A weight depends on parameters and constants only."""

    shape: tuple[int, ...]
    dtype: Any  # NumPy's, or JAX's own for random keys
    role: Role

    @property
    def elems(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Equation(NamedTuple):
    """A primitive with its parameters; inputs and outputs are indices into Program.values."""

    primitive: jex.Primitive
    params: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    where: str  # the user's line, for messages

    @property
    def name(self) -> str:
        return self.primitive.name

    def bind(self, *inputs: Any) -> tuple[Any, ...]:
        """Runs the primitive as it stood in the function."""
        out = self.primitive.bind(*inputs, **self.params)
        return tuple(out) if self.primitive.multiple_results else (out,)


def user_line(eqn: jex.JaxprEqn) -> str:
    """file:line of the innermost frame outside jax, flax and equinox; empty where there is none."""
    traceback = getattr(eqn.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        if not any(f"/site-packages/{library}/" in frame.file_name for library in _LIBRARIES):
            return f"{frame.file_name}:{frame.line_num}"
    return ""
