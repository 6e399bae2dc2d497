"""EGRL as `place` runs it: with a checkpoint, a clock, and perhaps a board."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

import hwmodel as hw

from .checkpoint import digest, raw, save_state, state_if_there, typed
from .config import EGRLConfig
from .egrl import egrl
from .environment import Environment, measure
from .loop import Board, measured_by, run, shared_board
from .placed import Course
from .replay import filled
from .state import EGRLState, Metrics

# maps measured, budget, best latency, that of first_fit -> True or "stop" ends the search.
Progress = Callable[[int, int, float, float], Any]


class Searched(NamedTuple):
    """What came of it."""

    placement: Int[np.ndarray, "N 2"]
    latency_s: float | None  # as the board measured it, the mean of its measurements; None: no board
    rules_s: dict[str, float] | None  # of the rules, likewise
    evaluations: int
    course: Course
    finished: bool  # False: ended before the budget


def search(
    key: jax.Array,
    env: Environment,
    config: EGRLConfig,
    known: Mapping[str, Int[np.ndarray, "N 2"]],
    *,
    actor: Float[Array, " P"] | None,
    board: Board | None,
    time_limit_s: float | None,
    every: int,
    on_chunk: Progress | None,
    checkpoint: str | os.PathLike[str] | None,
    mesh: Mesh | None = None,
    hosts: hw.Hosts | None = None,
) -> Searched:
    """Runs EGRL until the budget is spent, from the checkpoint if there is one.

    The placements that are known, of the rules and perhaps of a solver, are measured first, and EGRL starts
    from them as well. That is one evaluation each, and is not in the configuration's budget. Of a board
    `first_fit` is the reference of the rewards. `actor` is a trained policy to start from. `hosts` share
    what a board measures; the first of them reads and writes the checkpoint, and reports.

    Raises:
        ValueError: a checkpoint of another run; a board that fails on `first_fit`, or on every map.
        hwmodel.HostsError: another process is gone, late, failed, or searches something else.
    """
    start = time.monotonic()
    on_chunk = on_chunk if hosts is None or hosts.first else None
    settings = {
        "config": repr(config),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "environment": digest(env),
        "board": board is not None,
        "actor": None if actor is None else digest(actor),
        "known": list(known),  # a solver that ran out of time may answer otherwise the next time
    }
    if hosts is not None:
        hosts.agreed("search (network, chip, key or settings)", settings)
    algo = egrl(config, jnp.asarray(env.graph.nodes).shape[1])
    none = jnp.zeros((0,))
    saved: dict[str, Any] = {"evaluations": none.astype(jnp.int32), "best_s": none, "known_s": none}
    k_init, k_known = jax.random.split(key)
    state = jax.jit(algo.init)(k_init, env, actor)
    kept = state_if_there(checkpoint, {**saved, "state": raw(state)}, settings, hosts=hosts)
    if kept is not None:
        saved, state = kept, typed(kept.pop("state"))
    placements = jnp.asarray(np.stack(list(known.values())), jnp.int32)
    fresh = not len(saved["known_s"])
    if fresh and board is not None:
        shared = board if hosts is None else shared_board(board, hosts)
        saved["known_s"] = jnp.asarray(measured_by(shared, np.asarray(placements)), jnp.float32)
    elif fresh:
        saved["known_s"] = jax.jit(measure)(k_known, env, placements).latency_s
    if board is not None:
        reference_s = saved["known_s"][list(known).index("first_fit")]
        if not (jnp.isfinite(reference_s) and reference_s > 0):
            raise ValueError(f"board must measure first_fit, to which all is compared, got {reference_s} s")
        env = env._replace(reference_s=reference_s.astype(env.reference_s.dtype))
    if fresh:
        state = jax.jit(algo.know)(state, env, placements, saved["known_s"])
    before = len(known)
    budget = config.budget + before

    def after(state: EGRLState, metrics: Metrics) -> Any:
        saved["evaluations"] = jnp.concatenate([saved["evaluations"], metrics.measured + before])
        saved["best_s"] = jnp.concatenate([saved["best_s"], metrics.best_s])
        if checkpoint is not None and (hosts is None or hosts.first):
            save_state(checkpoint, {**saved, "state": raw(state)}, settings)
        late = time_limit_s is not None and time.monotonic() - start > time_limit_s
        stop = _told(on_chunk, state, budget, before, env) or late
        return stop if hosts is None else hosts.any(stop)

    _told(on_chunk, state, budget, before, env)
    state, _ = run(algo, env, state, every=every, on_chunk=after, board=board, mesh=mesh, hosts=hosts)
    if not np.isfinite(state.best_s):
        raise ValueError(
            "no map has a latency: all measurements failed, or none fitted under fitness 'strict'"
        )
    answer = np.asarray(algo.answer(state, env))
    return Searched(
        placement=answer,
        latency_s=None if board is None else _mean_s(state, answer, env, placements, saved["known_s"]),
        rules_s=None if board is None else dict(zip(known, saved["known_s"].tolist(), strict=True)),
        evaluations=int(state.measured) + before,
        course=Course(np.asarray(saved["evaluations"]), np.asarray(saved["best_s"])),
        finished=int(state.measured) >= config.budget,
    )


def _told(on_chunk: Progress | None, state: EGRLState, budget: int, before: int, env: Environment) -> bool:
    """Whether `on_chunk` wants the end."""
    if on_chunk is None:
        return False
    numbers = int(state.measured) + before, budget, float(state.best_s), float(env.reference_s)
    return hw.wants_stop(on_chunk(*numbers))


def _mean_s(
    state: EGRLState,
    placement: Int[np.ndarray, "N 2"],
    env: Environment,
    known: Int[Array, "S N 2"],
    known_s: Float[Array, " S"],
) -> float:
    """Mean of a placement's measurements, of those before the search as well."""
    replay, speedup = state.replay, np.asarray(state.replay.speedup)
    row = np.arange(len(speedup))
    # The replay buffer began with what was known, and writes over it when it comes round.
    stands = (row >= int(replay.added) - len(row)) & (row < len(known))
    rows = ~stands & np.asarray(filled(replay)) & (speedup > 0) & _same(replay.placement, placement)
    searched_s = float(env.reference_s) / speedup[rows]
    before_s = np.asarray(known_s)[_same(known, placement) & np.isfinite(known_s)]
    return float(np.mean(np.concatenate([before_s, searched_s])))


def _same(placements: Int[Array, "M N 2"], placement: Int[np.ndarray, "N 2"]) -> Bool[np.ndarray, " M"]:
    return np.all(np.asarray(placements) == placement[None], axis=(1, 2))
