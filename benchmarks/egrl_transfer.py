"""What a policy trained on some networks is worth on others: zero-shot, best of 16 draws, after 200 maps.

Rows are training sets, columns the three networks of egrl_table on their hardest chips:
  NAME            that network alone
  all but NAME    the two others
  all three       the three themselves: amortised, not transfer
  other chip      the three networks, each on the other chip
  strangers       MobileNet-V2, EfficientNet-Lite0, ResNeXt-101 and random networks, none of the three
Every row trains on as many maps, however many cases share them, and so for fewer generations where there are
more: `generations` says how many.

  untrained       nothing: what the start alone is worth, which all policies share
Zero-shot is the policy's map without chance, nothing measured on the target; with 16 draws, the best of it
and 16 that are drawn; after 200 is EGRL that starts from the policy, beside EGRL that starts anew. The
density rule measures nothing and knows the chip's data sheet, which the start reads, too.

`forward_ms_376` is one forward pass, and with the placement made of its logits, for BERT with 376 operations.
Runs are kept; TABLE_LIMIT_S ends it early.
"""

import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import egrljax as egrl
import hwmodel as hw

from .common import QUICK, finish, interval, say, time_side_by_side
from .kept import Kept

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))
SEEDS, TRAINING, TUNED = (2, 200, 100) if QUICK else (5, 2_000, 200)  # TRAINING: maps, of all cases together
DRAWS = 16
TARGETS = {"resnet50": "nnp_i_tight", "resnet101": "nnp_i_paperstyle", "bert_base": "nnp_i_tight"}
OTHER = {"nnp_i_tight": "nnp_i_paperstyle", "nnp_i_paperstyle": "nnp_i_tight"}
SETTINGS = {"seeds": SEEDS, "training_maps": TRAINING, "fine_tuning": TUNED, "draws": DRAWS}
Case = tuple[hw.Workload, hw.Chip]


def case(name: str, chip: str) -> Case:
    return hw.zoo.by_name(name), hw.load_chip(chip, warn=False)


def training_sets() -> dict[str, list[Case]]:
    three = {name: case(name, chip) for name, chip in TARGETS.items()}
    drawn = [
        hw.random_workload(seed, 60, weight_elems=(1_000, 3_000_000), output_elems=(20_000, 2_000_000))
        for seed in (1, 2)
    ]
    strangers = [case(name, chip) for name in ("mobilenet_v2", "efficientnet_lite0") for chip in OTHER]
    strangers += [case("resnext101_32x8d", chip) for chip in OTHER]
    strangers += [(work, hw.load_chip("nnp_i_paperstyle", warn=False)) for work in drawn]
    made = {name: [one] for name, one in three.items()}
    made |= {f"all but {name}": [c for other, c in three.items() if other != name] for name in three}
    made["all three"] = list(three.values())
    made["other chip"] = [case(name, OTHER[chip]) for name, chip in TARGETS.items()]
    made["strangers"] = strangers
    return {name: made[name] for name in ("resnet50", "strangers")} if QUICK else made


def bound_of(kept: Kept, name: str, env: egrl.Environment) -> dict[str, Any]:
    """Of HiGHS, asked once."""
    key = f"bound, {name}"
    if key not in kept.done:
        found = hw.optimal_placement(env.problem, 300.0)
        kept.add(key, {"bound_s": found.lower_bound_s, "status": found.status})
    return kept.done[key]


@partial(jax.jit, static_argnames="algo")
def tuned_from(algo: egrl.EGRL, key: jax.Array, env: egrl.Environment, actor: Any) -> jax.Array:
    """Exact latency of EGRL's answer after TUNED maps."""
    _, metrics = egrl.run_chunk(algo, env, algo.init(key, env, actor), algo.config.generations)
    return egrl.exact_latency(env, metrics.answer[-1].astype(jnp.int32))


def evaluated(policy: egrl.TrainedPolicy, seed: int, env: egrl.Environment) -> dict[str, float]:
    """Exact latencies of what the policy leads to on one target."""
    k_draw, k_tune = jax.random.split(jax.random.key(1_000 + seed))
    config = replace(egrl.tuned(), budget=TUNED, policy=policy.policy)
    algo = egrl.egrl(config, policy.features)
    draws = egrl.exact_latency(env, policy.draw(k_draw, env, DRAWS))
    seconds = {
        "zero_shot": egrl.exact_latency(env, policy.propose(env)),
        "best_draw": jnp.min(draws),
        "tuned": tuned_from(algo, k_tune, env, jnp.asarray(policy.vector)),
    }
    return {name: float(value) for name, value in seconds.items()}


def anew(seed: int, env: egrl.Environment) -> float:
    algo = egrl.egrl(replace(egrl.tuned(), budget=TUNED), env.graph.nodes.shape[1])
    return float(tuned_from(algo, jax.random.key(2_000 + seed), env, None))


def untrained(env: egrl.Environment) -> float:
    """The start without a policy, acting without chance."""
    return float(egrl.exact_latency(env, egrl.act_greedily(env, egrl.start_logits(env)[None])[0]))


def forward_ms() -> dict[str, float]:
    work, chip = hw.zoo.bert_base(granularity="fine"), hw.load_chip("nnp_i_tight", warn=False)
    env = egrl.environment(work, chip)
    algo = egrl.egrl(egrl.tuned(), env.graph.nodes.shape[1])
    first = jax.jit(algo.init)(jax.random.key(0), env).population.policies[0]
    policy = egrl.TrainedPolicy(np.asarray(first), algo.config.policy, algo.features)
    runs = {"forward": lambda: policy.logits(env), "placement": lambda: policy.propose(env)}
    return {
        name: 1e3 * float(np.median(s)) for name, s in time_side_by_side(runs, 20 if QUICK else 100).items()
    }


def main() -> None:
    start, missing = time.monotonic(), []
    kept = Kept("egrl_transfer", {**SETTINGS, "configs": repr((egrl.shared_config(), egrl.tuned()))})
    names = ["resnet50"] if QUICK else list(TARGETS)
    envs = {name: egrl.environment(*case(name, TARGETS[name])) for name in names}
    bounds = {name: bound_of(kept, name, env) for name, env in envs.items()}
    for name, env in envs.items():
        if f"anew, {name}" not in kept.done:
            kept.add(f"anew, {name}", [anew(seed, env) for seed in range(SEEDS)])
    rows: dict[str, Any] = {}
    for row, cases in training_sets().items():
        found: list[dict[str, Any]] = []
        for seed in range(SEEDS):
            key = f"{row}, seed {seed}"
            if key not in kept.done:
                if time.monotonic() - start > LIMIT_S:
                    missing.append(key)
                    continue
                config = egrl.shared_config(3, TRAINING)
                policy = egrl.train_policy(jax.random.key(seed), cases, config=config)
                values = {name: evaluated(policy, seed, envs[name]) for name in names}
                kept.add(key, values)
                say(f"{key}: " + ", ".join(f"{n} {1e6 * v['zero_shot']:.2f} us" for n, v in values.items()))
            found.append(kept.done[key])
        if len(found) > 1:
            config = egrl.shared_config(3, TRAINING)
            each = len(cases) * (config.policies - config.policy_elites + config.rollouts)
            rows[row] = {
                "generations": TRAINING // each,
                **{n: gaps_of([one[n] for one in found], bounds[n]["bound_s"]) for n in names},
            }
    others = {
        "density": {
            name: float(egrl.exact_latency(env, jnp.asarray(hw.density(env.problem))))
            for name, env in envs.items()
        },
        "untrained": {name: untrained(env) for name, env in envs.items()},
    }
    finish(
        "egrl_transfer",
        {
            "settings": SETTINGS,
            "forward_ms_376": forward_ms(),
            "rows": rows,
            "bounds": bounds,
            "anew": {
                name: interval(np.array(kept.done[f"anew, {name}"]) / bounds[name]["bound_s"] - 1)
                for name in names
            },
            **{
                what: {name: seconds / bounds[name]["bound_s"] - 1 for name, seconds in each.items()}
                for what, each in others.items()
            },
            "missing": missing,
            "complete": not missing,
        },
    )


def gaps_of(found: list[dict[str, float]], bound_s: float) -> dict[str, Any]:
    """Over seeds, of one training set on one target."""
    zero, draw, tuned = (
        np.array([one[what] for one in found]) for what in ("zero_shot", "best_draw", "tuned")
    )
    answers = {"zero_shot": zero, "with_16_draws": np.minimum(zero, draw), "tuned": tuned}
    return {what: interval(seconds / bound_s - 1) for what, seconds in answers.items()}


if __name__ == "__main__":
    main()
