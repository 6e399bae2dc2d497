"""The classifier's default method: RepMet with a σ that is fitted, as part of the model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .distances import l2_normalize
from .methods import Method, by_name
from .repmet_model import RepMetConfig, classify
from .representatives import Representatives, fit_representatives

MODES = 5  # of the authors' detector


class Modes(NamedTuple):
    """The default method's model."""

    found: Representatives
    log_sigma: Float[Array, ""]


def calibrated(modes: int, sigma: float) -> Method:
    """RepMet of features as they are, with σ as part of the model: another σ compiles nothing anew."""

    def fit_modes(key: PRNGKeyArray, support: Any, labels: Any, ways: int) -> Modes:
        unit = l2_normalize(support)
        if np.bincount(labels).max() > modes:
            found = _centres(key, unit, jnp.asarray(labels), ways, modes)
        else:
            found = fit_representatives(key, unit, labels, ways, modes)
        return Modes(found, jnp.log(jnp.asarray(sigma, jnp.float32)))

    return Method(fit_modes, judge_by_modes)


_centres = jax.jit(fit_representatives, static_argnums=(3, 4))  # k-means, op by op, would take 10 s


def judge_by_modes(model: Modes, queries: Float[Array, "Q F"]) -> Float[Array, "Q N"]:
    """log P(n | x) of the mixture."""
    config = RepMetConfig(embedding=None, modes=model.found.modes.shape[1])
    return classify(config, model.found, l2_normalize(queries), model.log_sigma)[0].classes


def resolved(method: Method | str | None) -> tuple[Method | None, str | None]:
    """A method and its name; (None, "repmet") is the default one."""
    if method is None or method == "repmet":
        return None, "repmet"
    return (by_name(method), method) if isinstance(method, str) else (method, None)
