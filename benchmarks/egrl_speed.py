"""Seconds of 4,000 maps with learning: EGRL as `tuned`, and what share of it the environment takes.

Each network runs a chunk to compile, and then whole for the time, in chunks of ten generations. The
environment is timed apart, on as many batches of maps as the run has generations: rectification and latency.
"""

import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

import egrljax as egrl
import hwmodel as hw

from .common import QUICK, finish, say

BUDGET = 1_000 if QUICK else 4_000
NETWORKS = ("resnet50",) if QUICK else ("resnet50", "resnet101", "bert_base")
CHIP = "nnp_i_tight"


def measured_alone(env: egrl.Environment, config: egrl.EGRLConfig) -> float:
    """Seconds of all evaluations of a run, compiled."""
    shape = (config.generations, config.batch, *env.allowed.shape[:2])
    levels = env.allowed.shape[-1]
    # Other maps in every generation: what does not change, XLA takes out of the loop.
    maps = jax.random.randint(jax.random.key(0), shape, 0, levels, jnp.int32)

    @jax.jit
    def all_of_them(env: egrl.Environment, maps: jax.Array) -> jax.Array:
        return jax.lax.map(lambda one: egrl.measure(jax.random.key(1), env, one).latency_s, maps)

    jax.block_until_ready(all_of_them(env, maps))
    start = time.perf_counter()
    jax.block_until_ready(all_of_them(env, maps))
    return time.perf_counter() - start


def row(network: str) -> dict[str, Any]:
    fine = {"granularity": "fine"} if network == "bert_base" else {}
    env = egrl.environment(hw.zoo.by_name(network, **fine), hw.load_chip(CHIP, warn=False))
    config = replace(egrl.tuned(env.allowed.shape[-1]), budget=BUDGET)
    algo = egrl.egrl(config, jnp.asarray(env.graph.nodes).shape[1])
    start = time.perf_counter()
    state = jax.jit(algo.init)(jax.random.key(0), env)
    once, _ = egrl.run(algo, env, state, every=10, on_chunk=lambda *_: "stop")
    jax.block_until_ready(once)
    first = time.perf_counter() - start
    start = time.perf_counter()
    done, _ = egrl.run(algo, env, state, every=10)
    jax.block_until_ready(done)
    seconds = time.perf_counter() - start
    alone = measured_alone(env, config)
    found = {
        "operations": int(env.problem.mask.sum()),
        "seconds": round(seconds, 1),
        "maps_per_s": round(BUDGET / seconds, 1),
        "seconds_until_the_first_chunk": round(first, 1),
        "environment_share": alone / seconds,
        "best_us": float(done.best_s) * 1e6,
    }
    say(f"{network}: {found}")
    return found


def main() -> None:
    rows = {network: row(network) for network in NETWORKS}
    finish(
        "egrl_speed",
        {
            "budget": BUDGET,
            "chip": CHIP,
            f"seconds_{BUDGET}": rows["resnet50"]["seconds"],
            "worst_environment_share": max(found["environment_share"] for found in rows.values()),
            "networks": rows,
        },
    )


if __name__ == "__main__":
    main()
