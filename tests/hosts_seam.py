"""One process of test_hosts.py, which has no package but hwmodel: all that Hosts can do, then one ends.

Arguments: address and count of `jax.distributed`, this process's index, the one that ends, how, timeout_s.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

import hwmodel as hw

address, (count, index, victim), how = sys.argv[1], map(int, sys.argv[2:5]), sys.argv[5]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, count, index, shutdown_timeout_seconds=3)
hosts = hw.Hosts(timeout_s=float(sys.argv[6]))
seen: list = []


def tens(rows):
    seen.append(len(rows))
    return np.stack([rows.sum(axis=1) * 10.5, rows[:, 0]], axis=1)  # float64, of which nothing is lost


def failure(call):
    try:
        return call()
    except (hw.HostsError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def fails(rows):
    raise OSError("no board")


rows = np.arange(14).reshape(7, 2) + 0.1
report = {
    "place": [hosts.index, hosts.count, hosts.first],
    "map": hosts.map(tens, rows).tolist(),
    "one": hosts.map(tens, rows[:1]).tolist(),
    "none": hosts.map(tens, rows[:0]).shape,
    "seen": seen[:],
    "any": [hosts.any(index == 1), hosts.any(False)],
    "read": (hosts.from_first(lambda: b"of 0" if index == 0 else b"of another") or b"").decode(),
    "no_file": hosts.from_first(lambda: None),
    "unread": failure(lambda: hosts.from_first(lambda: Path("/no/such/file").read_bytes())),
    "agreed": failure(lambda: hosts.agreed("key", {"key": 3, "of": "all"})),
    "key": failure(lambda: hosts.agreed("key", index)),
    "rows": failure(lambda: hosts.map(tens, rows + index)),
    "failed": failure(lambda: hosts.map(fails if index == 1 else tens, rows)),
    "short": failure(lambda: hosts.map(lambda own: own[1:] if index == 1 else own, rows)),
    "other": failure(lambda: hosts.any(True) if index else hosts.map(tens, rows)),
}
if index == victim:
    print(json.dumps(report), flush=True)
    if how == "hangs":
        time.sleep(3 * hosts.timeout_s)
    os.kill(os.getpid(), signal.SIGKILL)
start = time.monotonic()
report["gone"] = failure(lambda: hosts.map(tens, rows))
report["seconds"] = time.monotonic() - start
print(json.dumps(report), flush=True)
os._exit(0)  # the service of jax.distributed would wait for the one that is gone
