"""search: the loop that people call. NEMO over a task, budgeted in evaluations, resumable.

Everything that decides the result is in the state, the key and the task; progress, time limits and
checkpoints happen between generations.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from hwmodel import Hosts

from .algorithm import algorithm, ranking_units
from .config import NemoConfig, default_config
from .evaluator import Evaluator
from .fingerprint import digest_of, fingerprint
from .first_generation import fitted, initial_bits
from .front import Front
from .history import History
from .joint_space import JointSpace
from .limits import limits as checked_limits
from .nemo import NemoState
from .policies import Policies, policies as living_policies
from .search_course import Course, OnChunk as OnChunk, Report as Report
from .search_files import Files
from .sensitivity import Sensitivity, check_covers
from .sensitivity_measures import error_entries, measure_sensitivity
from .task import Task, costs_by_name, worst_error
from .warm_start import WarmStart, best_spread, seeds_alone, with_prior


@dataclass(frozen=True, eq=False)
class Found:
    """The outcome of a search: the front of everything it evaluated, and how it got there."""

    front: Front  # of those within the limits
    bits: np.ndarray  # (K, n) int32, every configuration evaluated, in that order
    costs: np.ndarray  # (K, M) float32
    evaluations: int  # spent of the budget: those of a table given included, what was known for free not
    history: Mapping[str, np.ndarray]  # see `History`: evaluations, hypervolume, sizes and R2 of the species
    species: tuple[str, ...]  # S, the columns of the history
    policies: Policies  # living policies of the graph species, for another search
    state: NemoState
    finished: bool  # False: ended by a time limit or by on_chunk before the budget


def reference(task: Task) -> np.ndarray:
    """(M,) the worst that still counts in a hypervolume: 1 for shares; for kl ln(classes), a flat guess.

    For a cost of one's own that has another scale: its value with every quantizer at its highest bit-width.
    """
    worst = [worst_error(task)]
    highest, built_in = jnp.asarray(task.space.uniform(task.space.widths[-1])), costs_by_name(task.network)
    for name, cost in task.costs_of_bits:
        own = 1.0 if built_in.get(name) == cost else abs(float(cost(highest)))
        worst.append(own or 1.0)
    return np.array(worst)


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
    warm_share: float = 0.75,
    warm_rounds: int = 4,
    on_chunk: OnChunk | None = None,
    time_limit_s: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_is_free: bool = True,
    block: int = 1,
    mesh: Mesh | None = None,
    hosts: Hosts | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Found:
    """Searches the bit-widths of a task's network for its Pareto front.

    Args:
        key: typed key; the result depends on it, the task, the budget and the settings here alone.
        budget: configurations evaluated at most, those for a table of errors included; generations are not
            cut, so up to one less is used.
        config: population, species, survival; default: the preset "guided", or "default" without a warm
            start.
        limits: objective -> its highest value, or "size" -> "1.2 MB". Configurations beyond a limit by their
            bits alone are not evaluated.
        seeds: configurations in the first generation, say of another search or of `warm_start`; moved to the
            nearest that the space allows. What they leave free `initial_bits` fills.
        policies: species -> policies of another search, perhaps of another network; see `load_policies`.
        warm_start: a sensitivity table, or the measure of one (see `measure_sensitivity`). It chooses what is
            evaluated before the first generation, and is a feature of the graph's nodes. None: start without.
        warm_share: of the budget, that those evaluations take at most.
        warm_rounds: half of them are chosen by the table as measured, the rest in so many rounds, each by the
            table as corrected by all before; of at least ten each. 0: all at once, and nothing is corrected.
        on_chunk: called with a Report after every generation; `progress()` is one. True or "stop" ends the
            search.
        time_limit_s: ends the search after the generation, or the part of the warm start, in which it passes.
        checkpoint: a file that is written after every generation. If it is there already the search goes
            on from it, bit for bit as if it had not stopped, or raises if it is of another search. With a
            higher budget it goes on further; the warm start stays what it was.
        cache: a file of evaluations of this task, read at the start and written at the end. What it knew at
            the start costs no evaluation.
        cache_is_free: False: what the cache knew counts as an evaluation all the same, for comparisons at
            equal evaluations that share their work.
        block: configurations evaluated in one call on each device.
        mesh: devices that share the configurations (axis "pop") and the images ("images"); see `Evaluator`.
            The result is that of one device, bit for bit, where only configurations are shared.
        hosts: processes that share the configurations: each calls `search` with the same arguments, gets the
            same result, which is that of a single process, and may itself have a mesh of its own devices.
            `on_chunk` is called, and files are read and written, in the first one alone.
        settings: kept with the front, beside the quantizers and what decided the result.

    Raises:
        ValueError: a budget below the population, limits that cannot be met, a checkpoint of other settings,
            a cache of another task.
        hwmodel.HostsError: another process is gone, late, failed, or searches something else.
    """
    config = config or default_config(warm_start)
    if not 0 <= warm_share < 1:
        raise ValueError(f"warm_share must be in [0, 1), got {warm_share}")
    if warm_rounds < 0:
        raise ValueError(f"warm_rounds must be at least 0, got {warm_rounds}")
    corner, highest = reference(task), checked_limits(task, limits or {})
    prior = np.zeros((0, task.space.size), np.int32) if seeds is None else fitted(task.space, seeds)
    prior = prior[np.sort(np.unique(prior, axis=0, return_index=True)[1])]
    if isinstance(task.space, JointSpace) and warm_start is not None:
        given = repr(warm_start) if isinstance(warm_start, str) else "a table"
        raise ValueError(
            f"warm_start must be None for a joint task, got {given}: sensitivities know nothing of memories"
        )
    if isinstance(warm_start, Sensitivity):
        check_covers(warm_start, task.space)
    elif warm_start not in (None, task.score.name) and not jax.tree.leaves(task.inputs):
        raise ValueError(
            f"this task has no inputs, on which warm_start={warm_start!r} would measure the network: give "
            "warm_start=None, or bits_task(inputs=...)"
        )
    k_initial, k_run, k_table = jax.random.split(key, 3)
    table_id = warm_start.table if isinstance(warm_start, Sensitivity) else [ord(c) for c in warm_start or ""]
    identity = {
        "task": fingerprint(task),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "config": json.loads(json.dumps(asdict(config))),
        "limits": [float(limit) if np.isfinite(limit) else None for limit in highest],
        "warm_share": warm_share,
        "warm_rounds": warm_rounds,
        "start": digest_of([prior, table_id, *(policies or {}).values()]),
    }
    units = ranking_units(task, corner)
    if (units != 1).any():
        identity["units"] = units.tolist()
    if hosts is not None:
        hosts.agreed("search (task, key or settings)", [identity, budget, cache_is_free])
        on_chunk = on_chunk if hosts.first else None  # one process speaks for all
    on_evaluated = getattr(on_chunk, "on_evaluated", None)
    evaluator = Evaluator(task, block=block, on_evaluated=on_evaluated, mesh=mesh, hosts=hosts)
    files = Files(checkpoint, cache, identity, task, cache_is_free, hosts)
    course = Course(task, evaluator, highest, corner, files, on_chunk, time_limit_s, hosts)
    history = course.history = History(len(config.species))
    marks = files.restore(evaluator, history)
    try:
        table, spent = _table(k_table, evaluator, warm_start, budget - config.population)
        if marks is None:
            used = spent + evaluator.evaluations
            left = budget - used - config.population - len(prior)
            if left < 0:
                raise ValueError(
                    f"budget must be at least the population, {config.population} evaluations, and what goes "
                    f"before it ({len(prior)} seeds, {used} for the sensitivity table), got {budget}: "
                    "raise it, or lower those"
                )
            marks = files.start(min(int(warm_share * budget), left))
        course.marks = marks
        own, algo = algorithm(config, task, table, corner)
        first = initial_bits(k_initial, task.space, own.room)
        state = files.state(own.init(k_run, first, policies))
        needed = spent + len(prior) + marks.warm + config.population
        if int(state.generation) == 0 and budget < needed:
            raise ValueError(
                f"budget is {budget} evaluations, but the warm start that the checkpoint goes on with takes "
                f"{marks.warm}: give at least {needed}, or another checkpoint"
            )
        if int(state.generation) == 0 and (table is not None or len(prior)):
            warm = None
            if table is not None:
                warm = WarmStart(task, table, marks.warm, highest, prior, warm_rounds)
            told = course.evaluate_first(state, warm or seeds_alone(prior), config.population)
            if not course.stopped:
                planted = np.concatenate([best_spread(*told, own.room), first])[: own.room]
                if warm is not None:
                    own, _ = algorithm(config, task, table, corner, warm.prices(told.bits, told.costs))
                state = with_prior(own.init(k_run, planted, policies), *told)
        state = course.evolve(algo, state, budget - spent, config.population)
    finally:
        course.close()
    evaluated = evaluator.table()
    kept = {**(settings or {}), "quantizers": asdict(task.network.config), **identity}
    return Found(
        front=_front(task, evaluated, highest, kept, course.stopped),
        bits=evaluated["bits"],
        costs=evaluated["costs"],
        evaluations=spent + evaluator.evaluations,
        history=history.table(),
        species=config.species,
        policies=living_policies(state, config),
        state=state,
        finished=not course.stopped,
    )


def _table(
    key: jax.Array, evaluator: Evaluator, wanted: Sensitivity | str | None, budget: int
) -> tuple[Sensitivity | None, int]:
    """The sensitivity table, and the evaluations that it took elsewhere.

    Raises:
        ValueError: a table of errors that takes more than the budget.
    """
    if not isinstance(wanted, str):
        return wanted, 0 if wanted is None else wanted.evaluations
    entries = error_entries(evaluator.task.space)
    if wanted == evaluator.task.score.name and entries > budget:
        raise ValueError(
            f"warm_start={wanted!r} takes {entries} evaluations, the budget leaves {budget} beside a "
            "population: raise it, or take 'fisher', which takes none"
        )
    before = evaluator.evaluations
    table = measure_sensitivity(key, evaluator.task, wanted, evaluate=evaluator)
    return table, table.evaluations - (evaluator.evaluations - before)


def _front(
    task: Task,
    evaluated: Mapping[str, np.ndarray],
    limits: np.ndarray,
    settings: Mapping[str, Any],
    stopped: bool,
) -> Front:
    """Of what was evaluated and is within the limits."""
    costs = evaluated["costs"]
    within = (costs <= limits).all(axis=1)
    if not (within & np.isfinite(costs).all(axis=1)).any() and np.isfinite(limits).any():
        wanted = {n: float(x) for n, x in zip(task.objectives, limits, strict=True) if np.isfinite(x)}
        remedy = "it was stopped: go on from its checkpoint, or give it more time" if stopped else ""
        raise ValueError(
            f"none of {len(costs)} configurations evaluated is within the limits {wanted}: "
            + (remedy or "raise them, or the budget")
        )
    names = task.space.names
    return Front.of(evaluated["bits"][within], costs[within], task.objectives, names, settings)
