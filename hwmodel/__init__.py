"""What a network costs on a chip: workload graphs of JAX functions, and functions of them."""

from . import zoo as zoo
from .arrays import (
    ChipArrays as ChipArrays,
    WorkloadArrays as WorkloadArrays,
    chip_arrays as chip_arrays,
    workload_arrays as workload_arrays,
)
from .baselines import (
    BASELINES as BASELINES,
    banked_greedy as banked_greedy,
    density as density,
    first_fit as first_fit,
)
from .bits import INT8 as INT8, Bits as Bits
from .chip import Chip as Chip, Level as Level, Rate as Rate
from .chip_file import load_chip as load_chip
from .costs import bit_operations_ratio as bit_operations_ratio, model_ratio as model_ratio
from .gradient import (
    GradientConfig as GradientConfig,
    GradientPlacement as GradientPlacement,
    optimize_placement as optimize_placement,
)
from .optimum import Optimum as Optimum, optimal_placement as optimal_placement
from .pins import pinned as pinned
from .placements import (
    Evaluation as Evaluation,
    Rectified as Rectified,
    evaluate as evaluate,
    latency as latency,
    rectify as rectify,
)
from .problem import Problem as Problem, problem as problem, problem_from_arrays as problem_from_arrays
from .program import Equation as Equation, Program as Program, Value as Value
from .soft import (
    Soft as Soft,
    Temperature as Temperature,
    soft_latency as soft_latency,
)
from .tensors import Tensor as Tensor, tensors as tensors
from .trace import trace as trace
from .workload import (
    Affine as Affine,
    Edge as Edge,
    Operation as Operation,
    Point as Point,
    Workload as Workload,
)
