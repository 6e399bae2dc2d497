"""One process of test_hosts.py: a small search or placement, whose outcome it prints as one line of JSON.

Arguments as JSON: address, count and index of `jax.distributed` (count 0: without), and what is searched how.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import replace

import jax
import numpy as np

import hwmodel as hw
import nemojax as nemo
from nemojax.networks import Network

wanted = json.loads(sys.argv[1])
index, count = wanted["index"], wanted["count"]
if count:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(wanted["address"], count, index, shutdown_timeout_seconds=3)
hosts = hw.Hosts(timeout_s=120) if count else None


def apply(p, x):
    hidden = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["a"] + p["bias"][None])
    return hidden @ p["b"]


def network():
    rng = np.random.default_rng(0)
    shapes = {"a": (48, 16), "bias": (16,), "b": (16, 5)}
    weights = {name: np.float32(rng.normal(size=shape) / np.sqrt(shape[0])) for name, shape in shapes.items()}
    return nemo.quantize(Network("tiny", apply, weights), np.float32(rng.normal(size=(8, 4, 4, 3))))


def error(bits):
    """On the host: it counts its calls, and may be killed in one of them."""
    asked.append(bits)
    if len(asked) > FINGERPRINT:
        calls.append(bits)
    if index == wanted.get("victim") and len(calls) == wanted["call"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(np.cos(bits.astype(np.float64)).sum() + 9)


def searched():
    task = nemo.bits_task(network(), error, host=True)
    config = nemo.NemoConfig(population=6, species=("continuous", "floor"), archive_capacity=16)
    key = jax.random.key(index if wanted.get("other_key") else 0)
    return nemo.search(
        key,
        task,
        budget=30,
        config=config,
        warm_start=None,
        hosts=hosts,
        checkpoint=wanted["checkpoint"],
        on_chunk=told.append,
        time_limit_s=wanted.get("time_limit_s"),
    )


def board(placements):
    calls.extend(placements)
    if index == wanted.get("victim") and len(calls) >= wanted["call"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1e-3 + placements.astype(np.float64).sum(axis=(1, 2)) * 1e-4


def placed():
    import egrljax as egrl  # it starts JAX, which jax.distributed must come before

    work = hw.random_workload(0, 3, weight_elems=(100, 600), output_elems=(20, 300))
    levels = tuple(hw.Level(f"l{i}", 10.0 ** (9 + i), 1e9, room) for i, room in enumerate((None, 900, 300)))
    config = replace(
        egrl.tuned(3),
        budget=30,
        policies=2,
        policy_elites=1,
        chromosomes=6,
        chromosome_elites=4,
        screen=2,
        policy=replace(egrl.tuned(3).policy, block="gcn", hidden=8, heads=2),
    )
    return egrl.place(
        jax.random.key(index if wanted.get("other_key") else 0),
        work,
        hw.Chip("small", levels, (hw.Rate(8, 8, 1e12),)),
        engine="egrl",
        config=config,
        board=board,
        every=1,
        hosts=hosts,
        checkpoint=wanted["checkpoint"],
        on_chunk=lambda *numbers: told.append(numbers),
        time_limit_s=wanted.get("time_limit_s"),
    )


FINGERPRINT = 10  # calls that tell the task from others: at its seven widths, and at three drawn
asked: list = []
calls: list = []
told: list = []
start = time.monotonic()
report = {"index": index}
try:
    found = placed() if wanted.get("board") else searched()
except hw.HostsError as failure:
    report |= {"error": str(failure)}
else:
    if wanted.get("board"):
        arrays = [found.placement, found.latency_s, found.course.evaluations, found.course.best_s]
    else:
        arrays = [found.bits, found.costs, *jax.tree.leaves(found.state)]
    digest = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest()
    report |= {"digest": digest, "results": found.evaluations if wanted.get("board") else len(found.bits)}
report |= {"calls": len(calls), "told": len(told), "seconds": time.monotonic() - start}
print(json.dumps(report), flush=True)
if "error" in report:
    os._exit(1)  # the service of jax.distributed would wait for the one that is gone
with contextlib.suppress(Exception):
    jax.distributed.shutdown()
