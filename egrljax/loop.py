"""Running EGRL in chunks: compiled inside, plain Python at the seams."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

import hwmodel as hw

from .egrl import EGRL, EGRLState, Metrics
from .environment import Environment, Measured, measure

# maps (M, N, 2) int32 -> seconds (M,); NaN or infinite: the measurement failed.
Board = Callable[[Int[np.ndarray, "M N 2"]], Any]
OnChunk = Callable[[EGRLState, Metrics], Any]


def step(algo: EGRL, env: Environment, state: EGRLState) -> tuple[EGRLState, Metrics]:
    """One generation with the model as the environment."""
    maps, ticket, state = algo.ask(state, env)
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.generation), 2)
    return algo.tell(state, env, maps, ticket, measure(key, env, maps))


def run_chunk(algo: EGRL, env: Environment, state: EGRLState, generations: int) -> tuple[EGRLState, Metrics]:
    """A number of generations as one scan. Pure: vmap it over states for seeds.

    Returns the state and the metrics stacked along a new first axis.
    """
    return jax.lax.scan(lambda state, _: step(algo, env, state), state, length=generations)


def run(
    algo: EGRL,
    env: Environment,
    state: EGRLState,
    *,
    every: int = 10,
    on_chunk: OnChunk | None = None,
    board: Board | None = None,
) -> tuple[EGRLState, Metrics | None]:
    """Run until the budget is spent.

    Args:
        every: generations between two calls of `on_chunk`; the last chunk may be shorter.
        on_chunk: called with the state and the chunk's metrics (NumPy): progress, logging, checkpoints.
            True or "stop" ends the run.
        board: measures in the model's place, one map after the other or all at once, on the host. It is
            asked for feasible placements only: what the compiler leaves of a map. `env.noise` and
            `env.contention` are not looked at then.

    Returns:
        The state and all metrics, NumPy arrays with the generations along the first axis; None where the
        budget was spent before.

    Raises:
        ValueError: every below 1; an answer of the board of another shape.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    left = algo.config.generations - int(state.generation)
    collected: list[Any] = []
    while left > 0:
        count = min(every, left)
        if board is None:
            state, rows = _chunk(algo, env, state, jnp.asarray(count, jnp.int32), every)
            metrics = jax.tree.map(lambda row: row[:count], rows)  # noqa: B023
        else:
            state, metrics = _host_chunk(algo, env, state, count, board)
        left -= count
        collected.append(jax.device_get(metrics))
        if on_chunk is not None and on_chunk(state, collected[-1]) in (True, "stop"):
            break
    if not collected:
        return state, None
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *collected)


def told(env: Environment, maps: Any, latency_s: Any) -> Measured:
    """What `tell` is told of maps that were measured elsewhere.

    Args:
        maps: as `ask` gave them out.
        latency_s: (M,) seconds of their placements, `hwmodel.rectify(env.problem, maps).placement`; NaN:
            failed.
    """
    found = hw.rectify(env.problem, jnp.asarray(maps))
    return Measured(jnp.asarray(latency_s, env.reference_s.dtype), found.moved, found.valid, found.placement)


# Module-level jit, so that a second run of the same algorithm compiles nothing. The number of generations
# is traced: the last chunk is often a shorter one, and would compile all of it again.
@partial(jax.jit, static_argnames=("algo", "every"))
def _chunk(algo: EGRL, env: Environment, state: EGRLState, count: Any, every: int) -> tuple[EGRLState, Any]:
    """`count` generations, at most `every`; rows of the metrics beyond hold zeros."""
    shapes = jax.eval_shape(lambda: step(algo, env, state)[1])
    rows = jax.tree.map(lambda x: jnp.zeros((every, *x.shape), x.dtype), shapes)

    def generation(i: Any, carry: Any) -> Any:
        state, metrics = step(algo, env, carry[0])
        return state, jax.tree.map(lambda row, value: row.at[i].set(value), carry[1], metrics)

    return jax.lax.fori_loop(0, count, generation, (state, rows))


@partial(jax.jit, static_argnames="algo")
def _ask(algo: EGRL, env: Environment, state: EGRLState) -> Any:
    maps, ticket, state = algo.ask(state, env)
    return maps, hw.rectify(env.problem, maps).placement, ticket, state


@partial(jax.jit, static_argnames="algo")
def _tell(algo: EGRL, env: Environment, state: EGRLState, maps: Any, ticket: Any, latency_s: Any) -> Any:
    return algo.tell(state, env, maps, ticket, told(env, maps, latency_s))


def _host_chunk(
    algo: EGRL, env: Environment, state: EGRLState, generations: int, board: Board
) -> tuple[EGRLState, Metrics]:
    rows = []
    for _ in range(generations):
        maps, placements, ticket, state = _ask(algo, env, state)
        live = min(len(maps), algo.config.budget - int(state.measured))
        seconds = np.asarray(board(np.asarray(placements[:live])), np.float64)
        if seconds.shape != (live,):
            raise ValueError(f"board must answer {live} latencies for {live} maps, got shape {seconds.shape}")
        seconds = np.concatenate([seconds, np.full(len(maps) - live, np.nan)]).astype(np.float32)
        state, metrics = _tell(algo, env, state, maps, ticket, jnp.asarray(seconds))
        rows.append(jax.device_get(metrics))
    return state, jax.tree.map(lambda *each: np.stack(each), *rows)
