"""One process of test_hosts.py: a small search, whose front and state it prints as one line of JSON.

Arguments as JSON: address, count and index of `jax.distributed` (count 0: without), and what is searched how.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
import time

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
    return 1e-3 + placements.astype(np.float64).sum(axis=(1, 2)) * 1e-4


def placed():
    from egrljax import loop  # it starts JAX, which jax.distributed must come before

    maps = np.random.default_rng(0).integers(0, 3, (7, 3, 2))
    return loop.measured_by(loop._shared(board, hosts) if hosts else board, maps)


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
    arrays = (
        [found] if isinstance(found, np.ndarray) else [found.bits, found.costs, *jax.tree.leaves(found.state)]
    )
    digest = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest()
    report |= {"digest": digest, "results": len(arrays[0])}
report |= {"calls": len(calls), "told": len(told), "seconds": time.monotonic() - start}
print(json.dumps(report), flush=True)
if "error" in report:
    os._exit(1)  # the service of jax.distributed would wait for the one that is gone
with contextlib.suppress(Exception):
    jax.distributed.shutdown()
