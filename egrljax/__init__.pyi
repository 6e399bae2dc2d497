"""EGRL (Khadka et al. 2021): evolution, graph policies and a critic map tensors to memories.

The public names; `__init__.py` imports each at its first use.
"""

from . import boltzmann as boltzmann, decisions as decisions, ssne as ssne
from .acting import act as act, act_greedily as act_greedily
from .at_bits import allowed_levels as allowed_levels, environment_at as environment_at
from .boltzmann import Boltzmann as Boltzmann, BoltzmannRates as BoltzmannRates
from .checkpoint import (
    Keep as Keep,
    load_state as load_state,
    save_state as save_state,
    state_if_there as state_if_there,
)
from .config import (
    PRESETS as PRESETS,
    EGRLConfig as EGRLConfig,
    LearnerConfig as LearnerConfig,
    paper_like as paper_like,
    tuned as tuned,
)
from .critics import Critic as Critic, critic as critic
from .egrl import EGRL as EGRL, egrl as egrl
from .environment import (
    Environment as Environment,
    Measured as Measured,
    environment as environment,
    exact_latency as exact_latency,
    measure as measure,
)
from .external import (
    Command as Command,
    External as External,
    ExternalConfig as ExternalConfig,
    ExternalError as ExternalError,
    command as command,
    evaluate_all as evaluate_all,
    external as external,
)
from .genomes import Genome as Genome, genome as genome
from .graph_layers import (
    GraphAttention as GraphAttention,
    GraphConvolution as GraphConvolution,
    with_self_edges as with_self_edges,
)
from .loop import run as run, run_chunk as run_chunk, step as step, told as told
from .operators import tournament as tournament, uniform_index as uniform_index
from .place import ENGINES as ENGINES, place as place
from .place_files import write_placed as write_placed
from .placed import Course as Course, Placed as Placed
from .plots import plot_course as plot_course
from .policies import (
    Policy as Policy,
    PolicyConfig as PolicyConfig,
    apply_population as apply_population,
    policy as policy,
    policy_bytes as policy_bytes,
)
from .progress import (
    PlaceProgress as PlaceProgress,
    ProgressLine as ProgressLine,
    TrainPolicyProgress as TrainPolicyProgress,
    progress as progress,
)
from .replay import Replay as Replay
from .reward import RewardConfig as RewardConfig, reward as reward
from .sac import Learned as Learned, Learner as Learner, LearnerState as LearnerState, learner as learner
from .seeds import run_seeds as run_seeds
from .several import environments as environments, one_of as one_of
from .shared import (
    Shared as Shared,
    SharedMetrics as SharedMetrics,
    SharedState as SharedState,
    shared as shared,
    shared_config as shared_config,
)
from .ssne import SSNERates as SSNERates
from .starts import start_logits as start_logits
from .state import EGRLState as EGRLState, Metrics as Metrics, Ticket as Ticket, live as live
from .strictness import as_evosax as as_evosax
from .train import train_policy as train_policy
from .trained import (
    TrainedPolicy as TrainedPolicy,
    best_policy as best_policy,
    load_policy as load_policy,
    save_policy as save_policy,
)
from .unet import GraphUNet as GraphUNet
