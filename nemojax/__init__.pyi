"""NEMO (Miret et al. 2022): multi-objective search of mixed-precision bit-widths.

The public names; `__init__.py` imports each at its first use.
"""

from . import (
    baselines as baselines,
    data as data,
    export as export,
    networks as networks,
    ptq as ptq,
    report as report,
    training as training,
)
from .archive import Archive as Archive
from .box import Box as Box, Space as Space
from .calibration import QuantizerConfig as QuantizerConfig, Ranges as Ranges
from .chip_bits import Widths as Widths, tensor_bits as tensor_bits
from .chip_costs import ChipCost as ChipCost, energy as energy, latency as latency
from .config import (
    PRESETS as PRESETS,
    Direct as Direct,
    Graph as Graph,
    NemoConfig as NemoConfig,
    Resize as Resize,
    preset as preset,
)
from .configuration import Configuration as Configuration, load_bits as load_bits, save_bits as save_bits
from .cosearch import (
    CoFound as CoFound,
    alternate as alternate,
    bits_then_placement as bits_then_placement,
    placement_then_bits as placement_then_bits,
    searched_bits as searched_bits,
    searched_jointly as searched_jointly,
    searched_placements as searched_placements,
)
from .custom_error import HostCost as HostCost
from .evaluation import (
    Evaluation as Evaluation,
    evaluate_batches as evaluate_batches,
    wilson_interval as wilson_interval,
)
from .evaluator import Evaluator as Evaluator, scores as scores
from .features import efficientnet_lite0_features as efficientnet_lite0_features
from .first_generation import initial_bits as initial_bits, uniform_bits as uniform_bits
from .from_below import (
    Command as Command,
    External as External,
    ExternalConfig as ExternalConfig,
    ExternalError as ExternalError,
    Keep as Keep,
    command as command,
    coverage as coverage,
    evaluate_all as evaluate_all,
    external as external,
    load_state as load_state,
    save_state as save_state,
)
from .front import Front as Front
from .headless import headless as headless, quantized_features as quantized_features
from .images import (
    ImageSet as ImageSet,
    Parts as Parts,
    load_images as load_images,
    load_labelled as load_labelled,
    split as split,
)
from .joint import genomes as genomes, joint as joint, placed_by as placed_by, separated as separated
from .joint_graph import joint_graph as joint_graph
from .joint_space import JointSpace as JointSpace
from .limits import limits as limits
from .loop import run as run, run_chunk as run_chunk
from .nemo import (
    Metrics as Metrics,
    Nemo as Nemo,
    NemoState as NemoState,
    Ticket as Ticket,
    nemo as nemo,
)
from .networks import Network as Network, efficientnet_lite0 as efficientnet_lite0
from .objectives import Disagreement as Disagreement, KLDivergence as KLDivergence, TopKError as TopKError
from .pareto import (
    crowding as crowding,
    dominates as dominates,
    non_dominated as non_dominated,
    pareto_rank as pareto_rank,
)
from .photographs import sample_photographs as sample_photographs
from .placing import (
    Descended as Descended,
    Evolved as Evolved,
    Fixed as Fixed,
    Learned as Learned,
    Placing as Placing,
    Rule as Rule,
)
from .plots import (
    plot_bits as plot_bits,
    plot_front as plot_front,
    plot_progress as plot_progress,
    plot_species as plot_species,
)
from .policies import load_policies as load_policies, save_policies as save_policies
from .preprocess import Preprocess as Preprocess
from .prices import Prices as Prices
from .progress import progress as progress
from .qat import QATConfig as QATConfig, qat as qat, qat_front as qat_front
from .quantizable import quantizable as quantizable
from .quantized import (
    QuantizedNetwork as QuantizedNetwork,
    candidate_bytes as candidate_bytes,
    quantize as quantize,
)
from .quantizer_graph import chain_graph as chain_graph, quantizer_graph as quantizer_graph
from .quantizers import fake_quantize as fake_quantize
from .reevaluate import reevaluate as reevaluate
from .report import write_report as write_report
from .search import (
    Found as Found,
    Report as Report,
    reference as reference,
    search as search,
)
from .sensitivity import Sensitivity as Sensitivity
from .sensitivity_measures import measure_sensitivity as measure_sensitivity
from .space import BitSpace as BitSpace
from .species import (
    SPECIES as SPECIES,
    Setting as Setting,
    Species as Species,
    strategy as strategy,
)
from .survival import SURVIVALS as SURVIVALS, Survival as Survival, nsga2 as nsga2, nsga3 as nsga3
from .task import (
    Task as Task,
    bits_task as bits_task,
    classification as classification,
    costs_by_name as costs_by_name,
    features_task as features_task,
    fidelity as fidelity,
    search_space as search_space,
)
from .variation import polynomial_mutation as polynomial_mutation, sbx as sbx
from .weights import read_weights as read_weights
