"""What `tuned` is worth beside settings a step away from it, on workloads that no table reports.

Two workloads stand for the rest: MobileNet-V2 on nnp_i_tight with a quarter of its SRAMs, and a random one of
60 operations. Each variant changes one setting. The key `better` names the variants whose 95 % intervals of
paired differences in the gap to the proven bound lie below 0 on every workload: reasons to change the preset,
weak ones, for many variants are looked at.
"""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import egrljax as egrl
import hwmodel as hw

from .common import QUICK, finish, interval, say
from .kept import Kept

BUDGET, SEEDS = (500, 2) if QUICK else (1_000, 5)
QUARTER = 0.25


def workloads() -> dict[str, egrl.Environment]:
    chip = hw.load_chip("nnp_i_tight", warn=False)
    small = tuple(
        level
        if level.capacity_bytes is None or number == 0
        else replace(level, capacity_bytes=int(level.capacity_bytes * QUARTER))
        for number, level in enumerate(chip.levels)
    )
    drawn = hw.random_workload(7, 60, weight_elems=(1_000, 3_000_000), output_elems=(20_000, 2_000_000))
    made = {
        "mobilenet_v2, quarter": egrl.environment(
            hw.zoo.by_name("mobilenet_v2"), replace(chip, levels=small)
        ),
        "random 60": egrl.environment(drawn, chip),
    }
    return dict(list(made.items())[:1]) if QUICK else made


def variants() -> dict[str, egrl.EGRLConfig]:
    base = replace(egrl.tuned(), budget=BUDGET)
    learner = base.learner
    made = {
        "tuned": base,
        "start_std 1": replace(base, start_std=1.0),
        "temperature 0.2": replace(base, temperature=0.2),
        "screen 1": replace(base, screen=1),
        "screen 16": replace(base, screen=16),
        "half the population": replace(
            base, policies=8, policy_elites=6, chromosomes=32, chromosome_elites=24
        ),
        "10 critic steps": replace(base, learner=replace(learner, critic_steps=10)),
        "no actor steps": replace(base, learner=replace(learner, actor_steps=0)),
        "one mutation": replace(base, rates=(("share", 0.0), ("count", 1.0), ("prior_std", 1.0))),
        "four mutations": replace(base, rates=(("share", 0.0), ("count", 4.0), ("prior_std", 1.0))),
        "acting by levels": replace(base, acting="levels"),
        "actor rate 1e-3": replace(base, learner=replace(learner, actor_rate=1e-3)),
        "actor rate 3e-4": replace(base, learner=replace(learner, actor_rate=3e-4)),
        "entropy 0.5": replace(base, learner=replace(learner, entropy=0.5)),
        "no rollouts, no actor": replace(
            base, rollouts=0, seed_every=0, learner=replace(learner, actor_steps=0)
        ),
        "no actor steps, temperature 0.2": replace(
            base, temperature=0.2, learner=replace(learner, actor_steps=0)
        ),
    }
    return dict(list(made.items())[:2]) if QUICK else made


def gaps_of(env: egrl.Environment, config: egrl.EGRLConfig, bound_s: float) -> list[float]:
    algo = egrl.egrl(config, env.graph.nodes.shape[1])

    @jax.jit
    def run(key: jax.Array, env: egrl.Environment) -> jax.Array:
        _, metrics = egrl.run_chunk(algo, env, algo.init(key, env), config.generations)
        return egrl.exact_latency(env, metrics.answer[-1].astype(jnp.int32))

    return [float(run(jax.random.key(100 + seed), env)) / bound_s - 1 for seed in range(SEEDS)]


def main() -> None:
    part, parts = map(int, os.environ.get("TABLE_PART", "0/1").split("/"))
    chosen = dict(list(workloads().items())[part::parts])
    kept = Kept("egrl_sweep", {"budget": BUDGET, "seeds": SEEDS, "configs": repr(variants())})
    gaps: dict[str, dict[str, list[float]]] = {name: {} for name in variants()}
    for work, env in chosen.items():
        bound = hw.optimal_placement(env.problem, 60.0).lower_bound_s
        for name, config in variants().items():
            run = f"{work}, {name}"
            gaps[name][work] = kept.done.get(run) or kept.add(run, gaps_of(env, config, bound))
            say(f"{run}: {[f'{100 * gap:.3f}' for gap in gaps[name][work]]} %")
    if parts > 1:
        return
    over = {
        name: {work: interval(np.array(each[work]) - np.array(gaps["tuned"][work])) for work in chosen}
        for name, each in gaps.items()
        if name != "tuned"
    }
    finish(
        "egrl_sweep",
        {
            "settings": {"budget": BUDGET, "seeds": SEEDS},
            "better": [
                name for name, found in over.items() if all(one["high"] < 0 for one in found.values())
            ],
            "over_tuned": over,
            "gaps": gaps,
        },
    )


if __name__ == "__main__":
    main()
