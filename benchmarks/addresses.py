"""Packing the public minimalloc instances into 1 MiB, and the tensors of networks into a chip's memories.

Each solver alone: two greedy rules and the branch and bound of omnimalloc, CP-SAT, our search, and the
function `pack` that users call, all with the same limit.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import omnimalloc

from hwmodel.addresses import Buffer, allocate, faults, lower_bound, pack, read_minimalloc
from hwmodel.baselines import banked_greedy, density, first_fit
from hwmodel.chips.file import load_chip
from hwmodel.problem import problem
from hwmodel.zoo import NAMES, by_name

from .common import QUICK, finish, say

CAPACITY = 1_048_576
LIMIT_S = 3.0 if QUICK else 60.0
CHIPS = ("nnp_i_tight",) if QUICK else ("nnp_i_tight", "nnp_i_paperstyle", "nnp_i_one_ice")
RULES = {"first_fit": first_fit, "density": density, "banked_greedy": banked_greedy}
Solver = Callable[[list[Buffer], int], list[int] | None]


def main() -> None:
    instances, source = load_instances()
    rows = []
    for name, buffers in instances.items():
        capacity = 12 if name == "input.12" else CAPACITY
        rows.append({"instance": name, "buffers": len(buffers), "lower_bound": lower_bound(buffers)})
        for solver, solve in solvers().items():
            rows[-1][solver] = measure(solve, buffers, capacity)
        results = ((s, rows[-1][s]) for s in solvers())
        say(f"{name}: " + ", ".join(f"{s} {r['fits']} {r['seconds']} s" for s, r in results))
    hard = [row for row in rows if row["instance"] != "input.12"]
    networks = [network(name, chip, rule) for name in NAMES for chip in CHIPS for rule in rules()]
    finish(
        "addresses",
        {
            "source": source,
            "capacity_bytes": CAPACITY,
            "limit_s": LIMIT_S,
            "instances": rows,
            "solved": sum(row["pack"]["fits"] for row in hard),
            "solved_by": {solver: sum(row[solver]["fits"] for row in hard) for solver in solvers()},
            "of": len(hard),
            "networks": networks,
            "networks_demoted": sum(row["demoted"] for row in networks),
        },
    )


def load_instances() -> tuple[dict[str, list[Buffer]], str]:
    """The public instances, or as many made here where the development data are absent."""
    place = os.environ.get("FRUGALJAX_DATA")
    folder = Path(place) / "minimalloc" if place else None
    if folder is not None and folder.is_dir():
        found = {path.name.split(f".{CAPACITY}")[0]: path for path in sorted(folder.glob("*.csv"))}
        return {
            name.removesuffix(".csv"): list(read_minimalloc(path)) for name, path in found.items()
        }, "minimalloc"
    say("FRUGALJAX_DATA is not set: instances made here take the place of the public ones")
    return {f"made{seed}": made(seed) for seed in range(11)}, "made here"


def made(seed: int) -> list[Buffer]:
    """A strip of 1 MiB over 60 steps cut into rectangles, so that a packing without a free byte exists."""
    rng = np.random.default_rng(seed)
    unit = 1024
    pieces, found = [(0, 60, CAPACITY // unit)], []
    while pieces:
        lower, upper, size = pieces.pop()
        if len(found) + len(pieces) < 100 and (size > 1 or upper - lower > 1):
            if size > 1 and (upper - lower == 1 or rng.random() < 0.5):
                cut = int(rng.integers(1, size))
                pieces += [(lower, upper, cut), (lower, upper, size - cut)]
            else:
                cut = int(rng.integers(lower + 1, upper))
                pieces += [(lower, cut, size), (cut, upper, size)]
            rng.shuffle(pieces)
        else:
            found.append(Buffer(str(len(found)), lower, upper, size * unit))
    return found


def solvers() -> dict[str, Solver]:
    def pack_with(*names: str) -> Solver:
        return lambda buffers, capacity: list(
            pack(buffers, capacity, time_limit_s=LIMIT_S, solvers=names).offsets
        )

    return {
        "greedy_by_size": lambda buffers, _: by_omnimalloc(buffers, "greedy_by_size"),
        "greedy_by_all": lambda buffers, _: by_omnimalloc(buffers, "greedy_by_all"),
        "supermalloc": lambda buffers, _: by_omnimalloc(
            buffers, omnimalloc.allocators.SupermallocAllocator(timeout=LIMIT_S)
        ),
        "cpsat": pack_with("cpsat"),
        "search": pack_with("search"),
        "pack": pack_with("search", "cpsat"),
    }


def by_omnimalloc(buffers: list[Buffer], allocator: Any) -> list[int]:
    given = [omnimalloc.Allocation(b.name, b.size, b.lower, b.upper) for b in buffers]
    found = {a.id: a.offset for a in omnimalloc.allocate(given, allocator)}
    return [found[b.name] for b in buffers]


def measure(solve: Solver, buffers: list[Buffer], capacity: int) -> dict[str, Any]:
    """Height reached and both clocks: on a busy machine the wall runs ahead of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    offsets = solve(buffers, capacity)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    wrong = faults(buffers, offsets)
    if wrong:
        raise RuntimeError(f"an invalid packing: {wrong[0]}")
    height = max(at + b.size for at, b in zip(offsets, buffers, strict=True))
    return {
        "height": height,
        "over_bound": round(height / lower_bound(buffers), 4),
        "fits": height <= capacity,
        "seconds": round(wall, 3),
        "processor_s": round(processor, 3),
    }


def rules() -> list[str]:
    return ["density"] if QUICK else list(RULES)


def network(name: str, chip_name: str, rule: str) -> dict[str, Any]:
    """One network on one chip as a rule places it: does every level pack as it is?"""
    workload, chip = by_name(name), load_chip(chip_name, warn=False)
    placement = RULES[rule](problem(workload, chip))
    start = time.perf_counter()
    allocation = allocate(workload, chip, placement, time_limit_s=LIMIT_S)
    seconds = time.perf_counter() - start
    say(f"{name} on {chip_name} by {rule}: {len(allocation.demoted)} demoted, {seconds:.2f} s")
    return {
        "network": name,
        "chip": chip_name,
        "rule": rule,
        "demoted": len(allocation.demoted),
        "seconds": round(seconds, 3),
        "levels": {
            use.name: {
                "height": use.height_bytes,
                "capacity": use.capacity_bytes,
                "bound": use.bound_bytes,
                "solver": use.solver,
            }
            for use in allocation.levels
        },
    }


if __name__ == "__main__":
    main()
