"""RepMet's episode head: the modes of new classes are read off their examples, and may be tuned on them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ..distances import l2_normalize
from ..fields import check_fields
from ..posteriors import Posterior
from ..repmet_model import RepMetConfig, classify, embed as head, margin_loss, posterior_loss
from ..representatives import Representatives, fit_representatives
from .method import Labels, Method


class RepMet(NamedTuple):
    """What an episode learns: representatives, and its own copy of parameters where those are tuned."""

    params: Any
    found: Representatives


@dataclass(frozen=True)
class Tuning:
    """Gradient descent with momentum on the support, inside the episode."""

    what: Literal["representatives", "all"] = "representatives"  # "all": the parameters of the embedding, too
    steps: int = 20
    learning_rate: float = 0.01
    momentum: float = 0.9

    def __post_init__(self):
        check_fields(self)
        if self.what not in ("representatives", "all"):
            raise ValueError(f"what must be representatives or all, got {self.what!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not self.learning_rate > 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                "learning_rate must be above 0 and momentum in [0, 1), "
                f"got {self.learning_rate} and {self.momentum}"
            )


def repmet(
    config: RepMetConfig | None = None,
    params: Any = None,
    *,
    embed: Callable[[Any, Any], Float[Array, "B D"]] | None = None,
    tuning: Tuning | None = None,
    sequential: bool = False,
) -> Method:
    """RepMet on new classes (Karlinsky et al. 2019): K modes of each, and the posterior of the config.

    Modes are examples, or k-means centres of more than K of them. In the mixture a class weighs as many terms
    as it
    has modes, as in the formula: with unequal shots that favours the larger class by up to log K.

    Parameters become constants of what is compiled. To run many, embed the examples first, and leave the head
    out with `RepMetConfig(embedding=None)`. The background's probability, where the config has one, is
    `classify`'s to give; a method gives the classes'.

    A whole network that is tuned in each episode, with images as examples; its batch norms stay as they are::

        def embed(variables, images):
            return l2_normalize(net.apply(variables, net.preprocess.normalize(images)))

        features, tuning = RepMetConfig(embedding=None), Tuning("all")
        repmet(features, net.variables, embed=embed, tuning=tuning, sequential=True)

    Args:
        config: modes, σ, posterior. None: features as they are, of unit length, and the config's other
        defaults.
        params: of `init_repmet` after training; what `embed` takes, if that is given. Episodes share them.
        embed: (params, examples) -> embeddings, in place of the config's head, such as a network's.
        tuning: also train representatives, or all, on the support, by cross-entropy and the embedding loss.
        sequential: see `Method`.

    Raises:
        ValueError: a config with a head or a learned σ, but no params of them.
    """
    config = config or RepMetConfig(embedding=None)
    if embed is None and config.embedding is not None and params is None:
        raise ValueError(
            f"config has a head of width {config.embedding}, but params is None: train it, or embedding=None"
        )
    if config.learn_sigma and (embed is not None or params is None):
        raise ValueError("learn_sigma needs params of the config's own head: give sigma what it came to be")
    if params is None and embed is None:
        return _of_features(config, tuning, sequential)
    return _method(config, {} if params is None else params, embed, tuning, sequential)


@cache
def _of_features(config: RepMetConfig, tuning: Tuning | None, sequential: bool) -> Method:
    return _method(config, {}, None, tuning, sequential)


def _method(
    config: RepMetConfig,
    shared: Any,
    embed: Callable[[Any, Any], Float[Array, "B D"]] | None,
    tuning: Tuning | None,
    sequential: bool,
) -> Method:
    embedded = embed or (lambda params, x: head(params, config, x))
    normalize, every = config.normalize_representatives, tuning is not None and tuning.what == "all"

    def judged(model: RepMet, e: Float[Array, "B D"]) -> tuple[Posterior, Array]:
        return classify(config, model.found, e, model.params["log_sigma"] if config.learn_sigma else None)

    def fit(key: PRNGKeyArray, support: Any, labels: Labels, ways: int) -> RepMet:
        e = embedded(shared, support)
        start = fit_representatives(key, e, labels, ways, config.modes, normalize=normalize)
        if tuning is None:
            return RepMet(shared, start)
        labels = jnp.asarray(labels, jnp.int32)
        weight, wanted = (labels < ways).astype(e.dtype), jnp.minimum(labels, ways - 1)

        def place(moved: tuple[Any, Array]) -> RepMet:
            modes = l2_normalize(moved[1]) if normalize else moved[1]
            return RepMet(moved[0] if every else shared, start._replace(modes=modes))

        def loss(moved: tuple[Any, Array]) -> Array:
            model = place(moved)
            result, squared = judged(model, embedded(model.params, support) if every else e)
            each = posterior_loss(config, result, wanted)
            each += config.embedding_weight * margin_loss(config, squared, model.found, wanted)
            return jnp.sum(each * weight) / jnp.sum(weight)

        return place(_descend(tuning, loss, (shared if every else {}, start.modes)))

    def predict(model: RepMet, queries: Any) -> Float[Array, "Q ways"]:
        return judged(model, embedded(model.params, queries))[0].classes

    return Method(fit, predict, sequential)


def _descend(tuning: Tuning, loss: Callable[[Any], Array], start: Any) -> Any:
    rule = optax.sgd(tuning.learning_rate, tuning.momentum)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        moved, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = rule.update(jax.grad(loss)(moved), state)
        return (optax.apply_updates(moved, updates), state), None

    (moved, _), _ = jax.lax.scan(step, (start, rule.init(start)), length=tuning.steps)
    return moved
