"""Garbage for every reader and every constructor: `make bench NAME=fuzz`, QUICK=1 for a few cases of each.

10,000 cases of each target, drawn from a key, so that a finding is a target and a number: `python -m
benchmarks.fuzz TARGET NUMBER` runs it again and shows where it leaves. Cases run in child processes with
bounded memory and time. Anything but the target's documented errors is a crash, and so is a signal; inputs
of findings are kept under benchmarks/kept/fuzz.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_child import SLOW_S
from benchmarks.fuzz_target import TARGETS, Target

SEED = 0
CASES, QUICK_CASES = 10_000, 4
WORKERS = 2
KEPT = Path(__file__).parent / "kept" / "fuzz"


def targets() -> dict[str, Target]:
    """All of them by name: readers first."""
    import benchmarks.fuzz_fewshotjax
    import benchmarks.fuzz_hwmodel
    import benchmarks.fuzz_nemojax  # noqa: F401
    from benchmarks.fuzz_constructors import constructors, target

    made = [target(name, cls) for name, cls in constructors()]
    return {**TARGETS, **{one.name: one for one in made}}


def main() -> None:
    """Runs all, or one case of one target."""
    if len(sys.argv) == 3:
        again(sys.argv[1], int(sys.argv[2]))
        return
    from benchmarks.common import QUICK, finish, say

    wanted = os.environ.get("FUZZ", "")  # a part of targets' names
    cases = int(os.environ.get("CASES", QUICK_CASES if QUICK else CASES))
    work = [[name, 0, cases] for name in targets() if wanted in name]
    readers = [one for one in work if not one[0].startswith("make ")]
    made = [one for one in work if one[0].startswith("make ")]
    # A reader has a process of its own; constructors, which take microseconds, share a few.
    parts = [[one] for one in readers] + [made[i::4] for i in range(4) if made[i::4]]
    if QUICK:
        parts = [work[i::WORKERS] for i in range(WORKERS)]
    lines: list[dict[str, Any]] = []
    shutil.rmtree(KEPT, ignore_errors=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        for part, found in zip(parts, pool.map(run_part, parts), strict=True):
            lines += found
            for line in found:
                if line["kind"] != "done":
                    where = f"{line['target']} {line.get('case', '')}"
                    say(f"{line['kind']}: {where}: {line['told'].strip().splitlines()[-1][:200]}")
            say(f"{', '.join(name for name, *_ in part)[:100]}: done")
    counts = Counter(line["kind"] for line in lines)
    done = [line for line in lines if line["kind"] == "done"]
    rows = {
        name: {
            key: round(sum(line[key] for line in done if line["target"] == name), 2)
            for key in ("cases", "taken", "refused", "seconds")
        }
        for name in dict.fromkeys(line["target"] for line in done)
    }
    finish(
        "fuzz",
        {
            "cases": sum(row["cases"] for row in rows.values()),
            "crashes": counts["crash"] + counts["memory"],
            "hangs": counts["hang"],
            "memory": counts["memory"],
            "untidy": counts["untidy"],
            "targets": rows,
        },
        store=not wanted and "CASES" not in os.environ,
    )


def run_part(work: list[list[Any]]) -> list[dict[str, Any]]:
    """What child processes find; one that dies is a finding, and the next goes on behind that case."""
    lines: list[dict[str, Any]] = []
    left = [list(one) for one in work]
    while left:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            reason = _run_child(folder, left)
            log = folder / "log.jsonl"
            told = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            lines += told
            if (folder / "kept").exists():
                KEPT.mkdir(parents=True, exist_ok=True)
                for file in (folder / "kept").iterdir():
                    shutil.copy(file, KEPT)
            finished = [line["target"] for line in told if line["kind"] == "done"]
            left = [one for one in left if one[0] not in finished]
            if not left:
                break
            at = (folder / "at").read_text() if (folder / "at").exists() else ""
            target, number = json.loads(at) if at.strip() else (left[0][0], left[0][1])
            if target in finished:  # it died between two targets, while it made the next one's seeds
                target, number = left[0][0], left[0][2] - 1
            kind = "hang" if reason == "silent" else "crash"
            lines.append({"kind": kind, "target": target, "case": number, "told": f"the process: {reason}"})
            first = next(one for one in left if one[0] == target)
            lines.append(
                {
                    "kind": "done",
                    "target": target,
                    "cases": number + 1 - first[1],
                    "taken": 0,
                    "refused": 0,
                    "seconds": 0,
                }
            )
            first[1] = number + 1
            left = [one for one in left if one[1] < one[2]]
    return lines


def _run_child(folder: Path, work: list[list[Any]]) -> str:
    """Runs one until it ends, or says nothing for too long; returns how it ended."""
    code = "from benchmarks.fuzz_child import main; main()"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "faulthandler", "-c", code, str(folder), str(SEED), json.dumps(work)]
    with open(folder / "stderr", "wb") as stderr:
        child = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL, env=environment)
        seen, since = "", time.monotonic()
        while child.poll() is None:
            time.sleep(0.2)
            at = (folder / "at").read_text() if (folder / "at").exists() else ""
            if at != seen:
                seen, since = at, time.monotonic()
            if time.monotonic() - since > 15 * SLOW_S:
                child.kill()
                child.wait()
                return "silent"
    tail = (folder / "stderr").read_text("utf-8", "replace")[-1500:]
    return f"exit {child.returncode}: {tail}"


def again(name: str, number: int) -> None:
    """One case, its input kept, its error shown."""
    target = targets()[name]
    with tempfile.TemporaryDirectory() as folder:
        import zlib

        draw = target.prepare(Path(folder))
        case = draw(
            np.random.default_rng([int(os.environ.get("SEED", SEED)), zlib.crc32(name.encode()), number]),
            number,
        )
        print((case.data() if callable(case.data) else case.data)[:2000])
        case.run()


if __name__ == "__main__":
    main()
