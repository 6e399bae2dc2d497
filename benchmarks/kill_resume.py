"""Runs killed at random moments and resumed: `make bench NAME=kill_resume`; QUICK=1: 5 kills.

Every run of kill_resume_runs.py is carried out once to its end, for its result. Then processes of it are
killed by SIGKILL, half of them at a moment drawn uniformly from the time that a run takes, half of them
while a checkpoint is being written (the file beside it is there), one after the other on the same
checkpoint, and the last one runs to its end. `identical` counts the kills behind which the result was that
of the uninterrupted run, bit for bit: it must equal `kills`. hwmodel has nothing to resume.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import QUICK, finish, say

KILLS = 5 if QUICK else 100
CHAIN = 5  # kills of one run at most
WORKERS = 2
LONGEST_S = 900.0
NAMES = (
    "nemojax.search",
    "egrljax.place",
    "egrljax.train_policy",
    "fewshotjax.train_head",
    "fewshotjax.train_delta",
    "fewshotjax.train",
    "fewshotjax.train_detector",
)


def main() -> None:
    """Kills and counts."""
    names = NAMES[:KILLS]
    share = [KILLS // len(names) + (i < KILLS % len(names)) for i in range(len(names))]
    with tempfile.TemporaryDirectory() as top, ThreadPoolExecutor(WORKERS) as pool:
        rows = list(pool.map(lambda pair: of_run(Path(top), *pair), zip(names, share, strict=True)))
    finish(
        "kill_resume",
        {
            "kills": sum(row["kills"] for row in rows),
            "identical": sum(row["identical"] for row in rows),
            "while_writing": sum(row["while_writing"] for row in rows),
            "resumed": sum(row["resumed"] for row in rows),
            "runs": dict(zip(names, rows, strict=True)),
        },
    )


def of_run(top: Path, name: str, kills: int) -> dict[str, Any]:
    """So many kills of one run, in chains."""
    folder = top / name
    folder.mkdir()
    began = time.monotonic()
    wanted = ended(start(folder, name, "whole"), folder / "whole.json")
    seconds = time.monotonic() - began
    rng = np.random.default_rng(sum(map(ord, name)))
    row = {"kills": 0, "identical": 0, "while_writing": 0, "resumed": 0, "seconds": round(seconds, 1)}
    chain = 0
    while row["kills"] < kills:
        own = f"chain{chain}"
        chain += 1
        killed = 0
        while killed < min(CHAIN, kills - row["kills"]):
            goes_on = (folder / f"{own}.ckpt").exists()
            how = kill(start(folder, name, own), folder, own, rng, seconds)
            if how is None:
                break  # it ended before its moment came: its result counts for those before
            killed += 1
            row["while_writing"] += how == "writing"
            row["resumed"] += goes_on
        result = folder / f"{own}.json"
        found = json.loads(result.read_text()) if result.exists() else ended(start(folder, name, own), result)
        row["resumed"] += (folder / f"{own}.ckpt").exists()
        row["kills"] += killed
        row["identical"] += killed * (found == wanted)
        if found != wanted:
            say(f"{name}: another result after {killed} kills")
    say(f"{name}: {row}")
    return row


def start(folder: Path, name: str, own: str) -> subprocess.Popen[bytes]:
    """A process of the run; programs are compiled once for all of them."""
    code = "from benchmarks.kill_resume_runs import main; main()"
    command = [sys.executable, "-c", code, name, str(folder / f"{own}.ckpt"), str(folder / f"{own}.json")]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        # Programs are small, and compiled as fast as may be: what is compared is one program with itself.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    with open(folder / f"{own}.stderr", "wb") as stderr:
        return subprocess.Popen(command, env=environment, stderr=stderr, stdout=subprocess.DEVNULL)


def ended(process: subprocess.Popen[bytes], result: Path) -> dict[str, Any]:
    """What a process gives that is left alone."""
    if process.wait(LONGEST_S):
        told = result.with_suffix(".stderr").read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{result.stem}: a run left with {process.returncode}: {told}")
    return dict(json.loads(result.read_text()))


def kill(
    process: subprocess.Popen[bytes], folder: Path, own: str, rng: np.random.Generator, seconds: float
) -> str | None:
    """SIGKILL at a moment; "writing" or "anywhere", or None if the process ended first."""
    writing = rng.random() < 0.5
    moment = time.monotonic() + float(rng.uniform(0, seconds))
    wanted, seen, last = int(rng.integers(1, 8)), 0, None
    while process.poll() is None:
        if writing:
            beside = [name for name in os.listdir(folder) if name.startswith(f".{own}.ckpt.")]
            if beside and beside[0] != last:
                seen, last = seen + 1, beside[0]
            due = seen >= wanted
        else:
            due = time.monotonic() >= moment
        if due:
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                return "writing" if writing else "anywhere"
            return None
        time.sleep(0.001)
    if process.returncode:
        told = (folder / f"{own}.stderr").read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{own}: a resumed run left with {process.returncode}: {told}")
    return None


if __name__ == "__main__":
    main()
