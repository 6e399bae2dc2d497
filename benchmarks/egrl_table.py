"""EGRL beside every rival: 4,000 maps each, same environment, same seeds, how far from the proven optimum.

Cells are a network on a chip where capacity binds, with one of three costs; the bound is HiGHS's of linear:
  linear      latency of the exact model
  noise       the same, each measurement off by 5 % (log-normal); scored without noise
  contention  each further stream to a memory costs four times its time; the bound holds, as this only adds
Agents: EGRL as `tuned`, without learner (ea_only), without population (pg_only); the baselines of
egrljax.baselines. What knows the chip, the compilers, descent through the soft model and HiGHS, knows the
linear model, and is scored by the cell's cost.

Rivals have the start and the way of acting that suit them, else their defaults: ea_direct stands with its own
random start and with the compilers' maps in its first population; strategies of evosax act by margins from
the density start, as EGRL does. With contention EGRL stands also with the rules' placements, and with the
linear model's optimum, among its first members. With noise EGRL answers by its critic; rivals spend
a tenth of the budget on measuring their twenty fastest placements twenty times each. `ea_only, critic ranks`
has a critic for nothing but the ranking.

Evaluations are maps measured; what a critic looked at is not counted. Runs are kept, so an interrupted table
goes on. TABLE_LIMIT_S ends it early; what is missing is said. TABLE_PART=0/2 runs every second cell, for a
process a core; a run without it puts the table together.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import egrljax as egrl
import hwmodel as hw
from egrljax import baselines

from .common import QUICK, finish, interval, say
from .egrl_cells import BUDGET, COSTS, MARKS, SEEDS, SETTINGS, SETTLED, Cell, egrl_agent, run, settled
from .kept import Kept

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))


def cells() -> list[Cell]:
    if QUICK:
        return [Cell("resnet50", "nnp_i_tight", "linear")]
    networks, chips = ("resnet50", "resnet101", "bert_base"), ("nnp_i_tight", "nnp_i_paperstyle", "imxrt1170")
    linear = [Cell(network, chip, "linear") for chip in chips for network in networks]
    hard = [("resnet50", "nnp_i_tight"), ("resnet101", "nnp_i_paperstyle"), ("bert_base", "nnp_i_tight")]
    others = [Cell(*pair, cost) for cost in ("noise", "contention") for pair in hard]
    # The hardest first, so that an early end leaves the most telling rows.
    first = [Cell(*pair, "linear") for pair in hard]
    return [*first, *others, *(cell for cell in linear if cell not in first)]


def full(cell: Cell) -> bool:
    """Whether the cell has every agent; the others have those that came closest, and what must be there."""
    return cell in cells()[:3]


BY_CRITIC = (
    "egrl",
    "egrl, from rules",
    "egrl, from rules and solver",
    "ea_only, critic ranks",
)  # with noise they answer by their critic
SHORT = (
    "egrl",
    "egrl, from rules",
    "egrl, from rules and solver",
    "ea_only",
    "ea_only, critic ranks",
    "ea_direct",
    "ea_direct, from rules",
    "ea_margins",
    "SNES",
    "greedy_dp",
)


def configs(levels: int, cost: str) -> dict[str, egrl.EGRLConfig]:
    """EGRL and what is left of it without one half."""
    rank = "predicted" if cost == "noise" else "measured"
    whole = replace(egrl.tuned(levels), budget=BUDGET, rank=rank)
    idle = replace(whole.learner, critic_steps=0, actor_steps=0)
    alone = {"policies": 0, "chromosomes": 0, "policy_elites": 0, "chromosome_elites": 0}
    ranks = replace(whole.learner, actor_steps=0)
    return {
        "egrl": whole,
        "ea_only": replace(whole, learner=idle, screen=1, rollouts=0, rank="measured"),
        "ea_only, critic ranks": replace(whole, learner=ranks, screen=1, rollouts=0),
        "pg_only": replace(
            whole, **alone, rollouts=20, rank="measured", learner=replace(whole.learner, actor_steps=10)
        ),
    }


def agents(env: egrl.Environment, cell: Cell) -> dict[str, Callable[[jax.Array, egrl.Environment], Any]]:
    """name -> (key, env) -> exact latency of the answer after each of MARKS evaluations."""
    made: dict[str, Callable[..., Any]] = {}
    noisy = cell.cost == "noise"
    for name, config in configs(env.allowed.shape[-1], cell.cost).items():
        if noisy or name != "ea_only, critic ranks":
            made[name] = partial(egrl_agent, config, noisy and config.rank == "measured")
    rules = baselines.rules(env)
    config, known = configs(env.allowed.shape[-1], cell.cost)["egrl"], np.stack(list(rules.values()))
    if cell.cost != "linear":
        made["egrl, from rules"] = partial(egrl_agent, config, False, known=jnp.asarray(known))
    if cell.cost == "contention":
        solved = hw.optimal_placement(env.problem, 120.0).placement[None]
        both = jnp.asarray(np.concatenate([known, solved]).astype(np.int32))
        made["egrl, from rules and solver"] = partial(egrl_agent, config, False, known=both)
    seeds = jnp.asarray(np.stack(list(rules.values())))
    searches = {
        name: search for name, search in baselines.SEARCHES.items() if name not in baselines.STRATEGIES
    }
    # The rule itself: acting by the density start is not quite it.
    searches["local_search"] = partial(baselines.local_search, start=jnp.asarray(rules["density"]))
    searches["ea_direct, from rules"] = partial(
        baselines.ea_direct, config=baselines.EADirectConfig(start="rules"), seeds=seeds
    )
    # A full covariance of ResNet-101's 648 logits takes minutes a seed.
    for name in ("SNES", "Sep_CMA_ES", "DifferentialEvolution", "CMA_ES")[
        : 4 if len(env.allowed) < 64 else 3
    ]:
        searches[name] = partial(baselines.evosax_search, name=name, acting="margins", start="density")
    made |= {name: partial(_search, search, noisy) for name, search in searches.items()}
    made["pg_only"] = made.pop("pg_only")  # slow: last
    if QUICK:
        return {name: made[name] for name in ("egrl", "ea_direct", "ea_direct, from rules", "ea_margins")}
    return made if full(cell) else {name: act for name, act in made.items() if name in SHORT}


def _search(search: Callable[..., Any], settles: bool, key: jax.Array, env: egrl.Environment) -> jax.Array:
    budget = BUDGET - SETTLED * baselines.course.SHORTLIST * settles
    k_search, k_settle = jax.random.split(key)
    course = search(k_search, env, budget)
    exact_s = course.exact_s[jnp.minimum(jnp.asarray(MARKS), budget) - 1]
    return settled(k_settle, env, exact_s, course.shortlist) if settles else exact_s


def white_box(env: egrl.Environment) -> dict[str, Any]:
    """What knows the chip: the bound, and descent with as many roundings as there are evaluations."""
    optimum = hw.optimal_placement(env.problem, 30.0 if QUICK else 120.0)
    config = hw.GradientConfig(steps=BUDGET // 16 * 10, restarts=16, round_every=10)
    start = time.monotonic()
    found = [baselines.gradient(jax.random.key(seed), env, config) for seed in range(SEEDS)]
    placements = {**baselines.rules(env), "solver": optimum.placement}
    exact_s = {name: float(egrl.exact_latency(env, jnp.asarray(p))) for name, p in placements.items()}
    return {
        "bound_s": optimum.lower_bound_s,
        "solver_s": exact_s.pop("solver"),
        "solver_seconds": round(optimum.seconds, 1),
        "status": optimum.status,
        "gradient_s": [one.latency_s for one in found],
        "gradient_evaluations": found[0].evaluations,
        "gradient_seconds": round((time.monotonic() - start) / SEEDS, 2),
        "rules_s": exact_s,
    }


def main() -> None:
    start, missing = time.monotonic(), []
    kept = Kept("egrl_table", {**SETTINGS, "configs": repr(configs(3, "noise"))})
    rows: dict[str, Any] = {}
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    for cell in cells()[part::parts]:
        name = f"{cell.name}, white box"
        if name not in kept.done and time.monotonic() - start > LIMIT_S:
            missing.append(f"{cell.name}, all")
            continue
        env = cell.environment()
        if name not in kept.done:
            kept.add(name, white_box(env))
        bound_s, status = best_bound(kept, cell)
        known = {**kept.done[name], "bound_s": bound_s, "status": status}
        latencies, seconds = {}, {}
        for agent, act in agents(env, cell).items():
            name = f"{cell.name}, {agent}"
            if name not in kept.done:
                if time.monotonic() - start > LIMIT_S:
                    missing.append(name)
                    continue
                kept.add(name, run(act, env))
                jax.clear_caches()
                say(f"{name}: {[f'{row[-1] * 1e6:.2f}' for row in kept.done[name]['latency_s']]} us")
            latencies[agent] = np.array(kept.done[name]["latency_s"])
            seconds[agent] = kept.done[name]["seconds"]
        rows[cell.name] = row(cell, known, latencies, seconds)
    if parts > 1:
        return
    finish("egrl_table", {**summary(rows), "cells": rows, "missing": missing, "complete": not missing})


def best_bound(kept: Kept, cell: Cell) -> tuple[float, str]:
    """The highest bound proven for the cell's problem, which all costs share, and the solver's status then.

    Where the machine was busy the solver may have run out of time in one of the cells.
    """
    names = [f"{cell._replace(cost=cost).name}, white box" for cost in COSTS]
    known = [kept.done[name] for name in names if name in kept.done]
    best = max(known, key=lambda found: found["bound_s"])
    return best["bound_s"], best["status"]


def row(cell: Cell, known: dict[str, Any], latencies: dict[str, np.ndarray], seconds: Any) -> dict[str, Any]:
    """Gaps of one cell: mean and interval over seeds at the end, means at the marks before.

    With noise, agents that settle their answer at the end have no answer to compare before.
    """
    bound = known["bound_s"]
    settles = {agent: cell.cost == "noise" and agent not in BY_CRITIC for agent in latencies}
    gaps = {agent: found / bound - 1 for agent, found in latencies.items()}
    return {
        "bound_s": bound,
        "agents": {
            agent: {
                "gap": interval(gap[:, -1]),
                "gap_at": {
                    str(mark): float(mean)
                    for mark, mean in zip(MARKS, gap.mean(0), strict=True)
                    if mark == MARKS[-1] or not settles[agent]
                },
                "speedup_over_rules": {
                    rule: float((s / latencies[agent][:, -1]).mean()) for rule, s in known["rules_s"].items()
                },
                "seconds": seconds[agent],
            }
            for agent, gap in gaps.items()
        },
        "rules_gap": {rule: s / bound - 1 for rule, s in known["rules_s"].items()},
        "white_box": {
            "gradient_gap": interval(np.array(known["gradient_s"]) / bound - 1),
            "gradient_evaluations": known["gradient_evaluations"],
            "gradient_seconds": known["gradient_seconds"],
            "solver_gap": known["solver_s"] / bound - 1,
            "solver_seconds": known["solver_seconds"],
            "status": known["status"],
        },
    }


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """The keys of the issue, over the cells that have EGRL's row."""
    done = {name: found for name, found in rows.items() if "egrl" in found["agents"]}
    linear = [f["agents"]["egrl"]["gap"]["mean"] for name, f in done.items() if name.endswith("linear")]
    # Below 1e-6 two placements are equally good: HiGHS's own tolerance, and float32's.
    means = {name: {a: one["gap"]["mean"] for a, one in f["agents"].items()} for name, f in done.items()}
    beats = {
        rival: {name: mean["egrl"] <= mean[rival] + 1e-6 for name, mean in means.items() if rival in mean}
        for rival in ("ea_direct", "ea_direct, from rules")
    }
    with_rules = {
        name: mean["egrl, from rules"] <= mean["ea_direct, from rules"] + 1e-6
        for name, mean in means.items()
        if "egrl, from rules" in mean
    }
    others = {name: min((gap, a) for a, gap in mean.items() if rivals(a)) for name, mean in means.items()}
    return {
        "settings": SETTINGS,
        "max_gap_egrl": max(linear) if linear else None,
        "egrl_beats_ea_direct": all(beats["ea_direct"].values()) if done else None,
        "egrl_beats_ea_direct_from_rules": beats["ea_direct, from rules"],
        "egrl_from_rules_beats_ea_direct_from_rules": with_rules,
        "egrl_is_first": {
            name: done[name]["agents"]["egrl"]["gap"]["mean"] <= best + 1e-6
            for name, (best, _) in others.items()
        },
        "best_rival": {name: {"agent": agent, "gap": best} for name, (best, agent) in others.items()},
    }


def rivals(agent: str) -> bool:
    """Whether an agent is another than EGRL."""
    return not agent.startswith("egrl")


if __name__ == "__main__":
    main()
