"""place: where each tensor of a network should live, found by the engine that fits the question.

While the cost is linear in the placement an integer program often proves the optimum within seconds, and no
search can do better. Where it does not get there, or where the cost is not linear, noisy, or a board's own,
EGRL searches.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import hwmodel as hw

from .baselines.rules import rules as rules_of
from .config import EGRLConfig, Rank, tuned
from .egrl import check_levels
from .environment import Environment, environment, exact_latency
from .loop import Board, check_sharing
from .place_search import Progress, search
from .placed import Placed
from .trained import TrainedPolicy

ENGINES = ("auto", "egrl", "exact", "gradient", "policy", *hw.BASELINES)
SEARCHES = ("auto", "egrl")  # engines that may search
_EQUAL = 1e-6  # relative: placements that differ by less are equally fast


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
    policy: TrainedPolicy | None = None,
    solver_s: float = 20.0,
    time_limit_s: float | None = None,
    every: int = 5,
    on_chunk: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
    hosts: hw.Hosts | None = None,
) -> Placed:
    """Places a workload's tensors in a chip's memories.

    Args:
        key: decides every draw of EGRL and of descent; the rules and the solver draw nothing.
        budget: maps that are measured by EGRL, among them first the rules' and, under "auto", the solver's,
            from which it starts as well.
        engine: "exact" is the integer program, "gradient" descent through the soft model, "policy" the
            forward pass of a trained policy, which measures nothing, a rule one of the compilers. "auto":
            "exact" where the cost is linear and known and the optimum is proven within `solver_s`; else
            "egrl", or what the solver or a rule found if that is faster.
        bits: bit-widths of tensors.
        pins: tensor -> level that it must lie on.
        forbidden: tensor -> levels that it must not lie on. What is not the network's is the chip's
            `reserved_bytes`.
        contention: see `hwmodel.contended_latency`; None or 0: the linear model.
        noise: sigma of the measurements' log; above 0 EGRL ranks maps by its critic, and "auto" searches, as
            it would on a board. The latencies here are without noise, and so is what "auto" compares.
        board: measures placements in the model's place, see `run` and `external`; the rules first.
        config: of EGRL, in the place of `budget` and what it decides by `noise`.
        policy: trained on other workloads or chips, see `train_policy`; EGRL starts from it.
        solver_s: seconds for the integer program, which also gives the bound; 0: none.
        time_limit_s: of EGRL, which ends with the chunk in which it passes.
        every: generations between two calls of `on_chunk`, and between two checkpoints.
        on_chunk: called at the start and after every chunk with maps measured, the budget, the best latency
            so far (+inf: none) and that of first_fit, in seconds; True or "stop" after a chunk ends it.
            `progress()` is one.
        checkpoint: a file written after every chunk. If it is there, EGRL goes on from it, bit for bit, or
            raises if it is of another run.
        mesh: devices that share the maps of a generation where EGRL measures by the model, see `run`.
        hosts: processes that share what a board measures, each on its own board. Each calls `place` with the
            same arguments and gets the same answer; the first alone reads and writes the checkpoint and calls
            `on_chunk`.

    Raises:
        ValueError: an unknown engine; "exact" or "gradient" with contention or a board, which they do not
            know of; a board, which only EGRL measures on; "policy" without a policy, one that does not fit,
            or anything else for an engine that has no use for it; a limit that is none; what
            `environment` and `EGRLConfig` refuse, such as a chip too small for any placement; a board that
            fails throughout; hosts without a board, or a mesh with one.
        hwmodel.HostsError: another process is gone, late, failed, or places something else.
    """
    if contention == 0:
        contention = None
    _check_engine(engine, contention, board, policy, solver_s)
    heeded = {
        "noise": noise or None,
        "config": config,
        "checkpoint": checkpoint,
        "mesh": mesh,
        "hosts": hosts,
    }
    _check_search(engine, time_limit_s, heeded)
    check_sharing(board, mesh, hosts)
    start = time.monotonic()
    solves = solver_s > 0 and board is None
    own = len(hw.BASELINES) + (solves and engine == "auto")  # maps that are known before
    if config is None and engine in SEARCHES and budget <= own:
        raise ValueError(f"budget must be above {own}, the placements that are known, got {budget}")
    rank: Rank = "predicted" if noise else "measured"
    settings = config or replace(tuned(len(chip.levels)), budget=max(budget - own, 1), rank=rank)
    if config is None and policy is not None:
        settings = replace(settings, policy=policy.policy, start=policy.start, acting=policy.acting)
    env = environment(
        workload, chip, bits=bits, pins=pins, forbidden=forbidden, noise=noise, contention=contention
    )
    check_levels(settings, env)
    if policy is not None:
        policy.check(env)
        for name in ("policy", "start", "acting"):
            given, wanted = getattr(settings, name), getattr(policy, name)
            if given != wanted:
                raise ValueError(f"config.{name} must be the trained policy's, {wanted!r}, got {given!r}")
    rules = rules_of(env)
    # Contention only adds to the linear model's time, so its bound holds there, too.
    optimum = hw.optimal_placement(env.problem, solver_s) if solves else None
    goes_on = checkpoint is not None and Path(checkpoint).exists()  # only EGRL leaves one
    chosen, why = _engine(engine, optimum, board is not None, contention, noise, goes_on)
    placed = Placed(
        workload=workload,
        chip=chip,
        bits=bits,
        engine=chosen,
        why=why,
        placement=rules["first_fit"],
        latency_s=math.nan,
        rules=rules,
        rules_s={name: _model_s(env, placement) for name, placement in rules.items()},
        bound_s=None if optimum is None else optimum.lower_bound_s,
        contention=contention,
        pins=dict(pins or {}),
        forbidden={name: tuple(levels) for name, levels in (forbidden or {}).items()},
        settings={
            "key": str(np.asarray(jax.random.key_data(key)).tolist()),
            "noise": str(noise),
            "solver_s": str(solver_s),
            **{name: version(name) for name in ("frugaljax", "jax")},
        },
    )
    if chosen == "egrl":
        solved = {"exact": optimum.placement} if optimum is not None and engine == "auto" else {}
        try:
            found = search(
                key,
                env,
                settings,
                {**rules, **solved},
                actor=None if policy is None else jnp.asarray(policy.vector),
                board=board,
                time_limit_s=time_limit_s,
                every=every,
                on_chunk=on_chunk,
                checkpoint=checkpoint,
                mesh=mesh,
                hosts=hosts,
            )
        finally:
            hw.close_line(on_chunk)
        measured_s = _model_s(env, found.placement) if found.latency_s is None else found.latency_s
        placed = replace(
            placed,
            placement=found.placement,
            latency_s=measured_s,
            rules_s=found.rules_s or placed.rules_s,
            evaluations=found.evaluations,
            course=found.course,
            finished=found.finished,
            settings={**placed.settings, "config": repr(settings), "reward": str(settings.reward)},
        )
        if engine == "auto":
            placed = _or_faster(placed, env, optimum)
    elif chosen == "gradient":
        descent = hw.optimize_placement(key, env.problem)
        placed = replace(
            placed,
            placement=descent.placement,
            latency_s=_model_s(env, descent.placement),
            evaluations=descent.evaluations,
        )
    elif chosen == "policy" and policy is not None:
        proposed = np.asarray(policy.propose(env))
        placed = replace(placed, placement=proposed, latency_s=_model_s(env, proposed))
    else:
        known = optimum.placement if chosen == "exact" and optimum is not None else rules[chosen]
        placed = replace(placed, placement=known, latency_s=_model_s(env, known))
    return replace(placed, seconds=time.monotonic() - start)


def _check_engine(
    engine: str, contention: float | None, board: Board | None, policy: TrainedPolicy | None, solver_s: float
) -> None:
    """ValueError for an engine that there is not, or that does not know what is asked of it."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if not solver_s >= 0:
        raise ValueError(f"solver_s must be at least 0, got {solver_s}")
    if engine in ("exact", "gradient") and not (contention is None and board is None):
        what = "a board's own cost" if board is not None else "contention"
        raise ValueError(f"engine {engine!r} knows the linear model only, not {what}: use engine 'egrl'")
    if board is not None and engine not in SEARCHES:
        raise ValueError(f"engine {engine!r} measures nothing on a board: use engine 'egrl', or no board")
    if engine == "policy" and policy is None:
        raise ValueError("engine 'policy' needs a trained policy: policy=load_policy(file)")
    if policy is not None and engine not in (*SEARCHES, "policy"):
        raise ValueError(f"engine {engine!r} has no use for a policy: use engine 'policy' or 'egrl'")
    if engine == "exact" and not solver_s:
        raise ValueError("engine 'exact' needs solver_s above 0")


def _check_search(engine: str, time_limit_s: float | None, others: Mapping[str, Any]) -> None:
    """ValueError for what only a search heeds, given to an engine that is none."""
    for name, value in {"time_limit_s": time_limit_s, **others}.items():
        if value is not None and engine not in SEARCHES:
            raise ValueError(
                f"{name} is for a search, engine {engine!r} is none: leave it out, or use 'egrl'"
            )
    if time_limit_s is not None and not time_limit_s > 0:
        raise ValueError(f"time_limit_s must be above 0, got {time_limit_s}")


def _or_faster(placed: Placed, env: Environment, optimum: hw.Optimum | None) -> Placed:
    """What EGRL found, or what a rule or the solver found if that is faster: then it says so."""
    others = {name: (placed.rules[name], seconds) for name, seconds in placed.rules_s.items()}
    if optimum is not None:
        others["exact"] = (optimum.placement, _model_s(env, optimum.placement))
    name = min(others, key=lambda name: others[name][1])
    placement, seconds = others[name]
    if not seconds < placed.latency_s * (1 - _EQUAL):
        return placed
    whose = name
    if name == "exact" and optimum is not None:
        proof = "proven" if optimum.status == "optimal" else "not proven"
        whose = f"The solver's placement ({proof}, for the cost without contention or noise)"
    why = f"{placed.why} {whose} was faster than what it found ({placed.latency_s * 1e6:.6g} us), and stands."
    return replace(placed, engine=name, why=why, placement=np.asarray(placement), latency_s=seconds)


def _engine(
    asked: str,
    optimum: hw.Optimum | None,
    board: bool,
    contention: float | None,
    noise: float,
    goes_on: bool,
) -> tuple[str, str]:
    """The engine, and why it is that one."""
    if asked != "auto":
        return asked, f"{asked} was asked for."
    if board:
        return "egrl", "The cost is a board's own: no solver applies, so EGRL searched."
    if contention is not None:
        return "egrl", "With contention the cost is not linear in the placement: no proof, so EGRL searched."
    if noise:
        return "egrl", "The measurements are noisy, as a board's are, so EGRL searched."
    if goes_on:
        return "egrl", "A search that had begun went on."
    if optimum is None:
        return "egrl", "The solver was not asked (solver_s 0), so EGRL searched."
    if optimum.status == "optimal":
        return "exact", (
            f"The cost is linear in the placement, and the solver proved the optimum in "
            f"{optimum.seconds:.1f} s: no search can do better."
        )
    return "egrl", (
        f"The solver was still {optimum.gap:.2%} above its bound after {optimum.seconds:.1f} s, "
        "so EGRL searched."
    )


def _model_s(env: Environment, placement: Any) -> float:
    return float(exact_latency(env, jnp.asarray(placement, jnp.int32)))
