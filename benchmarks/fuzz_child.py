"""A process in which cases are run: what kills or fills it is seen by the one that started it.

It writes a line of JSON for every finding and for every target that is done, and before each case its number
into a small file, so that the parent knows which one it was.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_target import Case, Target

SLOW_S = 20.0  # of wall time; a case takes milliseconds
GROWTH_BYTES = 3 * 2**30  # of address space; the readers' own limits add up to less
KEPT = 20  # inputs of one target that are kept


class Slow(BaseException):
    """A case took too long; no reader can take it for one of its own errors."""


def main() -> None:
    """Arguments: folder, seed, and (target, first case, end) as JSON."""
    folder, seed, work = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    from benchmarks.fuzz import targets

    known = targets()
    warnings.simplefilter("ignore")
    with open(folder / "log.jsonl", "a") as log, open(folder / "at", "w+") as at:

        def say(**line: Any) -> None:
            log.write(json.dumps(line) + "\n")
            log.flush()

        for name, first, end in work:
            run_target(known[name], seed, first, end, folder, say, at, limit=True)


def run_target(
    target: Target,
    seed: int,
    first: int,
    end: int,
    folder: Path,
    say: Any,
    at: Any = None,
    *,
    limit: bool = False,
) -> None:
    """Cases `first` to `end` of a target; `say` is told what was found, and at the end how many were run."""
    signal.signal(signal.SIGALRM, _slow)
    own = folder / f"{zlib.crc32(target.name.encode()):08x}"
    own.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    draw = target.prepare(own)
    made, found = time.monotonic(), {"taken": 0, "refused": 0, "untidy": 0, "kept": 0}
    for number in range(first, end):
        rng = np.random.default_rng([seed, zlib.crc32(target.name.encode()), number])
        case = draw(rng, number)
        if at is not None:
            at.seek(0)
            at.write(json.dumps([target.name, number]).ljust(300))
            at.flush()
        if limit and number == first + 1:
            _limit_memory()
        _one(target, case, number, folder, found, say)
    say(
        kind="done",
        target=target.name,
        cases=end - first,
        seconds=round(time.monotonic() - made, 2),
        prepared_s=round(made - began, 2),
        **found,
    )


def _one(target: Target, case: Case, number: int, folder: Path, found: dict[str, int], say: Any) -> None:
    kind, told = "crash", ""
    signal.setitimer(signal.ITIMER_REAL, SLOW_S)
    try:
        case.run()
        found["taken"] += 1
        return
    except Slow:
        kind, told = "hang", f"over {SLOW_S:g} s: {_places(traceback.format_exc())}"
    except MemoryError:
        kind, told = "memory", traceback.format_exc()[-2000:]
    except target.errors as error:
        found["refused"] += 1
        if not target.one_line or ("\n" not in str(error) and str(error)):
            return
        found["untidy"] += 1
        kind, told = "untidy", repr(error)[:500]
    except BaseException:
        told = traceback.format_exc()[-3000:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if found["kept"] < KEPT:
        keep(folder, target.name, number, case)
        found["kept"] += 1
    say(kind=kind, target=target.name, case=number, told=told)


def keep(folder: Path, name: str, number: int, case: Case) -> None:
    """Puts the input of a finding where a person can look at it."""
    place = folder / "kept"
    place.mkdir(exist_ok=True)
    (place / f"{name.replace(' ', '_')}-{number}{case.suffix}").write_bytes(
        case.data() if callable(case.data) else case.data
    )


def _limit_memory() -> None:
    """So much more than it has by now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        most = pages * os.sysconf("SC_PAGE_SIZE") + GROWTH_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _slow(*_: Any) -> None:
    raise Slow


def _places(trace: str) -> str:
    lines: Sequence[str] = [line.strip() for line in trace.splitlines() if line.strip().startswith("File")]
    return " <- ".join(lines[-4:])
