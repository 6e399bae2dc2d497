"""What a network costs on a chip: workload graphs, latency, placements, addresses.

The public names; `__init__.py` imports each at its first use.
"""

from . import zoo as zoo
from .addresses import (
    Allocation as Allocation,
    Buffer as Buffer,
    allocate as allocate,
    load_placement as load_placement,
    min_capacity as min_capacity,
    save_placement as save_placement,
    write_minimalloc as write_minimalloc,
)
from .arrays import (
    ChipArrays as ChipArrays,
    WorkloadArrays as WorkloadArrays,
    chip_arrays as chip_arrays,
    workload_arrays as workload_arrays,
)
from .assignment import assign as assign
from .atomic import write_bytes as write_bytes, write_text as write_text
from .baselines import (
    BASELINES as BASELINES,
    banked_greedy as banked_greedy,
    density as density,
    first_fit as first_fit,
)
from .bits import INT8 as INT8, Bits as Bits
from .buckets import (
    edge_mask as edge_mask,
    node_bucket as node_bucket,
    node_mask as node_mask,
    policy_graph as policy_graph,
)
from .chip import Chip as Chip, Level as Level, Rate as Rate
from .chips.file import (
    ChipWarning as ChipWarning,
    load_chip as load_chip,
    preset_names as preset_names,
    save_chip as save_chip,
    with_align as with_align,
)
from .console import parse_rates as parse_rates, run_app as run_app, say as say
from .contention import contended_latency as contended_latency
from .costs import bit_operations_ratio as bit_operations_ratio, model_ratio as model_ratio
from .coverage import Coverage as Coverage, Unquantized as Unquantized, coverage as coverage
from .devices import (
    IMAGES as IMAGES,
    POP as POP,
    check_mesh as check_mesh,
    pieces as pieces,
    placed as placed,
    sharded as sharded,
)
from .energy import energy_j as energy_j
from .features import feature_names as feature_names, features as features
from .fields import check_fields as check_fields
from .gradient import (
    GradientConfig as GradientConfig,
    GradientPlacement as GradientPlacement,
    optimize_placement as optimize_placement,
)
from .hosts import Hosts as Hosts, HostsError as HostsError
from .memory import (
    chunk_within as chunk_within,
    memory_budget as memory_budget,
    program_bytes as program_bytes,
)
from .onnx_import.read import from_onnx as from_onnx
from .optimum import Optimum as Optimum, optimal_placement as optimal_placement
from .pins import forbidden as forbidden, pinned as pinned
from .placements import (
    Evaluation as Evaluation,
    Rectified as Rectified,
    evaluate as evaluate,
    evaluation_bytes as evaluation_bytes,
    latency as latency,
    rectify as rectify,
)
from .problem import (
    Problem as Problem,
    problem as problem,
    problem_from_arrays as problem_from_arrays,
    saved_density as saved_density,
    tensor_seconds as tensor_seconds,
)
from .random_graphs import random_workload as random_workload
from .report.explain import Explanation as Explanation, explain as explain
from .report.models import load_model as load_model
from .report.plots import (
    memory_figure as memory_figure,
    plot_latency as plot_latency,
    plot_memory as plot_memory,
    plot_placement as plot_placement,
    plot_roofline as plot_roofline,
)
from .soft import (
    Soft as Soft,
    Temperature as Temperature,
    overflow as overflow,
    relaxed_latency as relaxed_latency,
    soft_latency as soft_latency,
)
from .stopping import close_line as close_line, wants_stop as wants_stop
from .tensors import Tensor as Tensor, tensors as tensors
from .topology import in_execution_order as in_execution_order
from .tracing.program import Equation as Equation, Program as Program, Value as Value
from .tracing.trace import trace as trace
from .workload import (
    Affine as Affine,
    Edge as Edge,
    Operation as Operation,
    Point as Point,
    Workload as Workload,
)
from .workload_file import load_workload as load_workload, save_workload as save_workload
