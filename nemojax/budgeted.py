"""Evaluation within limits: what exceeds one by its bits alone costs no evaluation."""

import jax
import jax.numpy as jnp
import numpy as np

from .evaluator import Evaluator
from .limits import violation


class Budgeted:
    """bits -> costs and violations; what exceeds a limit by its bits alone is not evaluated."""

    def __init__(self, evaluator: Evaluator, limits: np.ndarray, scale: np.ndarray):
        self._evaluator, self._limits, self._scale = evaluator, limits, scale.astype(np.float32)
        self._costs = jax.jit(jax.vmap(evaluator.task.costs_by_bits))

    def __call__(self, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not np.isfinite(self._limits).any():
            return self._evaluator(bits), np.zeros(len(bits), np.float32)
        cheap = np.asarray(self._costs(jnp.asarray(bits)))
        known = np.where(np.isneginf(cheap), np.inf, cheap)  # of the host: not known before it is measured
        costs = np.column_stack([np.full(len(bits), np.inf, np.float32), known])
        over = np.array(violation(cheap, self._limits[1:], self._scale[1:]))
        within = over <= 0
        if within.any():
            costs[within] = self._evaluator(bits[within])
            failed = ~np.isfinite(costs).all(axis=1)
            told = np.asarray(violation(costs, self._limits, self._scale))
            over = np.where(within & ~failed, told, np.where(within, 0, over))
        return costs, over.astype(np.float32)
