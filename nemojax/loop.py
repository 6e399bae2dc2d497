"""Running a search in chunks: compiled inside, plain Python at the seams."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hwmodel import wants_stop

from .nemo import Metrics, Nemo, NemoState

# bits (N, n) int32 -> costs (N, M), minimised, not finite = failed; or costs and violations (N,), 0 = within
# the budgets.
Evaluate = Callable[[Any], Any]
OnChunk = Callable[[NemoState, Metrics], Any]


def run_chunk(
    algo: Nemo, evaluate: Evaluate, state: NemoState, generations: int
) -> tuple[NemoState, Metrics]:
    """A number of generations as one scan, with a traceable `evaluate`. Pure: it may be vmapped.

    Returns the state and the metrics stacked along a new first axis.
    """

    def generation(state, _):
        bits, ticket, state = algo.ask(state)
        return algo.tell(state, ticket, *_costs_and_violation(evaluate(bits)))

    return jax.lax.scan(generation, state, length=generations)


def run(
    algo: Nemo,
    evaluate: Evaluate,
    state: NemoState,
    *,
    generations: int,
    every: int,
    on_chunk: OnChunk | None = None,
    jit_evaluate: bool = True,
) -> tuple[NemoState, Metrics]:
    """Run `generations` more generations, `every` of them at a time.

    Args:
        evaluate: bits (N, n) -> costs (N, M). It is traced if `jit_evaluate`, else it is called on
            the host with a NumPy array and may do anything. The results are the same.
        on_chunk: called after each chunk with the state and the chunk's metrics (NumPy, first axis
            `every`): the place for progress, logging and checkpoints. True or "stop" ends the run.

    Returns:
        The state and all metrics, NumPy arrays with the generations along the first axis.

    Raises:
        ValueError: a number below 1, or an `every` that does not divide `generations`.
    """
    for name, value in (("generations", generations), ("every", every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if generations % every:
        raise ValueError(f"every must divide generations, got every={every} and generations={generations}")
    chunk = _traced_chunk if jit_evaluate else _host_chunk
    collected = []
    for _ in range(generations // every):
        state, metrics = chunk(algo, evaluate, state, every)
        collected.append(jax.device_get(metrics))
        if on_chunk is not None and wants_stop(on_chunk(state, collected[-1])):
            break
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *collected)


# Module-level jit, so that a second run of the same search compiles nothing.
_traced_chunk = partial(jax.jit, static_argnames=("algo", "evaluate", "generations"))(run_chunk)


@partial(jax.jit, static_argnames="algo")
def _ask(algo, state):
    return algo.ask(state)


@partial(jax.jit, static_argnames="algo")
def _tell(algo, state, ticket, costs, violation=None):
    return algo.tell(state, ticket, costs, violation)


def _costs_and_violation(told: Any) -> tuple[Any, ...]:
    return told if isinstance(told, tuple) else (told,)


def _host_chunk(algo, evaluate, state, generations):
    collected = []
    for _ in range(generations):
        bits, ticket, state = _ask(algo, state)
        told = _costs_and_violation(evaluate(np.asarray(bits)))
        state, metrics = _tell(algo, state, ticket, *(jnp.asarray(np.asarray(x, np.float32)) for x in told))
        collected.append(jax.device_get(metrics))
    return state, jax.tree.map(lambda *rows: np.stack(rows), *collected)
