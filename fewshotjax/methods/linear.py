"""Linear classifiers fitted to the support: ridge regression, logistic regression, a head by gradient steps.

The weights of all of them stay in the span of the S examples, W = XᵀA, by their penalty or by where they
start. What is iterated is A, on the S × S matrix of inner products, which changes nothing but the time.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..distances import l2_normalize
from .method import Labels, Method


class Linear(NamedTuple):
    """Scores x @ weights + bias."""

    weights: Float[Array, "D ways"]
    bias: Float[Array, " ways"]


@cache
def ridge(regularization: float = 1.0, *, normalize: bool = True, scale: float = 10.0) -> Method:
    """W = argmin ‖XW - Y‖² + λ‖W‖², with one-hot Y: W = Xᵀ(XXᵀ + λI)⁻¹Y   (Bertinetto et al. 2019, Eq. 6).

    Args:
        regularization: λ.
        normalize: features to unit length first.
        scale: of the scores before the softmax, which ranks nothing; the paper learns it.
    """
    if not regularization > 0:
        raise ValueError(f"regularization must be above 0, got {regularization}")

    def fit(key: PRNGKeyArray, support: Float[Array, "S D"], labels: Labels, ways: int) -> Linear:
        wanted = jax.nn.one_hot(labels, ways, dtype=support.dtype)
        x = _rows(support, wanted, normalize)
        kernel = x @ x.T + regularization * jnp.eye(len(x), dtype=x.dtype)
        dual = jax.scipy.linalg.solve(kernel, wanted, assume_a="pos")
        return Linear(scale * (x.T @ dual), jnp.zeros(ways, x.dtype))

    return Method(fit, _predict(normalize))


@cache
def logistic(regularization: float = 1.0, *, iterations: int = 100) -> Method:
    """Multinomial logistic regression: argmin Σ_i CE(x_i W, y_i) + λ/2 ‖W‖², x of unit length, no intercept.

    With scikit-learn's names C = 1/λ. Nesterov's method with the constants of the problem as step and
    momentum; the distance to the optimum shrinks by 1 - √(λ/L) an iteration, L = λ + Σ‖x_i‖²/2.

    Args:
        regularization: λ.
        iterations: 100 are enough for 100 examples at λ = 1.
    """
    if not regularization > 0:
        raise ValueError(f"regularization must be above 0, got {regularization}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")

    def fit(key: PRNGKeyArray, support: Float[Array, "S D"], labels: Labels, ways: int) -> Linear:
        wanted = jax.nn.one_hot(labels, ways, dtype=support.dtype)
        x = _rows(support, wanted)
        kernel = x @ x.T
        smoothness = regularization + 0.5 * jnp.trace(kernel)
        root = jnp.sqrt(regularization / smoothness)
        momentum = (1 - root) / (1 + root)
        padding = jnp.sum(wanted, axis=1, keepdims=True)

        def step(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            before, ahead = carry
            residual = (jax.nn.softmax(kernel @ ahead, axis=1) - wanted) * padding
            now = ahead - (residual + regularization * ahead) / smoothness
            return now, now + momentum * (now - before)

        start = jnp.zeros_like(wanted)
        dual, _ = jax.lax.fori_loop(0, iterations, step, (start, start))
        return Linear(x.T @ dual, jnp.zeros(ways, x.dtype))

    return Method(fit, _predict())


@cache
def linear_head(steps: int = 100, learning_rate: float = 1.0, *, momentum: float = 0.9) -> Method:
    """A softmax head fine-tuned on the support, of features of unit length, starting from the class means.

    Args:
        steps: of the whole support.
        learning_rate, momentum: of gradient descent on the mean cross-entropy.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate}")

    def fit(key: PRNGKeyArray, support: Float[Array, "S D"], labels: Labels, ways: int) -> Linear:
        wanted = jax.nn.one_hot(labels, ways, dtype=support.dtype)
        x = _rows(support, wanted)
        kernel, rate = x @ x.T, learning_rate / jnp.sum(wanted)
        padding = jnp.sum(wanted, axis=1, keepdims=True)
        # ‖x - c‖² is linear in x up to what all classes share: the head starts as the nearest-mean
        # classifier. Its weights are Xᵀ A, and a step of the weights along -XᵀR is one of A along -R.
        share = wanted / jnp.sum(wanted, axis=0, keepdims=True)
        centres = x.T @ share
        start = 2 * share, -jnp.sum(centres**2, axis=0)

        def step(_: Array, carry: tuple[tuple[Array, Array], ...]) -> tuple[tuple[Array, Array], ...]:
            (dual, bias), (dual_speed, bias_speed) = carry
            residual = (jax.nn.softmax(kernel @ dual + bias[None], axis=1) - wanted) * padding
            speed = momentum * dual_speed + residual, momentum * bias_speed + jnp.sum(residual, axis=0)
            return (dual - rate * speed[0], bias - rate * speed[1]), speed

        still = jnp.zeros_like(start[0]), jnp.zeros_like(start[1])
        (dual, bias), _ = jax.lax.fori_loop(0, steps, step, (start, still))
        return Linear(x.T @ dual, bias)

    return Method(fit, _predict())


def _rows(
    support: Float[Array, "S D"], wanted: Float[Array, "S ways"], normalize: bool = True
) -> Float[Array, "S D"]:
    """The examples, zero where they are padding."""
    x = l2_normalize(support) if normalize else support
    return x * jnp.sum(wanted, axis=1, keepdims=True)


def _predict(normalize: bool = True) -> Callable[[Linear, Float[Array, "Q D"]], Float[Array, "Q ways"]]:
    def predict(model: Linear, queries: Float[Array, "Q D"]) -> Float[Array, "Q ways"]:
        x = l2_normalize(queries) if normalize else queries
        return jax.nn.log_softmax(x @ model.weights + model.bias[None], axis=1)

    return predict
