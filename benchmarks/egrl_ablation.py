"""EGRL with one part taken out or put back at a time: what each is worth.

ResNet-50 on nnp_i_tight, linear cost; the preset of egrl_table beside it, same budget, same seeds. Variants
are of the method (no Boltzmann chromosomes, no seeding, no policy gradient, no migration, GCN for the Graph
U-Net, ...), of the learner (graph critic, descent through the known model), and of what is ours (acting by
margins, screening, the density start). Gaps are to the bound that HiGHS proves.

Runs are kept. TABLE_LIMIT_S ends it early; TABLE_PART=0/2 runs every second variant.
"""

import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

import egrljax as egrl
import hwmodel as hw

from .common import QUICK, finish, interval, say
from .egrl_cells import BUDGET, MARKS, SETTINGS, Cell, egrl_agent, run
from .kept import Kept

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))
CELL = Cell("resnet50", "nnp_i_tight", "linear")


def variants() -> dict[str, egrl.EGRLConfig]:
    base = replace(egrl.tuned(), budget=BUDGET)
    learner, shape = base.learner, base.policy
    alone = {"screen": 1, "rollouts": 0}
    made = {
        "tuned": base,
        "no Boltzmann": replace(base, policies=80, policy_elites=60, chromosomes=0, chromosome_elites=0),
        "no policies": replace(base, policies=0, policy_elites=0, chromosomes=80, chromosome_elites=60),
        "no seeding": replace(base, seed_every=0),
        "no cross-type crossover": replace(base, cross_type=0.0),
        "no policy gradient": replace(base, learner=replace(learner, actor_steps=0), rollouts=0),
        "no learner at all": replace(base, **alone, learner=replace(learner, critic_steps=0, actor_steps=0)),
        "no migration": replace(base, migrate_every=0),
        "no screening": replace(base, screen=1),
        "GCN for the U-Net": replace(base, policy=replace(shape, block="gcn")),
        "no graph (MLP)": replace(base, policy=replace(shape, block="mlp")),
        "gradient learner (knows the chip)": replace(base, learner=replace(learner, critic="model")),
        "graph critic": replace(base, learner=replace(learner, critic="graph", critic_rate=1e-3)),
        "acting by levels": replace(base, acting="levels"),
        "start: all in DRAM": replace(base, start="backing"),
    }
    if QUICK:
        return {name: made[name] for name in ("tuned", "no policy gradient")}
    return made


def main() -> None:
    start, missing = time.monotonic(), []
    settings = {**SETTINGS, "configs": repr(variants())}
    kept = Kept("egrl_ablation", settings)
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    env = CELL.environment()
    bound = hw.optimal_placement(env.problem, 60.0).lower_bound_s
    gaps: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for name, config in list(variants().items())[part::parts]:
        if name not in kept.done:
            if time.monotonic() - start > LIMIT_S:
                missing.append(name)
                continue
            kept.add(name, run(partial(egrl_agent, config, False), env))
            jax.clear_caches()
        gaps[name] = np.array(kept.done[name]["latency_s"]) / bound - 1
        seconds[name] = kept.done[name]["seconds"]
        say(f"{name}: {(100 * gaps[name].mean(0)).round(3).tolist()} % after {MARKS}")
    if parts == 1:
        rows = {name: row(gap, gaps.get("tuned"), seconds[name]) for name, gap in gaps.items()}
        finish(
            "egrl_ablation",
            {
                "settings": settings,
                "cell": CELL.name,
                "rows": rows,
                "missing": missing,
                "complete": not missing,
                "runs": kept.done,
            },
        )


def row(gap: np.ndarray, base: np.ndarray | None, seconds: float) -> dict[str, Any]:
    """Gaps over seeds at the end, means at the marks, and what it costs against the preset, seed by seed."""
    marks = list(map(str, MARKS))
    found = {
        "gap": interval(gap[:, -1]),
        "gap_at": dict(zip(marks, gap.mean(0).tolist(), strict=True)),
        "seconds": seconds,
    }
    if base is not None:
        found["over_tuned_at"] = {m: interval(gap[:, i] - base[:, i]) for i, m in enumerate(marks)}
    return found


if __name__ == "__main__":
    main()
