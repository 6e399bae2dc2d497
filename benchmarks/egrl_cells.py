"""What the tables of EGRL share: cells, budgets, and how one agent's runs are scored."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import egrljax as egrl
import hwmodel as hw
from egrljax import baselines

from .common import QUICK

BUDGET, SEEDS = (1_000, 2) if QUICK else (4_000, 5)
MARKS = [mark for mark in (250, 500, 1_000, 2_000, 4_000) if mark <= BUDGET]
NOISE, CONTENTION = 0.05, 4.0
SETTLED = 20  # measurements of each of a shortlist, with noise
# The chip states no compute rate; 100 Gop/s is ours, for an accelerator beside its memories.
ACCELERATOR = hw.Rate(8, 8, 1e11)
SETTINGS = {"budget": BUDGET, "seeds": SEEDS, "noise": NOISE, "contention": CONTENTION, "settled": SETTLED}
COSTS = {"linear": {}, "noise": {"noise": NOISE}, "contention": {"contention": CONTENTION}}


class Cell(NamedTuple):
    network: str
    chip: str
    cost: str

    @property
    def name(self) -> str:
        return f"{self.network}, {self.chip}, {self.cost}"

    def bits(self) -> hw.Bits:
        """8; BERT's weights at 8 bits exceed the imxrt1170's 64 MiB, so 4 there."""
        return hw.Bits(4, 8, 8) if self.network == "bert_base" and self.chip == "imxrt1170" else hw.INT8

    def environment(self) -> egrl.Environment:
        work = hw.zoo.by_name(self.network)
        compute = [ACCELERATOR] if self.chip == "imxrt1170" else None
        chip = hw.load_chip(self.chip, compute, warn=False)
        return egrl.environment(work, chip, bits=self.bits(), **COSTS[self.cost])


def egrl_agent(
    config: egrl.EGRLConfig,
    settles: bool,
    key: jax.Array,
    env: egrl.Environment,
    known: jax.Array | None = None,
) -> jax.Array:
    """Exact latency of EGRL's answer after each of MARKS evaluations.

    Args:
        known: placements (S, N, 2) that it starts from as well; measuring them is part of the budget.
    """
    before = 0 if known is None else len(known)
    spare = SETTLED * baselines.course.SHORTLIST if settles else 0
    config = replace(config, budget=BUDGET - before - spare)
    algo = egrl.egrl(config, env.graph.nodes.shape[1])
    k_run, k_settle = jax.random.split(key)
    state = algo.init(k_run, env)
    if known is not None:
        k_known = jax.random.fold_in(k_settle, BUDGET)
        state = algo.know(state, env, known, egrl.measure(k_known, env, known).latency_s)
    state, metrics = egrl.run_chunk(algo, env, state, config.generations)
    # The last generation that is wholly within each mark.
    rows = jnp.stack([jnp.maximum(jnp.sum(metrics.measured + before <= m) - 1, 0) for m in MARKS])
    exact_s = egrl.exact_latency(env, metrics.answer[rows].astype(jnp.int32))
    if not settles:
        return exact_s
    seen = state.replay
    measured_s = jnp.where(seen.speedup > 0, env.reference_s / seen.speedup, jnp.inf)
    return settled(k_settle, env, exact_s, baselines.shortlist(measured_s, seen.placement))


def settled(key: jax.Array, env: egrl.Environment, exact_s: jax.Array, placements: jax.Array) -> jax.Array:
    """At the last mark the answer is the shortlist's best by repeated measurements."""
    answer = baselines.settle(key, env, placements, SETTLED)
    return exact_s.at[-1].set(egrl.exact_latency(env, answer))


def run(agent: Callable[..., Any], env: egrl.Environment) -> dict[str, Any]:
    """Latencies of all seeds at all marks, and the time of one seed, after the first has compiled it."""
    compiled, rows, seconds = jax.jit(agent), [], []
    for seed in range(SEEDS):
        start = time.monotonic()
        rows.append(np.asarray(compiled(jax.random.key(seed), env)).astype(float).tolist())
        seconds.append(time.monotonic() - start)
    return {"latency_s": rows, "seconds": round(min(seconds), 2), "first_seconds": round(seconds[0], 1)}
