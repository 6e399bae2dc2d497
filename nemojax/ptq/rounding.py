"""AdaRound's soft rounding (Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training
Quantization").

    W~ = s · clip(⌊W/s⌋ + h(V), n, p)                              Eq. (22)
    h(V) = clip(σ(V)·(ζ - γ) + γ, 0, 1),  ζ = 1.1, γ = -0.1        Eq. (23)
    f_reg(V) = Σ 1 - |2·h(V) - 1|^β                                Eq. (24)

s, n and p are those of the network's own grid (`quantizers.grid`), so what is rounded hard lies on it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..quantizers import Grid

ZETA, GAMMA = 1.1, -0.1


def rectified_sigmoid(v: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """h(V), in [0, 1]."""
    return jnp.clip(jax.nn.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def soft_start(kernel: Float[Array, "*s"], to: Grid) -> Float[Array, "*s"]:
    """V at which the soft weights are the weights themselves (inside the range): h(V) = W/s - ⌊W/s⌋."""
    rest = kernel / to.scale - jnp.floor(kernel / to.scale)
    return -jnp.log((ZETA - GAMMA) / (rest - GAMMA) - 1)


def soft_weights(kernel: Float[Array, "*s"], v: Float[Array, "*s"], to: Grid) -> Float[Array, "*s"]:
    """W~, between the two grid points around each weight."""
    return to.scale * jnp.clip(jnp.floor(kernel / to.scale) + rectified_sigmoid(v), to.first, to.last)


def hard_weights(kernel: Float[Array, "*s"], v: Float[Array, "*s"], to: Grid) -> Float[Array, "*s"]:
    """W~ with h(V) rounded: on the grid."""
    up = (rectified_sigmoid(v) >= 0.5).astype(kernel.dtype)
    return to.scale * jnp.clip(jnp.floor(kernel / to.scale) + up, to.first, to.last)


def undecided(v: Float[Array, "*s"], beta: Float[Array, ""]) -> Float[Array, "*s"]:
    """1 - |2h - 1|^β for each weight: 0 where h has decided, near 1 where it has not."""
    # As exp(β·log) because XLA:CPU has no fast power.
    return 1 - jnp.exp(beta * jnp.log(jnp.maximum(jnp.abs(2 * rectified_sigmoid(v) - 1), 1e-6)))


def annealed(step: Float[Array, ""], steps: int, warmup: float, high: float, low: float) -> Float[Array, ""]:
    """β: `high` during the first share `warmup` of the steps, then along a half cosine down to `low`."""
    done = jnp.clip((step / steps - warmup) / (1 - warmup), 0.0, 1.0)
    return low + (high - low) * 0.5 * (1 + jnp.cos(jnp.pi * done))
