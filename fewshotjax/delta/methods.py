"""The Delta-encoder and its controls as methods of episodes, on the very episodes of all other methods::

    compare(key, {"delta": delta_encoder(delta), "seeds": seeds_only(delta)}, features, labels, shots=1)

Memory. `evaluate` has as many episodes alive as suit the examples that it draws and fit `memory_budget`, or
`chunk`. Each of them holds twice ways * samples * features * 4 bytes (21 MB of 5 classes, 1,024 samples, 512
features) and, with "blocks", 4 MiB of hidden units; "scan" keeps the codes alone, and decodes a batch of the
classifier each time it is needed, which is once an epoch. With the same key all three give the same samples.

Weights become constants of what `evaluate` compiles, anew for every Delta-encoder. To run many, use
`accuracies_by_epoch`, which takes them as arguments.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..methods.held import holds
from ..methods.method import Labels, Method
from .classifier import ClassifierConfig, LinearFit, scores
from .controls import Noise, Offsets
from .encoder import DeltaEncoder
from .episode_fit import EpisodeFit, Memory, episode_bytes, fit_episode
from .samplers import NoiseSampler, OffsetSampler, SeedsAlone, delta_sampler
from .scaling import Scaling


def delta_encoder(
    delta: DeltaEncoder,
    samples: int = 1024,
    *,
    codes: str = "pairs",
    classifier: ClassifierConfig | None = None,
    include_seeds: bool = True,
    memory: Memory = "blocks",
) -> Method:
    """A linear classifier of seeds and synthesized samples (Schwartz et al. 2018; the authors' code).

    Args:
        delta: trained on features of seen classes; a bank of `random_class_deltas` makes that control.
        samples: of each class; its seeds share them, `samples` // seeds each, of a fresh draw each. 0 is
            `seeds_only`.
        codes: "pairs": of distinct seen pairs; "noise": z ~ N(0, I); "normal": z with mean and covariance of
            the bank.
        classifier: None: the authors', by Adam.
        include_seeds: in the training set.
        memory: "blocks", "scan" or "whole": see the module.

    Raises:
        ValueError: numbers or names that are not allowed; from `evaluate`, fewer samples than seeds of a
            class, or more than 2 GiB an episode without "scan".
    """
    return sampled(delta_sampler(delta, codes), _options(samples, classifier, include_seeds, memory))


def linear_offset(
    offsets: Offsets,
    samples: int = 1024,
    *,
    classifier: ClassifierConfig | None = None,
    include_seeds: bool = True,
    memory: Memory = "blocks",
) -> Method:
    """Without a network: differences of seen pairs (`fit_offsets`) are added to the seed."""
    return sampled(OffsetSampler(offsets), _options(samples, classifier, include_seeds, memory))


def gaussian_noise(
    noise: Noise,
    samples: int = 1024,
    *,
    classifier: ClassifierConfig | None = None,
    include_seeds: bool = True,
    memory: Memory = "blocks",
) -> Method:
    """Noise of the covariance within seen classes (`fit_noise`) around the seed."""
    return sampled(NoiseSampler(noise), _options(samples, classifier, include_seeds, memory))


def seeds_only(
    scaling: Scaling | DeltaEncoder | None = None, *, classifier: ClassifierConfig | None = None
) -> Method:
    """The same classifier of the seeds alone.

    Beware: of 5 seeds the authors' 25 epochs are 25 steps of Adam, where 1,024 samples of each class make
    1,300; at a rate of 1e-3 they hardly move the first weights. `logistic` and `ridge` are fairer baselines,
    as is a classifier of more epochs.

    Args:
        scaling: of the features, that of a Delta-encoder where one is given; None: as they are.
    """
    found = scaling.scaling if isinstance(scaling, DeltaEncoder) else scaling
    return sampled(SeedsAlone(found), _options(0, classifier, True, "blocks"))


def sampled(sampler: Any, options: EpisodeFit) -> Method:
    """A method of any `Sampler`."""

    def fit(key: PRNGKeyArray, support: Float[Array, "S D"], labels: Labels, ways: int) -> LinearFit:
        return fit_episode(key, sampler, options, support, labels, ways)

    def predict(model: LinearFit, queries: Float[Array, "Q D"]) -> Float[Array, "Q ways"]:
        return scores(model, sampler.scale(queries))

    return holds(Method(fit, predict), partial(episode_bytes, sampler, options))


def epoch_scores(
    sampler: Any,
) -> Callable[[LinearFit, Float[Array, "Q D"]], Float[Array, "T Q ways"]]:
    """Scores after each epoch of a classifier that kept them (`keep_epochs`); else of the last one alone."""

    def every(model: LinearFit, queries: Float[Array, "Q D"]) -> Float[Array, "T Q ways"]:
        W, b = model.trace.W, model.trace.b
        if not len(W):
            W, b = model.W[None], model.b[None]
        return jnp.einsum("twd,qd->tqw", W, sampler.scale(queries)) + b[:, None]

    return every


def _options(
    samples: int, classifier: ClassifierConfig | None, include_seeds: bool, memory: Memory
) -> EpisodeFit:
    return EpisodeFit(samples, include_seeds, classifier or ClassifierConfig(), memory)
