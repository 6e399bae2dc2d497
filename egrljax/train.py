"""train_policy: one policy for several workloads and chips, with a checkpoint and a clock."""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hwmodel as hw

from .checkpoint import digest, raw, save_state, state_if_there, typed
from .config import EGRLConfig
from .environment import Environment
from .several import environments
from .shared import Shared, SharedMetrics, SharedState, shared, shared_config
from .trained import TrainedPolicy

# maps measured, budget, best policy's mean speed-up over first_fit -> True or "stop" ends the training.
TrainProgress = Callable[[int, int, float], Any]


def train_policy(
    key: jax.Array,
    cases: Sequence[tuple[hw.Workload, hw.Chip]],
    *,
    budget: int = 8_000,
    config: EGRLConfig | None = None,
    bits: hw.Bits = hw.INT8,
    contention: float | None = None,
    time_limit_s: float | None = None,
    every: int = 5,
    on_chunk: TrainProgress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> TrainedPolicy:
    """Trains one policy on several workloads and chips at once.

    Args:
        key: decides every draw.
        cases: what it is trained on; the chips have one number of levels.
        budget: maps measured, of all cases together; the last whole generation within it is the last.
        config: in the place of `shared_config` with that budget.
        bits, contention: of `environment`.
        time_limit_s: ends with the chunk in which it passes.
        every: generations between two calls of `on_chunk`, and between two checkpoints.
        on_chunk: called at the start (speed-up 0), where its answer is not looked at, and after every chunk.
        checkpoint: a file written after every chunk. If it is there, the training goes on from it.

    Returns:
        The policy whose maps without chance have the highest geometric mean of speed-ups on the cases.

    Raises:
        ValueError: what `environments` and `shared` refuse; a limit that is none; a checkpoint of another
            training.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if time_limit_s is not None and not time_limit_s > 0:
        raise ValueError(f"time_limit_s must be above 0, got {time_limit_s}")
    start = time.monotonic()
    settings = config or shared_config(len(cases[0][1].levels) if cases else 3, budget)
    envs = environments(cases, bits=bits, contention=contention)
    algo = shared(settings, jnp.asarray(envs.graph.nodes).shape[-1])
    generations = algo.generations(envs)
    state = jax.jit(algo.init)(key, envs)
    about = {
        "config": repr(settings),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "environments": digest(envs),
    }
    saved = state_if_there(checkpoint, {"state": raw(state)}, about)
    if saved is not None:
        state = typed(saved["state"])

    def told() -> bool:
        best = float(jnp.exp(-jnp.min(state.fitness)))
        return on_chunk is not None and hw.wants_stop(on_chunk(int(state.measured), settings.budget, best))

    try:
        told()
        stop = False
        while (left := generations - int(state.generation)) > 0 and not stop:
            for _ in range(min(every, left)):
                state, _ = _step(algo, envs, state)
            if checkpoint is not None:
                save_state(checkpoint, {"state": raw(state)}, about)
            late = time_limit_s is not None and time.monotonic() - start > time_limit_s
            stop = told() or late
    finally:
        hw.close_line(on_chunk)
    if not np.isfinite(np.asarray(state.fitness)).any():
        raise ValueError("no policy has a placement in every case: all measurements failed, or none was made")
    names = tuple(f"{workload.name} on {chip.name}" for workload, chip in cases)
    return TrainedPolicy(
        np.asarray(algo.best(state)),
        settings.policy,
        algo.inner.features,
        settings.start,
        settings.acting,
        names,
    )


@partial(jax.jit, static_argnames="algo")
def _step(algo: Shared, envs: Environment, state: SharedState) -> tuple[SharedState, SharedMetrics]:
    return algo.step(state, envs)
