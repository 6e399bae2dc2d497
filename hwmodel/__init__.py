"""What a network costs on a chip: workload graphs of JAX functions, and functions of them."""

from .costs import bit_operations_ratio as bit_operations_ratio, model_ratio as model_ratio
from .program import Equation as Equation, Program as Program, Value as Value
from .trace import trace as trace
from .workload import (
    Affine as Affine,
    Edge as Edge,
    Operation as Operation,
    Point as Point,
    Workload as Workload,
)
