"""search: the loop that people call. NEMO over a task, budgeted in evaluations, resumable.

Everything that decides the result is in the state, the key and the task; progress, time limits and
checkpoints happen between generations.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import moocore
import numpy as np
from jaxtyping import Int

from .checkpoint import load_state, save_state
from .evaluator import Evaluator
from .front import Front
from .loop import run
from .nemo import NemoConfig, NemoState, nemo
from .quantized import QuantizedNetwork
from .space import BitSpace
from .task import Task

_STALE_GENERATIONS = 25  # without a new configuration: the search has run dry


class Report(NamedTuple):
    """What `on_chunk` is told after every generation."""

    generation: int
    evaluations: int  # carried out, the unit of the budget
    asked: int  # candidates, those known already included
    budget: int
    hypervolume: float  # of everything evaluated, in [0, 1]: a share of the box up to `reference`
    front: int  # points
    best: Mapping[str, float]  # lowest of each objective
    seconds: float  # since the call


OnChunk = Callable[[Report], Any]  # True ends the search


@dataclass(frozen=True, eq=False)
class Found:
    """The outcome of a search: the front of everything it evaluated, and how it got there."""

    front: Front
    bits: np.ndarray  # (K, n) int32, every configuration evaluated, in that order
    costs: np.ndarray  # (K, M) float32
    history: Mapping[str, np.ndarray]  # "evaluations", "hypervolume": (generations,)
    state: NemoState
    finished: bool  # False: ended by a time limit or by on_chunk before the budget


def reference(task: Task) -> np.ndarray:
    """(M,) the worst that still counts in a hypervolume: 1 for shares; for kl ln(classes), a flat guess."""
    classes = jax.eval_shape(QuantizedNetwork.logits, task.network, task.images).shape[1]
    return np.array([np.log(classes) if name == "kl" else 1.0 for name in task.objectives])


def initial_bits(key: jax.Array, space: BitSpace, count: int) -> Int[np.ndarray, "count n"]:
    """The first generation: every uniform configuration, then uniform ones with noise on each quantizer.

    Departs from drawing each bit-width by itself: of 110 quantizers drawn from 2-8 bits some are always at
    2, which ruins the network, so such a generation holds no usable configuration. Here a member has a level
    of its own, uniform between the lowest and highest bit-width, and a spread of its own, uniform in 0-1 bit;
    every quantizer is N(level, spread²) bits, rounded to an allowed one.
    """
    k_level, k_spread, k_noise = jax.random.split(key, 3)
    free = [bits for bits in space.allowed if len(bits) > 1] or list(space.allowed)  # pins set no level
    widths = sorted({b for bits in free for b in bits})
    low, high = float(widths[0]), float(widths[-1])
    level = jax.random.uniform(k_level, (count, 1), minval=low, maxval=high)
    spread = jax.random.uniform(k_spread, (count, 1))
    genes = level + spread * jax.random.normal(k_noise, (count, space.size))
    drawn = np.asarray(jax.vmap(space.nearest)(genes))
    uniform = np.unique(np.stack([space.uniform(b) for b in widths]), axis=0)[:count]
    return np.concatenate([uniform, drawn[len(uniform) :]])


def uniform_bits(task: Task) -> Int[np.ndarray, "k n"]:
    """The configurations with one bit-width everywhere, as far as the space allows; one row each."""
    widths = sorted({b for bits in task.space.allowed for b in bits})
    return np.unique(np.stack([task.space.uniform(b) for b in widths]), axis=0)


def search(
    key: jax.Array,
    task: Task,
    *,
    budget: int,
    config: NemoConfig | None = None,
    seeds: Int[np.ndarray, "k n"] | None = None,
    on_chunk: OnChunk | None = None,
    time_limit_s: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    block: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> Found:
    """Searches the bit-widths of a task's network for its Pareto front.

    Args:
        key: typed key; the result depends on it, the task, the config and the budget alone.
        budget: configurations evaluated at most; generations are not cut, so up to one less is used.
        config: population, species, survival.
        seeds: configurations in the first generation; default: `initial_bits`.
        on_chunk: called with a Report after every generation; `progress()` is one.
        time_limit_s: ends the search after the generation in which it passes.
        checkpoint: a file that is written after every generation. If it is there already the search goes
            on from it, bit for bit as if it had not stopped, or raises if it is of another search.
        block: configurations evaluated in one call on the device.
        settings: kept with the front.

    Raises:
        ValueError: a budget below the population, or a checkpoint of other settings.
    """
    config = config or NemoConfig()
    if budget < config.population:
        raise ValueError(
            f"budget must be at least the population, {config.population} evaluations, got {budget}: "
            "raise it or lower the population"
        )
    started = time.monotonic()
    evaluator = Evaluator(task, block=block, on_evaluated=getattr(on_chunk, "on_evaluated", None))
    algo = _algorithm(config, task.space, len(task.objectives))
    k_initial, k_run = jax.random.split(key)
    if seeds is None:
        seeds = initial_bits(k_initial, task.space, config.population)
    state = algo.init(k_run, seeds)
    identity = {
        "task": fingerprint(task),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "config": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()},
        "seeds": hashlib.sha256(np.ascontiguousarray(seeds, np.int32).tobytes()).hexdigest()[:16],
    }
    corner, history = reference(task), _History()
    if checkpoint is not None and Path(checkpoint).exists():
        empty = {"state": state, "cache": evaluator.table(), "history": history.table()}
        saved: Any = load_state(checkpoint, empty, identity)
        state = saved["state"]
        evaluator.restore(saved["cache"])
        history.restore(saved["history"])
    stale, stop = history.stale(), False
    try:
        while evaluator.evaluations + config.population <= budget and stale < _STALE_GENERATIONS and not stop:
            before = evaluator.evaluations
            state, _ = run(algo, evaluator, state, generations=1, every=1, jit_evaluate=False)
            stale = stale + 1 if evaluator.evaluations == before else 0
            report = _report(task, state, evaluator, budget, corner, time.monotonic() - started)
            history.add(report)
            if checkpoint is not None:
                parts = {"state": state, "cache": evaluator.table(), "history": history.table()}
                save_state(checkpoint, parts, identity)
            stop = on_chunk is not None and on_chunk(report) is True
            stop = stop or (time_limit_s is not None and report.seconds >= time_limit_s)
    finally:
        close = getattr(on_chunk, "close", None)  # a progress line gives the terminal back, whatever happened
        if close is not None:
            close()
    table = evaluator.table()
    front = Front.of(
        table["bits"], table["costs"], task.objectives, task.space.names, {**(settings or {}), **identity}
    )
    return Found(front, table["bits"], table["costs"], history.table(), state, not stop)


def fingerprint(task: Task) -> str:
    """Start of a SHA-256 over what decides a task's costs; equal tasks have equal ones.

    Objectives that are functions of the bits are told apart by their values at three configurations.
    """
    digest = hashlib.sha256()
    for width in (2, 5, 8):
        bits = task.space.uniform(width)
        digest.update(np.array([cost(jax.numpy.asarray(bits)) for _, cost in task.costs_of_bits]).tobytes())
    for leaf in jax.tree.leaves(task):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    network = task.network
    names = (task.objectives, task.space.names, task.space.allowed)
    text = (*names, network.config, network.name, network.traced.lowering)
    digest.update(repr(text).encode())
    return digest.hexdigest()[:16]


# An algorithm compiles anew for each instance, so equal searches in one process share theirs.
_algorithm = functools.lru_cache(maxsize=16)(nemo)


class _History:
    """Evaluations and hypervolume after every generation."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, float]] = []

    def add(self, report: Report) -> None:
        self._rows.append((report.evaluations, report.hypervolume))

    def table(self) -> dict[str, np.ndarray]:
        return {
            "evaluations": np.array([evaluations for evaluations, _ in self._rows], np.int32),
            "hypervolume": np.array([volume for _, volume in self._rows], np.float32),
        }

    def stale(self) -> int:
        """Generations at the end that evaluated nothing new."""
        evaluations = [row[0] for row in self._rows]
        return sum(e == evaluations[-1] for e in evaluations) - 1 if evaluations else 0

    def restore(self, table: Mapping[str, Any]) -> None:
        self._rows = list(zip(table["evaluations"].tolist(), table["hypervolume"].tolist(), strict=True))


def _report(
    task: Task, state: NemoState, evaluator: Evaluator, budget: int, corner: np.ndarray, seconds: float
) -> Report:
    costs = evaluator.table()["costs"].astype(np.float64)
    costs = costs[np.isfinite(costs).all(axis=1)]
    front = costs[moocore.is_nondominated(costs)] if len(costs) else costs
    volume = float(moocore.hypervolume(front / corner, np.ones(len(corner)))) if len(front) else 0.0
    best = front.min(axis=0) if len(front) else np.full(len(corner), np.inf)
    return Report(
        generation=int(state.generation),
        evaluations=evaluator.evaluations,
        asked=int(state.evaluations),
        budget=budget,
        hypervolume=volume,
        front=len(front),
        best=dict(zip(task.objectives, best.tolist(), strict=True)),
        seconds=seconds,
    )
