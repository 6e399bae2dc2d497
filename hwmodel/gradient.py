"""Placements by gradient descent through the soft model, rounded and timed by the exact one.

Adam on the logits of many restarts at once, an augmented Lagrangian for the capacities, temperatures that
fall geometrically. Every few steps the logits are rounded, rectified and timed exactly, and the best stays,
as in DOSA (Hong et al. 2023). Half of the restarts begin near the `density` rule, the others anywhere;
with any near it, the rule itself is the first best.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from .baselines import density
from .fields import check_fields
from .placements import evaluate, latency
from .problem import Problem
from .soft import Temperature, soft_latency


@dataclass(frozen=True)
class GradientConfig:
    """Settings of `optimize_placement`.

    All defaults are ours, chosen on MobileNet-V2, EfficientNet-Lite0, ResNeXt-101 and fused BERT, which
    benchmarks/placement_bound.py leaves out.
    """

    steps: int = 400
    restarts: int = 16
    round_every: int = 10  # steps between exact evaluations
    learning_rate: float = 0.2
    time_temperature: tuple[float, float] = (1.0, 0.01)  # first and last τ, see soft.Temperature
    choice_temperature: tuple[float, float] = (1.0, 0.5)
    penalty: float = 0.1  # μ of the augmented Lagrangian; the latency counts as a share of all-in-level-0
    noise: float = 1.0  # standard deviation of the first logits
    warm_restarts: int = 8  # of the restarts, how many begin near the `density` baseline
    straight_through: bool = False

    def __post_init__(self):
        check_fields(self)
        for name in ("steps", "restarts", "round_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps % self.round_every:
            raise ValueError(f"round_every {self.round_every} must divide steps {self.steps}")
        for name in ("learning_rate", "penalty"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("time_temperature", "choice_temperature"):
            pair = getattr(self, name)
            if len(pair) != 2 or not min(pair) > 0:
                raise ValueError(f"{name} must be two numbers above 0, first and last, got {pair}")
        if not 0 <= self.warm_restarts <= self.restarts:
            raise ValueError(
                f"warm_restarts must lie in [0, restarts = {self.restarts}], got {self.warm_restarts}"
            )


DEFAULT = GradientConfig()


class GradientPlacement(NamedTuple):
    """The best rounded placement, and how the search came to it."""

    placement: Int[np.ndarray, "N 2"]
    latency_s: float  # by the exact model, after rectification
    history_s: Float[np.ndarray, " T"]  # best latency so far after each rounding
    evaluations: int  # exact ones


class _Descent(NamedTuple):
    """R restarts."""

    logits: Float[Array, "R N 2 L"]
    optimizer: optax.OptState
    multiplier: Float[Array, " R"]
    best_s: Float[Array, ""]
    best: Int[Array, "N 2"]


def optimize_placement(key: Array, problem: Problem, config: GradientConfig = DEFAULT) -> GradientPlacement:
    """Descent from `config.restarts` random placements at once; the answer is feasible and exactly timed."""
    n, _, levels = problem.shape
    rule = jnp.asarray(density(problem))
    warm = jax.nn.one_hot(rule, levels)[None]
    share = (jnp.arange(config.restarts) < config.warm_restarts)[:, None, None, None]
    noise = config.noise * jax.random.normal(key, (config.restarts, n, 2, levels))
    logits = noise + jnp.where(share, 4.0 * config.noise * warm, 0.0)
    found, history = _descend(problem, logits, rule, config)
    roundings = config.steps // config.round_every
    return GradientPlacement(
        np.asarray(found.best), float(found.best_s), np.asarray(history), roundings * config.restarts
    )


@partial(jax.jit, static_argnames="config")
def _descend(
    problem: Problem, logits: Float[Array, "R N 2 L"], rule: Int[Array, "N 2"], config: GradientConfig
) -> tuple[_Descent, Float[Array, " T"]]:
    n = problem.shape[0]
    all_in_store = latency(problem, jnp.zeros((n, 2), jnp.int32))
    # A short memory of squares: the first steps' overflow would else slow all later ones.
    optimizer = optax.adam(config.learning_rate, b2=0.9)

    def cooled(first_last: tuple[float, float], step: Array) -> Array:
        first, last = first_last
        return first * (last / first) ** (step.astype(logits.dtype) / max(config.steps - 1, 1))

    def lagrangian(one: Array, multiplier: Array, step: Array) -> tuple[Array, Array]:
        temperature = Temperature(
            cooled(config.time_temperature, step), cooled(config.choice_temperature, step)
        )
        soft = soft_latency(problem, one, temperature, config.straight_through)
        excess = soft.overflow / n
        value = soft.latency_s / all_in_store + multiplier * excess + config.penalty / 2 * excess**2
        return value, excess

    def descend(state: _Descent, step: Array) -> tuple[_Descent, None]:
        gradient, excess = jax.vmap(jax.grad(lagrangian, has_aux=True), (0, 0, None))(
            state.logits, state.multiplier, step
        )
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            updates, moments = optimizer.update(gradient, state.optimizer)
        return state._replace(
            logits=optax.apply_updates(state.logits, updates),
            optimizer=moments,
            multiplier=state.multiplier + config.penalty * excess,
        ), None

    def round_off(state: _Descent, steps: Array) -> tuple[_Descent, Array]:
        state, _ = jax.lax.scan(descend, state, steps)
        found = evaluate(problem, jnp.argmax(state.logits, axis=-1).astype(jnp.int32))
        winner = jnp.argmin(found.latency_s)
        better = found.latency_s[winner] < state.best_s
        best_s = jnp.where(better, found.latency_s[winner], state.best_s)
        best = jnp.where(better, found.placement[winner], state.best)
        return state._replace(best_s=best_s, best=best), best_s

    start = _Descent(
        logits,
        optimizer.init(logits),
        jnp.ones(logits.shape[:1], logits.dtype),
        latency(problem, rule) if config.warm_restarts else jnp.asarray(jnp.inf, all_in_store.dtype),
        rule,
    )
    steps = jnp.arange(config.steps).reshape(-1, config.round_every)
    return jax.lax.scan(round_off, start, steps)
