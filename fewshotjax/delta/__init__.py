"""Delta-encoder (Schwartz et al. 2018): from pairs of seen classes, samples of a class that was seen once.

On features of one's own, (N, D) float32 with labels::

    import jax, numpy as np
    from fewshotjax.delta import DeltaConfig, DeltaTrainConfig, synthesize, train_delta
    config, train = DeltaConfig(hidden=1024), DeltaTrainConfig(learning_rate=1e-3)
    delta = train_delta(jax.random.key(0), features, labels, config, train).delta
    samples = synthesize(jax.random.key(1), delta, seeds, 1024)  # (seeds, 1 + 1024, D), each seed first
    x, y = samples.reshape(-1, samples.shape[2]), np.repeat(labels_of_seeds, samples.shape[1])

The defaults are the authors', 1e-5 and hidden layers of 8,192: on fewer than some 6,000 samples they leave a
Delta-encoder all but untrained, and warn.

As a method beside others, on the same episodes::

    compare(key, {"delta": delta_encoder(delta), "prototypes": prototypes()}, features, labels, shots=1)
"""

from .checks import (
    Nearest as Nearest,
    Probes as Probes,
    Reconstruction as Reconstruction,
    Spread as Spread,
    code_spread as code_spread,
    linear_probes as linear_probes,
    nearest_real as nearest_real,
    reconstruction as reconstruction,
    separability as separability,
    within_class_spread as within_class_spread,
)
from .classifier import (
    ClassifierConfig as ClassifierConfig,
    LinearFit as LinearFit,
    Trace as Trace,
    fit_linear as fit_linear,
)
from .config import DeltaConfig as DeltaConfig, DeltaTrainConfig as DeltaTrainConfig
from .controls import (
    Noise as Noise,
    Offsets as Offsets,
    fit_noise as fit_noise,
    fit_offsets as fit_offsets,
    synthesize_noise as synthesize_noise,
    synthesize_offsets as synthesize_offsets,
)
from .encoder import (
    DeltaEncoder as DeltaEncoder,
    code_bank as code_bank,
    load_delta as load_delta,
    save_delta as save_delta,
)
from .episode_fit import EpisodeFit as EpisodeFit, fit_episode as fit_episode
from .generalised import GeneralisedResult as GeneralisedResult, generalised as generalised
from .losses import sample_losses as sample_losses
from .methods import (
    delta_encoder as delta_encoder,
    gaussian_noise as gaussian_noise,
    linear_offset as linear_offset,
    sampled as sampled,
    seeds_only as seeds_only,
)
from .model import (
    decode as decode,
    decode_from as decode_from,
    encode as encode,
    init_delta as init_delta,
    seed_part as seed_part,
)
from .pairs import make_pairs as make_pairs, nearest_pairs as nearest_pairs
from .pictures import plot_imagined as plot_imagined, plot_samples as plot_samples
from .protocol_result import ProtocolResult as ProtocolResult, ProtocolRow as ProtocolRow
from .protocols import (
    Authors as Authors,
    Choice as Choice,
    accuracies_by_epoch as accuracies_by_epoch,
    choose_on_validation as choose_on_validation,
    load_choice as load_choice,
    protocols as protocols,
)
from .samplers import (
    DeltaSampler as DeltaSampler,
    NoiseSampler as NoiseSampler,
    OffsetSampler as OffsetSampler,
    SeedsAlone as SeedsAlone,
    delta_sampler as delta_sampler,
    random_class_deltas as random_class_deltas,
)
from .scaling import Scaling as Scaling, fit_scaling as fit_scaling
from .synthesis import (
    draw_codes as draw_codes,
    generate as generate,
    synthesize as synthesize,
    synthesize_rows as synthesize_rows,
)
from .training import (
    DeltaChunk as DeltaChunk,
    DeltaEpoch as DeltaEpoch,
    TrainedDelta as TrainedDelta,
    train_delta as train_delta,
)
