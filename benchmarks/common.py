"""What all benchmarks share: the machine, timing side by side, intervals, and the last line of JSON."""

import datetime
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

QUICK = os.environ.get("QUICK", "") not in ("", "0")
RESULTS = Path(__file__).parent / "results"


def say(line: str) -> None:
    """Progress goes to stderr; stdout ends with the JSON."""
    print(line, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on, without names of hosts or places."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().split("\n") if "model name" in line
        ]
        model = lines[0] if lines else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def peak_gib() -> float:
    """Most memory that this process held at once.

    From the kernel's table where there is one: rusage also counts what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(lines[0].split()[1]) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def time_side_by_side(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each run in each round, the runs taking turns so that noise meets all of them alike.

    Every run is called once before, which compiles it.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}


def interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Mean and 95 % interval (Student's t) over seeds."""
    from scipy import stats

    data = np.asarray(values, np.float64)
    half = stats.t.ppf(0.975, len(data) - 1) * data.std(ddof=1) / math.sqrt(len(data))
    return {"mean": float(data.mean()), "low": float(data.mean() - half), "high": float(data.mean() + half)}


def _git(*words: str) -> str:
    """What git says here; nothing where there is no repository."""
    here = Path(__file__).parent
    return subprocess.run(["git", *words], capture_output=True, text=True, cwd=here).stdout.strip()


def finish(name: str, result: Mapping[str, Any], *, store: bool = True) -> None:
    """Stores a full run under results/ and prints the one JSON object, last."""
    commit = _git("rev-parse", "--short", "HEAD")
    if commit and _git("status", "--porcelain", "--", ":/*.py"):
        commit += "+changes"
    record = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "quick": QUICK,
        "commit": commit or None,
        "machine": machine(),
        **result,
    }
    if store and not QUICK:
        RESULTS.mkdir(exist_ok=True)
        suffix = "" if jax.default_backend() == "cpu" else f"_{record['machine']['device'].replace(' ', '_')}"
        (RESULTS / f"{name}{suffix}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))
