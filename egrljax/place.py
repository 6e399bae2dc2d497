"""place: where each tensor of a network should live, found by the engine that fits the question.

While the cost is linear in the placement an integer program often proves the optimum within seconds, and no
search can do better. Where it does not get there, or where the cost is not linear, noisy, or a board's own,
EGRL searches.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hwmodel as hw

from .checkpoint import load_state, save_state
from .config import EGRLConfig, tuned
from .egrl import EGRLState, Metrics, egrl
from .environment import Environment, environment, exact_latency
from .loop import Board, run
from .placed import Course, Placed

ENGINES = ("auto", "egrl", "exact", "gradient", *hw.BASELINES)
Progress = Callable[[int, int, float, float], Any]  # measured, budget, best latency, reference


def place(
    key: jax.Array,
    workload: hw.Workload,
    chip: hw.Chip,
    *,
    budget: int = 4_000,
    engine: str = "auto",
    bits: hw.Bits = hw.INT8,
    pins: Mapping[str, str] | None = None,
    forbidden: Mapping[str, Sequence[str]] | None = None,
    contention: float | None = None,
    noise: float = 0.0,
    board: Board | None = None,
    config: EGRLConfig | None = None,
    solver_s: float = 20.0,
    time_limit_s: float | None = None,
    every: int = 5,
    on_chunk: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Placed:
    """Places a workload's tensors in a chip's memories.

    Args:
        budget: maps that EGRL measures.
        engine: "exact" is the integer program, "gradient" descent through the soft model, a rule one of the
            compilers. "auto": "exact" where the cost is linear and known and the optimum is proven within
            `solver_s`, else "egrl".
        bits: bit-widths of tensors.
        pins: tensor -> level that it must lie on.
        forbidden: tensor -> levels that it must not lie on. What is not the network's is the chip's
            `reserved_bytes`.
        contention: see `hwmodel.contended_latency`; None: the linear model.
        noise: sigma of the measurements' log; above 0 EGRL ranks maps by its critic.
        board: measures placements in the model's place, see `run`.
        config: of EGRL, with its own budget.
        solver_s: seconds for the integer program, which also gives the bound; 0: none.
        time_limit_s: of EGRL, which ends with the chunk in which it passes.
        every: generations between two calls of `on_chunk`, and between two checkpoints.
        on_chunk: called with maps measured, the budget, the best latency so far and that of first_fit, in
            seconds; True or "stop" ends the search.
        checkpoint: a file written after every chunk. If it is there, EGRL goes on from it, bit for bit, or
            raises if it is of another run.

    Raises:
        ValueError: an unknown engine; "exact" or "gradient" with contention or a board, which they do not
            know of; what `environment` refuses, such as a chip too small for any placement.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if not solver_s >= 0:
        raise ValueError(f"solver_s must be at least 0, got {solver_s}")
    linear = contention is None and board is None
    if engine in ("exact", "gradient") and not linear:
        what = "a board's own cost" if board is not None else "contention"
        raise ValueError(f"engine {engine!r} knows the linear model only, not {what}: use engine 'egrl'")
    if engine == "exact" and not solver_s:
        raise ValueError("engine 'exact' needs solver_s above 0")
    start = time.monotonic()
    env = environment(
        workload, chip, bits=bits, pins=pins, forbidden=forbidden, noise=noise, contention=contention
    )
    rules = {name: rule(env.problem) for name, rule in hw.BASELINES.items()}
    optimum = None
    if solver_s and linear:
        optimum = hw.optimal_placement(env.problem, solver_s)
    chosen, why = _engine(engine, optimum, linear, solver_s, contention)

    def done(placement: Any, latency_s: float | None = None, **more: Any) -> Placed:
        return Placed(
            workload=workload,
            chip=chip,
            bits=bits,
            engine=chosen,
            why=more.pop("why", why),
            placement=np.asarray(placement, np.int32),
            latency_s=_model_s(env, placement) if latency_s is None else latency_s,
            rules_s=more.pop("rules_s", None) or {n: _model_s(env, r) for n, r in rules.items()},
            bound_s=None if optimum is None else optimum.lower_bound_s,
            evaluations=more.pop("evaluations", 0),
            seconds=time.monotonic() - start,
            contention=contention,
            **more,
        )

    if chosen in rules:
        return done(rules[chosen])
    if chosen == "exact" and optimum is not None:
        return done(optimum.placement)
    if chosen == "gradient":
        found = hw.optimize_placement(key, env.problem)
        return done(found.placement, evaluations=found.evaluations)
    settings = config or replace(
        tuned(len(chip.levels)), budget=budget, rank="predicted" if noise else "measured"
    )
    searched = _search(key, env, settings, board, time_limit_s, every, on_chunk, checkpoint, start)
    state, course, finished = searched
    answer = np.asarray(_answer(settings, env, state))
    more: dict[str, Any] = {
        "evaluations": int(state.measured),
        "course": course,
        "finished": finished,
        "settings": {"config": repr(settings)},
    }
    if board is None:
        if optimum is not None and optimum.latency_s < _model_s(env, answer):
            more["why"] = f"{why} The solver's own best was better, and stands."
            answer = optimum.placement
        return done(answer, **more)
    seconds = np.asarray(board(np.stack([answer, *rules.values()]).astype(np.int32)), np.float64)
    more["rules_s"] = dict(zip(rules, seconds[1:].tolist(), strict=True))
    return done(answer, float(seconds[0]), **more)


def _engine(
    asked: str, optimum: hw.Optimum | None, linear: bool, solver_s: float, contention: float | None
) -> tuple[str, str]:
    """The engine, and why it is that one."""
    if asked != "auto":
        return asked, f"{asked} was asked for."
    if optimum is not None and optimum.status == "optimal":
        return "exact", (
            f"The cost is linear in the placement, and the solver proved the optimum in "
            f"{optimum.seconds:.1f} s: no search can do better."
        )
    if optimum is not None:
        return "egrl", (
            f"The solver was still {optimum.gap:.2%} above its bound after {optimum.seconds:.1f} s, so EGRL "
            "searched."
        )
    if linear:
        return "egrl", f"The solver was not asked (solver_s {solver_s:g}), so EGRL searched."
    what = "is a board's own" if contention is None else "with contention is not linear in the placement"
    return "egrl", f"The cost {what}: no solver applies, so EGRL searched."


def _search(
    key: jax.Array,
    env: Environment,
    config: EGRLConfig,
    board: Board | None,
    time_limit_s: float | None,
    every: int,
    on_chunk: Progress | None,
    checkpoint: str | os.PathLike[str] | None,
    start: float,
) -> tuple[EGRLState, Course, bool]:
    algo = egrl(config, jnp.asarray(env.graph.nodes).shape[1])
    state = jax.jit(algo.init)(key, env)
    settings = {"config": repr(config), "key": np.asarray(jax.random.key_data(key)).tolist()}
    settings["environment"] = _digest(env)
    like = {"state": state, "evaluations": jnp.zeros((0,), jnp.int32), "best_s": jnp.zeros((0,))}
    saved = dict(like)
    if checkpoint is not None and Path(checkpoint).exists():
        saved = load_state(checkpoint, _raw(like), settings)
        saved = {**saved, "state": _typed(saved["state"])}
        state = saved["state"]
    evaluations, best_s = [saved["evaluations"]], [saved["best_s"]]

    def after(state: EGRLState, metrics: Metrics) -> Any:
        evaluations.append(jnp.asarray(metrics.measured))
        best_s.append(jnp.asarray(metrics.best_s))
        if checkpoint is not None:
            rows = {"evaluations": jnp.concatenate(evaluations), "best_s": jnp.concatenate(best_s)}
            save_state(checkpoint, _raw({"state": state, **rows}), settings)
        stop = time_limit_s is not None and time.monotonic() - start > time_limit_s
        if on_chunk is not None:
            numbers = int(state.measured), config.budget, float(state.best_s), float(env.reference_s)
            stop = on_chunk(*numbers) in (True, "stop") or stop
        return stop

    state, _ = run(algo, env, state, every=every, on_chunk=after, board=board)
    course = Course(np.concatenate(evaluations), np.concatenate(best_s))
    return state, course, int(state.measured) >= config.budget


def _answer(config: EGRLConfig, env: Environment, state: EGRLState) -> jax.Array:
    return egrl(config, jnp.asarray(env.graph.nodes).shape[1]).answer(state, env)


def _model_s(env: Environment, placement: Any) -> float:
    return float(exact_latency(env, jnp.asarray(placement, jnp.int32)))


def _digest(env: Environment) -> str:
    """Of everything that decides what a map costs and what a policy sees."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(env):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def _raw(saved: dict[str, Any]) -> dict[str, Any]:
    """Typed keys as the numbers that they hold, for a file."""
    state = saved["state"]
    return {**saved, "state": _with_key(state, jax.random.key_data(state.key))}


def _typed(state: EGRLState) -> EGRLState:
    return _with_key(state, jax.random.wrap_key_data(state.key))


def _with_key(state: EGRLState, key: jax.Array) -> EGRLState:
    changed: Any = state
    return changed.replace(key=key)
