"""One process of scaling.py: evaluates its part, counts what it sends, and prints one line of JSON."""

import hashlib
import json
import os
import sys
import time
from typing import Any

import jax
import numpy as np

import hwmodel as hw
import nemojax as nemo
from nemojax.networks import by_name

SAME = 8  # rows whose costs all runs compare


class Counted(hw.Hosts):
    """Hosts that count the bytes handed to a gather; two collectives carry each, lengths and payload."""

    sent: list[int] = []  # noqa: RUF012, one process has one

    def gather(self, payload: bytes) -> list[bytes]:
        self.sent.append(len(payload) + 4)
        return super().gather(payload)


def main(wanted: dict[str, Any]) -> None:
    os.sched_setaffinity(0, wanted["cores"])  # before XLA starts, which counts the cores for its threads
    hosts, mesh = None, None
    if wanted["kind"] == "processes":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(wanted["address"], wanted["units"], wanted["index"])
        hosts = Counted()
    else:
        mesh = jax.make_mesh((wanted["units"],), ("pop",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(wanted["images"] + 8, 32, 32, 3)).astype(np.float32)
    network = by_name("resnet20_cifar", key=jax.random.key(0), depth=wanted["depth"])
    task = nemo.fidelity(nemo.quantize(network, pixels[:8]), pixels[8:])
    evaluate = nemo.Evaluator(task, mesh=mesh, hosts=hosts)
    count = wanted["candidates"] * wanted["units"]
    rows = np.asarray(task.space.sample(jax.random.key(1), SAME + count * (wanted["generations"] + 1)))
    costs = evaluate(rows[:SAME])
    evaluate(rows[SAME : SAME + count])  # compiled, and all have begun
    start = time.perf_counter()
    for generation in range(1, wanted["generations"] + 1):
        evaluate(rows[SAME + generation * count :][:count])
    report = {
        "seconds": time.perf_counter() - start,
        "digest": hashlib.sha256(costs.tobytes()).hexdigest(),
        "evaluations": evaluate.evaluations,
    }
    if hosts is not None:
        report |= exchanged(hosts, task, wanted["population"])
    print(json.dumps(report), flush=True)


def exchanged(hosts: Counted, task: Any, population: int) -> dict[str, float]:
    """What a generation of `population` sends from here: costs of its size, and whether to end."""
    bits = np.zeros((population, task.space.size), np.int32)
    hosts.sent.clear()
    found = hosts.map(lambda own: np.zeros((len(own), len(task.objectives)), np.float32), bits)
    content = len(np.array_split(bits, hosts.count)[hosts.index]) * found[0].nbytes
    hosts.any(False)
    return {
        "bytes_sent": sum(hosts.sent),
        "header_bytes": sum(hosts.sent) - content,
        "gathers": 2 * len(hosts.sent),
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
