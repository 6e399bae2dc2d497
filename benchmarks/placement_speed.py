"""How many placements a second: rectified and timed, against NumPy, Python's integers and a vmapped scan.

`mismatches` counts placements, of random ones on random graphs and chips, at which the rectified placement,
the moved bytes or the latency differ from an integer reference (latency by more than 3e-6, float32's
rounding of a sum).
"""

import importlib.util
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hwmodel as hw
from benchmarks.common import QUICK, finish, say, time_side_by_side
from benchmarks.placement_rivals import IntegerPlacement, NumpyPlacement, integer_reference

PLACEMENTS, SEED = 10_000, 0
GRAPHS, CHECKED = 20, 5_000 if QUICK else 100_000
ROUNDS = 5 if QUICK else 15


def main() -> None:
    chip = hw.load_chip("nnp_i_tight", warn=False)
    rng = np.random.default_rng(SEED)
    speeds = {}
    for work in (hw.zoo.bert_base(granularity="fine"), hw.zoo.resnet101(), hw.zoo.resnet50()):
        speeds[work.name] = speed(work, chip, rng)
    wrong, seconds = mismatches()
    finish(
        "placement_speed",
        {
            "placements": PLACEMENTS,
            "seed": SEED,
            **next(iter(speeds.values())),
            "networks": speeds,
            "mismatches": wrong,
            "checked": GRAPHS * CHECKED,
            "check_s": round(seconds, 1),
        },
    )


def speed(work: hw.Workload, chip: hw.Chip, rng: np.random.Generator) -> dict[str, float]:
    """Placements a second of each program, taking turns in one process."""
    problem, n = hw.problem(work, chip), len(work.operations)
    wishes = rng.integers(0, len(chip.levels), (PLACEMENTS, n, 2)).astype(np.int32)
    device = jnp.asarray(wishes)
    traces = 0

    def run(problem: hw.Problem, wishes: jax.Array) -> hw.Evaluation:
        nonlocal traces
        traces += 1
        return hw.evaluate(problem, wishes)

    batch = jax.jit(run)
    vmapped = jax.jit(jax.vmap(hw.evaluate, (None, 0)))
    numpy, integers, few = NumpyPlacement(problem), IntegerPlacement(problem), 50
    for wish in wishes[:few]:
        ours = hw.evaluate(problem, wish)
        for rival in (numpy, integers):
            latency_s, moved, placed = rival(wish)
            np.testing.assert_array_equal(ours.placement, placed)
            np.testing.assert_allclose([ours.latency_s, ours.moved], [latency_s, moved], rtol=1e-5)
    times = time_side_by_side(
        {
            "batch_last": lambda: batch(problem, device),
            "vmapped_scan": lambda: vmapped(problem, device[: PLACEMENTS // 10]),
            "numpy": lambda: [numpy(wish) for wish in wishes[:few]],
            "python_integers": lambda: [integers(wish) for wish in wishes[:few]],
        },
        ROUNDS,
    )
    counts = {
        "batch_last": PLACEMENTS,
        "vmapped_scan": PLACEMENTS // 10,
        "numpy": few,
        "python_integers": few,
    }
    rate = {name: counts[name] / np.median(seconds) for name, seconds in times.items()}
    best = {name: counts[name] / seconds.min() for name, seconds in times.items()}
    result = {
        "operations": n,
        "per_second": round(rate["batch_last"]),
        "per_second_best": round(best["batch_last"]),
        **{
            f"ratio_vs_{name}": round(float(rate["batch_last"] / rate[name]), 1)
            for name in ("numpy", "python_integers", "vmapped_scan")
        },
        "compiles": traces,
    }
    say(f"{work.name}: {result}")
    return result


def mismatches() -> tuple[int, float]:
    """Placements that differ from the integer reference, over random graphs and chips."""
    place = Path(__file__).parents[1] / "tests" / "hwmodel" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", place)
    assert spec is not None
    assert spec.loader is not None
    makers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(makers)
    wrong, start, chunk = 0, time.perf_counter(), 5_000
    for graph in range(GRAPHS):
        rng = np.random.default_rng([SEED, graph])
        n = int(rng.integers(8, 40))
        work, chip = makers.random_work(rng, n), makers.random_chip(rng)
        problem = hw.problem(work, chip, nodes=40)
        all_bytes = sum(t.bytes for t in hw.tensors(work))
        for _ in range(CHECKED // chunk):
            wishes = makers.random_placements(rng, chunk, n, 3)
            placed, moved, picoseconds = integer_reference(work, chip, wishes)
            padded = np.pad(wishes, ((0, 0), (0, 40 - n), (0, 0)))
            ours = jax.tree.map(np.asarray, hw.evaluate(problem, padded))
            good = (ours.placement[:, :n] == placed).all(axis=(1, 2))
            good &= np.round(ours.moved.astype(np.float64) * all_bytes) == moved
            good &= ours.valid == (moved == 0)
            good &= np.abs(ours.latency_s * 1e12 / picoseconds - 1) < 3e-6
            wrong += int((~good).sum())
        say(f"graph {graph + 1}/{GRAPHS}, {n} operations: {wrong} mismatches so far")
    return wrong, time.perf_counter() - start


if __name__ == "__main__":
    main()
