"""search: the loop that people call. NEMO over a task, budgeted in evaluations, resumable.

Everything that decides the result is in the state, the key and the task; progress, time limits and
checkpoints happen between generations.
"""

import json
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

from .budgeted import Budgeted
from .checkpoint import load_state, save_state
from .config import PRESETS, NemoConfig
from .evaluator import Evaluator
from .fingerprint import digest_of, fingerprint
from .first_generation import fitted, initial_bits
from .front import Front
from .history import History
from .limits import limits as checked_limits
from .loop import run
from .nemo import Nemo, NemoState, nemo
from .policies import Policies, policies as living_policies
from .quantized import QuantizedNetwork
from .quantizer_graph import quantizer_graph
from .sensitivity import Sensitivity
from .sensitivity_measures import measure_sensitivity
from .species import Prices
from .task import Task
from .warm_start import best_spread, warm_bits, with_prior, with_sensitivity

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

    front: Front  # of those within the limits
    bits: np.ndarray  # (K, n) int32, every configuration evaluated, in that order
    costs: np.ndarray  # (K, M) float32
    history: Mapping[str, np.ndarray]  # see `History`: evaluations, hypervolume, sizes and R2 of the species
    species: tuple[str, ...]  # S, the columns of the history
    policies: Policies  # living policies of the graph species, for another search
    state: NemoState
    finished: bool  # False: ended by a time limit or by on_chunk before the budget


def reference(task: Task) -> np.ndarray:
    """(M,) the worst that still counts in a hypervolume: 1 for shares; for kl ln(classes), a flat guess."""
    classes = jax.eval_shape(QuantizedNetwork.logits, task.network, task.images).shape[1]
    return np.array([np.log(classes) if name == "kl" else 1.0 for name in task.objectives])


def search(
    key: jax.Array,
    task: Task,
    *,
    budget: int,
    config: NemoConfig | None = None,
    limits: Mapping[str, float | int | str] | None = None,
    seeds: Int[np.ndarray, "k n"] | None = None,
    policies: Policies | None = None,
    warm_start: Sensitivity | str | None = "fisher",
    warm_share: float = 0.5,
    on_chunk: OnChunk | None = None,
    time_limit_s: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    block: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> Found:
    """Searches the bit-widths of a task's network for its Pareto front.

    Args:
        key: typed key; the result depends on it, the task, the budget and the settings here alone.
        budget: configurations evaluated at most; generations are not cut, so up to one less is used.
        config: population, species, survival; default: the preset "guided", or "default" without a warm
            start.
        limits: objective -> its highest value, or "size" -> "1.2 MB". Configurations beyond a limit by their
            bits alone are not evaluated.
        seeds: configurations in the first generation, say of another search or of `warm_start`; moved to the
            nearest that the space allows. What they leave free `initial_bits` fills.
        policies: species -> policies of another search, perhaps of another network; see `load_policies`.
        warm_start: a sensitivity table, or the measure of one (see `measure_sensitivity`). It chooses what is
            evaluated before the first generation, and is a feature of the graph's nodes. None: start without.
        warm_share: of the budget, that those evaluations take.
        on_chunk: called with a Report after every generation; `progress()` is one.
        time_limit_s: ends the search after the generation in which it passes.
        checkpoint: a file that is written after every generation. If it is there already the search goes
            on from it, bit for bit as if it had not stopped, or raises if it is of another search.
        cache: a file of evaluations of this task, read at the start and written at the end. What it knew at
            the start costs no evaluation.
        block: configurations evaluated in one call on the device.
        settings: kept with the front.

    Raises:
        ValueError: a budget below the population, limits that cannot be met, a checkpoint of other settings,
            a cache of another task.
    """
    config = config or (PRESETS["default"] if warm_start is None else PRESETS["guided"])
    if budget < config.population:
        raise ValueError(
            f"budget must be at least the population, {config.population} evaluations, got {budget}: "
            "raise it or lower the population"
        )
    if not 0 <= warm_share < 1:
        raise ValueError(f"warm_share must be in [0, 1), got {warm_share}")
    started = time.monotonic()
    corner, highest = reference(task), checked_limits(task, limits or {})
    k_initial, k_run, k_table = jax.random.split(key, 3)
    table = measure_sensitivity(k_table, task, warm_start) if isinstance(warm_start, str) else warm_start
    evaluator = Evaluator(task, block=block, on_evaluated=getattr(on_chunk, "on_evaluated", None))
    evaluate = Budgeted(evaluator, highest, corner)
    own, algo = _algorithm(config, task, table)
    prior = np.zeros((0, task.space.size), np.int32)
    if seeds is not None:
        prior = fitted(task.space, np.asarray(seeds, np.int32))
        if len(prior) + config.population > budget:
            raise ValueError(
                f"seeds has {len(prior)} rows, too many for a budget of {budget} evaluations of which a "
                f"population takes {config.population}: raise it, or give fewer"
            )
    if table is not None:
        room = min(int(warm_share * budget), budget - config.population) - len(prior)
        prior = np.concatenate([prior, warm_bits(task, table, max(room, 0))])
    first = initial_bits(k_initial, task.space, algo.room)
    state = own.init(k_run, first, policies)
    identity = {
        "task": fingerprint(task),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "config": json.loads(json.dumps(asdict(config))),
        "limits": [float(limit) if np.isfinite(limit) else None for limit in highest],
        "start": digest_of(
            [prior, first, *(policies or {}).values(), *([] if table is None else [table.table])]
        ),
    }
    known = {"task": identity["task"]}
    stock = Evaluator(task).everything()
    if cache is not None and Path(cache).exists():
        stock = load_state(cache, stock, known)
    marks = np.array([len(stock["bits"]), 0], np.int32)  # what the cache knew at the start; stale generations
    history = History(len(config.species))
    if checkpoint is not None and Path(checkpoint).exists():
        empty = {"state": state, "cache": evaluator.table(), "history": history.table(), "marks": marks}
        saved: Any = load_state(checkpoint, empty, identity)
        state, marks = saved["state"], np.asarray(saved["marks"])
        evaluator.restore(saved["cache"])
        history.restore(saved["history"])
    evaluator.know(stock, free=int(marks[0]))
    stale, stop = int(marks[1]), False
    try:
        if int(state.generation) == 0 and len(prior):
            told = []
            for part in np.array_split(prior, -(-len(prior) // config.population)):
                told.append(evaluate(part))
                if time_limit_s is not None and time.monotonic() - started >= time_limit_s:
                    break
            costs, over = (np.concatenate(parts) for parts in zip(*told, strict=True))
            prior = prior[: len(costs)]
            chosen = best_spread(prior, costs, over, algo.room)
            planted = np.concatenate([chosen, first])[: algo.room]
            state = with_prior(own.init(k_run, planted, policies), prior, costs, over)
        while evaluator.evaluations + config.population <= budget and stale < _STALE_GENERATIONS and not stop:
            before = evaluator.evaluations
            state, metrics = run(algo, evaluate, state, generations=1, every=1, jit_evaluate=False)
            stale = stale + 1 if evaluator.evaluations == before else 0
            report = _report(task, state, evaluator, highest, budget, corner, time.monotonic() - started)
            history.add(report.evaluations, report.hypervolume, metrics)
            if checkpoint is not None:
                parts = {
                    "state": state,
                    "cache": evaluator.table(),
                    "history": history.table(),
                    "marks": np.array([marks[0], stale], np.int32),
                }
                save_state(checkpoint, parts, identity)
            stop = on_chunk is not None and on_chunk(report) is True
            stop = stop or (time_limit_s is not None and report.seconds >= time_limit_s)
    finally:
        close = getattr(on_chunk, "close", None)  # a progress line gives the terminal back, whatever happened
        if close is not None:
            close()
        if cache is not None:
            save_state(cache, evaluator.everything(), known)
    evaluated = evaluator.table()
    within = (evaluated["costs"] <= highest).all(axis=1)
    front = Front.of(
        evaluated["bits"][within],
        evaluated["costs"][within],
        task.objectives,
        task.space.names,
        {**(settings or {}), **identity},
    )
    return Found(
        front=front,
        bits=evaluated["bits"],
        costs=evaluated["costs"],
        history=history.table(),
        species=config.species,
        policies=living_policies(state, config),
        state=state,
        finished=not stop,
    )


_BUILT: dict[tuple[Any, ...], Nemo] = {}


def _algorithm(config: NemoConfig, task: Task, table: Sensitivity | None) -> tuple[Nemo, Nemo]:
    """One to start with, and one to go on with: an algorithm compiles anew for each instance, so searches
    in one process that differ in nothing but what is in their state share theirs.
    """
    workload, scale, rules = task.network.workload, reference(task), config.graph
    # One fixed order for every run: the shuffled graph is the control of an ablation.
    shuffle = jax.random.key(0) if rules.edges == "shuffled" else None
    graph = quantizer_graph(workload, rules.edges, shuffle, position=rules.position)  # type: ignore[arg-type]
    graph = with_sensitivity(graph, table)
    prices = None if table is None else Prices.of(task.space, workload, table)
    own = nemo(config, task.space, len(task.objectives), graph=graph, prices=prices, scale=scale)
    # Features of the nodes and prices are in the state.
    shape = [graph.senders, graph.receivers, scale]
    if prices is not None:
        shape += [prices.weight, prices.input]
    key = (config, task.space, task.objectives, graph.nodes.shape, digest_of(shape))
    if key not in _BUILT and len(_BUILT) >= 32:
        _BUILT.pop(next(iter(_BUILT)))
    return own, _BUILT.setdefault(key, own)


def _report(
    task: Task,
    state: NemoState,
    evaluator: Evaluator,
    limits: np.ndarray,
    budget: int,
    corner: np.ndarray,
    seconds: float,
) -> Report:
    costs = evaluator.table()["costs"].astype(np.float64)
    costs = costs[np.isfinite(costs).all(axis=1) & (costs <= limits).all(axis=1)]
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
