"""What a network costs on a chip: workload graphs of JAX functions, and functions of them."""

from .arrays import (
    ChipArrays as ChipArrays,
    WorkloadArrays as WorkloadArrays,
    chip_arrays as chip_arrays,
    workload_arrays as workload_arrays,
)
from .bits import INT8 as INT8, Bits as Bits
from .chip import Chip as Chip, Level as Level, Rate as Rate
from .costs import bit_operations_ratio as bit_operations_ratio, model_ratio as model_ratio
from .problem import Problem as Problem, problem as problem, problem_from_arrays as problem_from_arrays
from .program import Equation as Equation, Program as Program, Value as Value
from .tensors import Tensor as Tensor, tensors as tensors
from .trace import trace as trace
from .workload import (
    Affine as Affine,
    Edge as Edge,
    Operation as Operation,
    Point as Point,
    Workload as Workload,
)
