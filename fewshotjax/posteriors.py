"""From squared distances to class probabilities: RepMet's three forms (Karlinsky et al. 2019), in log space.

All start from p_nk = exp(-d²_nk / 2σ²), what mode k of class n gives to an embedding, at most 1. Which
equations of the paper these are is known from a port alone, which cites 2 and 3 for `maximum` and 5 for
`mixture`; `softmax` is what the authors' released detector uses. Modes that are masked out have p = 0, and so
has a class without modes; gradients stay finite for both.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Form = Literal["mixture", "maximum", "softmax"]
_FLOOR = 1e-7


class Posterior(NamedTuple):
    """Log-probabilities of N classes, and of none of them where there is a background."""

    classes: Float[Array, "B N"]
    background: Float[Array, " B"] | None

    def joint(self) -> Float[Array, "B M"]:
        """(B, N) without a background; (B, N + 1) with it in the last column."""
        if self.background is None:
            return self.classes
        return jnp.concatenate([self.classes, self.background[:, None]], axis=1)


def log_modes(squared: Float[Array, "B N K"], log_sigma: Float[Array, ""] | float) -> Float[Array, "B N K"]:
    """log p_nk = -d²_nk / 2σ²."""
    return -squared * (0.5 * jnp.exp(-2.0 * jnp.asarray(log_sigma, squared.dtype)))


def posterior(
    log_p: Float[Array, "B N K"],
    mode_mask: Bool[Array, "N K"],
    form: Form = "mixture",
    *,
    background: bool = False,
    scale: float = 15.0,
) -> Posterior:
    """The class posterior of B embeddings.

    Args:
        log_p: of every mode, at most 0 (`log_modes`).
        mode_mask: which of them exist.
        form: "mixture" is normalised over the classes, log P(n) = log Σ_k p_nk - log Σ_mk p_mk, and knows no
            background. "maximum" is P(n) = max_k p_nk, with P(background) = 1 - max_n P(n), which do not sum
            to 1. "softmax" is softmax(τ·[c_1 ... c_N, b]), with c_n = max_k p_nk + 1e-7, b = 1 + 1e-7 - max_n
            max_k p_nk.
        background: False leaves the background out.
        scale: τ of "softmax"; the authors' code has 15.

    Raises:
        ValueError: a mixture with a background, or another form.
    """
    if form == "mixture":
        if background:
            raise ValueError(
                "background must be False with the mixture, which is normalised over the classes"
            )
        per_class = _log_sum(log_p, mode_mask[None])
        alive = jnp.any(mode_mask, axis=1)[None]
        total = _log_sum(per_class, alive)
        return Posterior(jnp.where(alive, per_class - total[:, None], -jnp.inf), None)
    best, none = _best(log_p, mode_mask)
    if form == "maximum":
        return Posterior(best, none if background else None)
    if form != "softmax":
        raise ValueError(f"form must be mixture, maximum or softmax, got {form!r}")
    alive = jnp.any(mode_mask, axis=1)[None]
    scores = scale * (jnp.where(alive, jnp.exp(jnp.where(alive, best, 0.0)), 0.0) + _FLOOR)
    logits = jnp.where(alive, scores, -jnp.inf)
    if not background:
        return Posterior(_log_softmax(logits), None)
    rest = scale * (jnp.exp(none) + _FLOOR)
    joint = _log_softmax(jnp.concatenate([logits, rest[:, None]], axis=1))
    return Posterior(joint[:, :-1], joint[:, -1])


def _best(
    log_p: Float[Array, "B N K"], mode_mask: Bool[Array, "N K"]
) -> tuple[Float[Array, "B N"], Float[Array, " B"]]:
    """max_k log p_nk, and log(1 - max_nk p_nk), not below log 1e-7."""
    best = jnp.max(jnp.where(mode_mask[None], log_p, -jnp.inf), axis=2)
    # log(1 - e^m) loses its digits near m = 0 or far below it, each in one of its two forms; both get a value
    # that they can digest where the other one is taken, or the gradient would be NaN.
    m = jnp.minimum(jnp.max(jnp.maximum(best, jnp.log(_FLOOR)), axis=1), jnp.log1p(-_FLOOR))
    near = m > -jnp.log(2.0)
    direct = jnp.log(-jnp.expm1(jnp.where(near, m, -1.0)))
    far = jnp.log1p(-jnp.exp(jnp.where(near, -1.0, m)))
    return best, jnp.where(near, direct, far)


def _log_sum(x: Float[Array, "*shape K"], mask: Bool[Array, "*other K"]) -> Float[Array, "*shape"]:
    """log Σ exp(x) of what the mask lets through; -inf, with gradient 0, where that is nothing."""
    some = jnp.any(mask, axis=-1)
    kept = jnp.where(mask | ~some[..., None], x, -jnp.inf)
    return jnp.where(some, jax.nn.logsumexp(jnp.where(some[..., None], kept, 0.0), axis=-1), -jnp.inf)


def _log_softmax(logits: Float[Array, "B N"]) -> Float[Array, "B N"]:
    """Of logits that may be -inf: those stay so, with gradient 0."""
    real = ~jnp.isneginf(logits)  # NaN stays NaN
    safe = jnp.where(real, logits, 0.0)
    return jnp.where(real, safe - _log_sum(safe, real)[:, None], -jnp.inf)
