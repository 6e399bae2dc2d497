"""EGRL (Khadka et al. 2021): evolution and graph policies. So far the environment and the genomes."""

from . import boltzmann as boltzmann, decisions as decisions, ssne as ssne
from .boltzmann import Boltzmann as Boltzmann, BoltzmannRates as BoltzmannRates
from .checkpoint import load_state as load_state, save_state as save_state
from .environment import (
    Environment as Environment,
    Measured as Measured,
    environment as environment,
    measure as measure,
)
from .genomes import Genome as Genome, genome as genome
from .graph_layers import (
    GraphAttention as GraphAttention,
    GraphConvolution as GraphConvolution,
    with_self_edges as with_self_edges,
)
from .operators import tournament as tournament, uniform_index as uniform_index
from .policies import (
    Policy as Policy,
    PolicyConfig as PolicyConfig,
    apply_population as apply_population,
    policy as policy,
)
from .reward import RewardConfig as RewardConfig, reward as reward
from .ssne import SSNERates as SSNERates
from .unet import GraphUNet as GraphUNet
