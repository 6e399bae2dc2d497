"""SoftTriple: a softmax loss with several centres a class (Qian et al. 2019), RepMet's nearest relative.

Where RepMet compares an embedding with its nearest representative, SoftTriple takes a soft mean of the
cosines to the centres of a class. Equal to SoftTripleLoss of pytorch-metric-learning 2.9 with the same
centres; the regularizer, which that lacks, is the one of the authors' code.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .distances import l2_normalize
from .fields import check_fields
from .objectives import Objective


@dataclass(frozen=True)
class SoftTripleConfig:
    """Defaults: pytorch-metric-learning's."""

    la: float = 20.0  # λ, the scale of the logits
    gamma: float = 0.1  # γ, the temperature of the choice among a class's centres; small: the nearest alone
    margin: float = 0.01  # δ, taken from the similarity to the true class in the loss
    centres: int = 10  # K, of each class
    dim: int | None = None  # of a linear embedding of the features; None: the features themselves
    regularizer: float = 0.0  # τ, pulls a class's centres together, so that it keeps no more than it needs

    def __post_init__(self):
        check_fields(self)
        for name in ("la", "gamma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("margin", "regularizer"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, and finite, got {getattr(self, name)}")
        if self.centres < 1:
            raise ValueError(f"centres must be at least 1, got {self.centres}")
        if self.dim is not None and self.dim < 1:
            raise ValueError(f"dim must be at least 1, or None to embed nothing, got {self.dim}")


def soft_triple_objective(config: SoftTripleConfig | None = None) -> Objective:
    """What a backbone is trained for; equal configs give the same functions, so that a step compiles once.

    Parameters: "centres" (classes, K, D) and, with `dim`, "embedding" of "kernel" (F, D) and "bias" (D,).
    Embeddings are unit vectors; log-probabilities are log softmax(λ S), without the margin. A label out of
    range makes the loss NaN.
    """
    return _objective(SoftTripleConfig() if config is None else config)


@functools.cache
def _objective(config: SoftTripleConfig) -> Objective:
    def init(key: PRNGKeyArray, width: int, classes: int) -> dict[str, Any]:
        k_centres, k_embedding = jax.random.split(key)
        dim = width if config.dim is None else config.dim
        # Departs from the authors' code, which draws in a cube: uniform directions favour no corner.
        centres = jax.random.normal(k_centres, (classes, config.centres, dim))
        params: dict[str, Any] = {"centres": l2_normalize(centres)}
        if config.dim is not None:
            kernel = jax.nn.initializers.lecun_normal()(k_embedding, (width, dim), jnp.float32)
            params["embedding"] = {"kernel": kernel, "bias": jnp.zeros(dim)}
        return params

    def embed(params: Any, features: Float[Array, "B F"]) -> Float[Array, "B D"]:
        embedded = features.astype(jnp.float32)
        if config.dim is not None:
            embedded = embedded @ params["embedding"]["kernel"] + params["embedding"]["bias"][None]
        return l2_normalize(embedded)

    def loss(
        params: Any, features: Float[Array, "B F"], labels: Int[Array, " B"]
    ) -> tuple[Float[Array, ""], Float[Array, "B N"]]:
        similarity = class_similarity(embed(params, features), params["centres"], config.gamma)
        classes = similarity.shape[1]
        true = jax.nn.one_hot(labels, classes, dtype=similarity.dtype)
        posterior = jax.nn.log_softmax(config.la * (similarity - config.margin * true), axis=1)
        picked = jnp.sum(true * posterior, axis=1)
        value = -jnp.mean(jnp.where((labels >= 0) & (labels < classes), picked, jnp.nan))
        if config.regularizer:
            value = value + config.regularizer * centre_spread(params["centres"])
        return value, jax.nn.log_softmax(config.la * similarity, axis=1)

    def predict(params: Any, features: Float[Array, "B F"]) -> Float[Array, "B N"]:
        similarity = class_similarity(embed(params, features), params["centres"], config.gamma)
        return jax.nn.log_softmax(config.la * similarity, axis=1)

    return Objective(init, loss, embed, predict)


def class_similarity(
    embeddings: Float[Array, "B D"], centres: Float[Array, "N K D"], gamma: float
) -> Float[Array, "B N"]:
    """S_n = Σ_k softmax_k(x·w_nk / γ) x·w_nk, of unit vectors x and w   (Qian et al. 2019)."""
    cosine = jnp.einsum("bd,nkd->bnk", embeddings, l2_normalize(centres))
    return jnp.sum(jax.nn.softmax(cosine / gamma, axis=2) * cosine, axis=2)


def centre_spread(centres: Float[Array, "N K D"]) -> Float[Array, ""]:
    """Σ_n Σ_{s < t} ‖w_ns - w_nt‖ / (N K (K - 1)), of unit vectors w   (the authors' code); 0 for K = 1."""
    classes, each, _ = centres.shape
    if each == 1:
        return jnp.zeros((), centres.dtype)
    units = l2_normalize(centres)
    cosine = jnp.einsum("nsd,ntd->nst", units, units, precision="highest")
    # The authors' 1e-5 keeps the root of equal centres differentiable; the maximum is against rounding.
    far = jnp.sqrt(jnp.maximum(2.0 + 1e-5 - 2.0 * cosine, 1e-6))
    pairs = jnp.triu(jnp.ones((each, each), far.dtype), k=1)
    return jnp.sum(far * pairs[None]) / (classes * each * (each - 1))
