"""RepMet's head (Karlinsky et al. 2019): an embedding and K learned modes per class, with its losses.

    x ─ dense layers, ReLU ─ dense ─▶ e (B, D) ─ L2 ─▶ d²(e, R_nk) ─▶ p_nk ─▶ posterior

Read in the authors' released code where nothing else is said; the paper was not at hand. In that code the
representatives are the weights of a dense layer fed with the constant 1; here they are an array.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .distances import l2_normalize, root, squared_distances
from .fields import check_fields
from .losses import cross_entropy, embedding_loss, representative_loss
from .objectives import Objective
from .posteriors import Form, Posterior, log_modes, posterior
from .representatives import Representatives

_CLASS_STD, _MODE_STD = 0.1, 0.05  # of the authors' initialisation


@dataclass(frozen=True)
class RepMetConfig:
    """Shapes and branches of the head and its losses."""

    modes: int = 3  # K; the authors' detector has 5
    embedding: int | None = (
        128  # D, the width of the last dense layer (256 there); None: the features themselves
    )
    hidden: tuple[int, ...] = ()  # widths of dense layers with ReLU before it (two of 1024 there)
    normalize_embedding: bool = True
    normalize_representatives: bool = True
    # "separable": class centre N(0, 0.1²) plus an offset N(0, 0.05²) of the k-th mode that all classes share;
    # "free": every mode on its own, of the same variance.
    initialization: Literal["separable", "free"] = "separable"
    tied: bool = False  # keep centres and shared offsets as the parameters; only with "separable"
    sigma: float = 0.5  # of the Gaussian around each mode
    learn_sigma: bool = False  # then `sigma` is its start; log σ is the parameter
    posterior: Form = "mixture"  # ours for classification; the authors' detector has "softmax"
    background: bool = False  # a class "none of these", of "maximum" and "softmax"
    scale: float = 15.0  # τ of "softmax"
    distance: Literal["squared", "plain"] = "squared"  # of the embedding loss; see losses.py
    margin: float = 0.5  # α, as the authors have it on squared distances
    embedding_weight: float = 1.0  # of the embedding loss; 0: none
    smooth_minimum: float | None = None  # temperature of smooth minima in it; None: minima
    representative_weight: float = 0.0  # of the loss between representatives; off by default there, too
    linear_weight: float = 0.0  # of a softmax classifier on the features, used in training alone

    def __post_init__(self):
        check_fields(self)
        if not isinstance(self.hidden, tuple):
            raise ValueError(f"hidden must be a tuple such as (512,), got {self.hidden!r}")
        if self.modes < 1:
            raise ValueError(f"modes must be a whole number of at least 1, got {self.modes}")
        if (self.embedding is not None and self.embedding < 1) or any(width < 1 for width in self.hidden):
            raise ValueError(
                f"embedding and hidden must be widths of at least 1, got {self.embedding}, {self.hidden}"
            )
        if self.hidden and self.embedding is None:
            raise ValueError(f"hidden needs an embedding after it: set embedding, got None and {self.hidden}")
        for name in ("sigma", "scale"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("margin", "embedding_weight", "representative_weight", "linear_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.smooth_minimum is not None and not self.smooth_minimum > 0:
            raise ValueError(f"smooth_minimum must be above 0 or None, got {self.smooth_minimum}")
        for name, known in (
            ("initialization", ("separable", "free")),
            ("posterior", ("mixture", "maximum", "softmax")),
            ("distance", ("squared", "plain")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.tied and self.initialization != "separable":
            raise ValueError(f"tied needs initialization 'separable', got {self.initialization!r}")
        if self.background and self.posterior == "mixture":
            raise ValueError(
                "background needs posterior 'maximum' or 'softmax': a mixture is normalised over the classes"
            )


class EmbeddingHead(nn.Module):
    """Dense layers with ReLU, then one without."""

    hidden: tuple[int, ...]
    embedding: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.embedding)(x)


def init_repmet(key: PRNGKeyArray, config: RepMetConfig, width: int, classes: int) -> dict[str, Any]:
    """Parameters of the head for features of `width` and N classes."""
    k_head, k_modes, k_linear = jax.random.split(key, 3)
    params: dict[str, Any] = {}
    if config.embedding is not None:
        params["head"] = _head(config).init(k_head, jnp.zeros((1, width)))["params"]
    params |= _init_modes(k_modes, config, classes, config.embedding or width)
    if config.learn_sigma:
        params["log_sigma"] = jnp.log(jnp.asarray(config.sigma, jnp.float32))
    if config.linear_weight:
        params["linear"] = nn.Dense(classes).init(k_linear, jnp.zeros((1, width)))["params"]
    return params


def embed(params: dict[str, Any], config: RepMetConfig, features: Float[Array, "B F"]) -> Float[Array, "B D"]:
    """e: the dense layers, then unit length if the config says so."""
    if config.embedding is None:
        e = features
    else:
        e = jnp.asarray(_head(config).apply({"params": params["head"]}, features))
    return l2_normalize(e) if config.normalize_embedding else e


def representatives(params: dict[str, Any], config: RepMetConfig) -> Representatives:
    """The learned ones, R (N, K, D); all modes exist."""
    if config.tied:
        modes = params["centres"] + params["offsets"]
    else:
        modes = params["modes"]
    modes = l2_normalize(modes) if config.normalize_representatives else modes
    return Representatives(modes, jnp.ones(modes.shape[:2], bool))


def classify(
    config: RepMetConfig,
    found: Representatives,
    embeddings: Float[Array, "B D"],
    log_sigma: Float[Array, ""] | None = None,
) -> tuple[Posterior, Float[Array, "B N K"]]:
    """The posterior of embeddings under given representatives, and their squared distances.

    Args:
        log_sigma: where it was learned; None: that of the config.
    """
    classes, modes, width = found.modes.shape
    squared = squared_distances(embeddings, found.modes.reshape(-1, width)).reshape(-1, classes, modes)
    log_sigma = jnp.log(jnp.asarray(config.sigma, jnp.float32)) if log_sigma is None else log_sigma
    log_p = log_modes(squared, log_sigma)
    form = posterior(log_p, found.mask, config.posterior, background=config.background, scale=config.scale)
    return form, squared


def posterior_loss(config: RepMetConfig, result: Posterior, labels: Int[Array, " B"]) -> Float[Array, " B"]:
    """-log of the posterior of each label; of "maximum", which is not normalised, with the authors' floor."""
    return cross_entropy(result, labels, 1e-7 if config.posterior == "maximum" else 0.0)


def margin_loss(
    config: RepMetConfig, squared: Float[Array, "B N K"], found: Representatives, labels: Int[Array, " B"]
) -> Float[Array, " B"]:
    """`embedding_loss` of the config's distance, margin and minimum."""
    distance = squared if config.distance == "squared" else root(squared)
    return embedding_loss(distance, found.mask, labels, config.margin, config.smooth_minimum)


def repmet_loss(
    params: dict[str, Any],
    config: RepMetConfig,
    features: Float[Array, "B F"],
    labels: Int[Array, " B"],
    weight: Float[Array, " B"] | None = None,
) -> tuple[Float[Array, ""], Posterior]:
    """CE(posterior, y) + w_e · embedding loss + w_r · representative loss + w_l · CE(linear classifier, y).

    Args:
        labels: 0 to N - 1; N is the background, where the config has one.
        weight: of each embedding in the means; None: all equal. The embedding loss averages the foreground.
    """
    found = representatives(params, config)
    result, squared = classify(config, found, embed(params, config, features), params.get("log_sigma"))
    weight = jnp.ones(labels.shape) if weight is None else weight
    foreground = weight * (labels < found.modes.shape[0]).astype(weight.dtype)
    loss = _mean(posterior_loss(config, result, labels), weight)
    if config.embedding_weight:
        each = margin_loss(config, squared, found, labels)
        loss += config.embedding_weight * _mean(each, foreground)
    if config.representative_weight:
        loss += config.representative_weight * apart_loss(found, config)
    if config.linear_weight:
        logits = nn.Dense(found.modes.shape[0]).apply({"params": params["linear"]}, features)
        each = cross_entropy(Posterior(jax.nn.log_softmax(logits), None), labels)  # type: ignore[arg-type]
        loss += config.linear_weight * _mean(each, foreground)
    return loss, result


def repmet_objective(config: RepMetConfig | None = None) -> Objective:
    """What a backbone and this head are trained for; the same functions for equal configs."""
    return _objective(config or RepMetConfig())


@cache
def _objective(config: RepMetConfig) -> Objective:
    def init(key: PRNGKeyArray, width: int, classes: int) -> dict[str, Any]:
        return init_repmet(key, config, width, classes)

    def loss(
        params: dict[str, Any], features: Float[Array, "B F"], labels: Int[Array, " B"]
    ) -> tuple[Array, Array]:
        value, found = repmet_loss(params, config, features, labels)
        return value, found.classes

    def embedded(params: dict[str, Any], features: Float[Array, "B F"]) -> Float[Array, "B D"]:
        return embed(params, config, features)

    def predict(params: dict[str, Any], features: Float[Array, "B F"]) -> Float[Array, "B N"]:
        found = representatives(params, config)
        return classify(config, found, embedded(params, features), params.get("log_sigma"))[0].classes

    return Objective(init, loss, embedded, predict)


def _head(config: RepMetConfig) -> EmbeddingHead:
    return EmbeddingHead(config.hidden, config.embedding or 1)


def _init_modes(key: PRNGKeyArray, config: RepMetConfig, classes: int, width: int) -> dict[str, Array]:
    k_centre, k_offset = jax.random.split(key)
    if config.initialization == "free":
        std = (_CLASS_STD**2 + _MODE_STD**2) ** 0.5
        return {"modes": std * jax.random.normal(k_centre, (classes, config.modes, width))}
    centres = _CLASS_STD * jax.random.normal(k_centre, (classes, 1, width))
    offsets = _MODE_STD * jax.random.normal(k_offset, (1, config.modes, width))
    if config.tied:
        return {"centres": centres, "offsets": offsets}
    return {"modes": jnp.broadcast_to(centres, (classes, config.modes, width)) + offsets}


def _mean(values: Float[Array, " B"], weight: Float[Array, " B"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(weight > 0, values, 0.0) * weight) / jnp.where(
        jnp.sum(weight) > 0, jnp.sum(weight), 1.0
    )


def apart_loss(found: Representatives, config: RepMetConfig) -> Float[Array, ""]:
    """`representative_loss` of the config's distance and margin."""
    classes, modes, width = found.modes.shape
    flat = found.modes.reshape(-1, width)
    squared = squared_distances(flat, flat).reshape(classes, modes, classes, modes)
    distance = squared if config.distance == "squared" else root(squared)
    return representative_loss(distance, found.mask, config.margin)
