"""Placements by rule, as a compiler or firmware would make them: the rivals of every search.

All are host functions of a problem and respect capacities and pins. `first_fit` is the reference 1.0x;
a speed-up is only worth telling over the best of the three.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from .placements import rectify
from .problem import Problem, tensor_seconds
from .tensors import OUTPUT, WEIGHT

Placement = Int[np.ndarray, "N 2"]


def first_fit(problem: Problem) -> Placement:
    """Everything wishes the last level and slides down: weights first, then outputs by birth."""
    n, _, levels = problem.shape
    return np.asarray(rectify(problem, jnp.full((n, 2), levels - 1, jnp.int32)).placement)


def density(problem: Problem) -> Placement:
    """By time saved per byte and step of life, highest first; each to its quickest level with room.

    The time saved is what a tensor's transfers take in the backing store, less what they take on its
    quickest level.
    """
    seconds = np.asarray(tensor_seconds(problem), np.float64)  # (N, 2, L)
    size = np.stack([problem.weight_bytes, problem.output_bytes], axis=1).astype(np.float64)
    steps = int(np.asarray(problem.mask).sum())  # weights live through all of them
    alive = np.stack(
        [np.full(len(size), steps), np.asarray(problem.death) - np.arange(len(size)) + 1], axis=1
    )
    saved = (seconds[..., 0] - seconds.min(axis=-1)) / np.maximum(size * alive, 1)
    order = [divmod(int(t), 2) for t in np.argsort(-saved.ravel(), kind="stable")]
    return _in_order(problem, order, lambda i, column: np.argsort(seconds[i, column], kind="stable"))


def banked_greedy(problem: Problem) -> Placement:
    """In execution order, each into the fastest memory with room: ExecuTorch's rule of that name.

    The fastest memory is the one that reads the network's tensors in the shortest time.
    """
    n, _, _ = problem.shape
    fastest = np.argsort(np.asarray(tensor_seconds(problem), np.float64).sum(axis=(0, 1)), kind="stable")
    order = [(i, column) for i in range(n) for column in (WEIGHT, OUTPUT)]
    return _in_order(problem, order, lambda i, column: fastest)


def _in_order(
    problem: Problem, order: Sequence[tuple[int, int]], prefer: Callable[[int, int], np.ndarray]
) -> Placement:
    """Tensors one by one, each to the first of its preferred levels with room through all of its life."""
    n = problem.shape[0]
    units = np.stack([problem.weight_units, problem.output_units], axis=1).astype(np.int64)
    free = np.asarray(problem.capacity_units, np.int64).copy()
    pin, death = np.asarray(problem.pin), np.asarray(problem.death)
    placement = np.zeros((n, 2), np.int32)
    for i, column in order:
        life = slice(0, n) if column == WEIGHT else slice(i, int(death[i]) + 1)
        for k in [pin[i, column]] if pin[i, column] >= 0 else [*prefer(i, column), 0]:
            need = units[i, column, k]
            if k == 0 or free[life, k].min() >= need:
                free[life, k] -= need
                placement[i, column] = k
                break
    return placement


BASELINES = {"first_fit": first_fit, "density": density, "banked_greedy": banked_greedy}
