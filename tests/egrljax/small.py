"""A small workload, chip and configuration for the tests of EGRL."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

import egrljax as egrl
import hwmodel as hw


def small_chip(capacity=(900, 300)):
    names, speeds = ("dram", "llc", "sram", "tcm"), (1e9, 1e10, 1e11, 1e12)
    rooms = (None, *capacity)
    levels = tuple(
        hw.Level(name, speed, speed, room) for name, speed, room in zip(names, speeds, rooms, strict=False)
    )
    return hw.Chip("small", levels, (hw.Rate(8, 8, 1e12),))


def small_work(seed=20, nodes=5):
    """With the defaults the start is 22 % above the optimum, and 150 draws about it do not find it."""
    return hw.random_workload(seed, nodes, weight_elems=(100, 600), output_elems=(20, 300))


def brute_force(env):
    """The lowest exact latency of all maps of a few operations."""
    n, _, levels = env.allowed.shape
    maps = np.stack(np.unravel_index(np.arange(levels ** (2 * n)), (levels,) * (2 * n)), axis=1)
    maps = maps.reshape(-1, n, 2).astype(np.int32)
    return float(jnp.min(egrl.exact_latency(env, jnp.asarray(maps))))


def tiny(**changes):
    """`tuned`, so small that it compiles in seconds."""
    config = egrl.tuned(changes.pop("levels", 3))
    return replace(
        config,
        **{
            "budget": 200,
            "policies": 4,
            "policy_elites": 2,
            "chromosomes": 12,
            "chromosome_elites": 8,
            "screen": 2,
            "seed_every": 3,
            "policy": replace(config.policy, block="gcn", hidden=8, heads=2),
            "learner": replace(config.learner, critic_steps=4, actor_steps=1, batch=16, samples=2),
            **changes,
        },
    )


def algorithm(config, env):
    return egrl.egrl(config, env.graph.nodes.shape[1])
