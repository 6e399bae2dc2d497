"""How close placements come to the proven optimum: rules, gradients and HiGHS on chips whose capacity binds.

Per network and chip: HiGHS's gap within the time limit, and the gap of each rule and of gradient descent to
HiGHS's lower bound. Gradient descent runs with several keys; `cold` leaves out the restarts that begin near
the `density` rule, and the rule itself. A random search of as many placements as gradient descent evaluates
stands beside it.
"""

import time
from dataclasses import replace

import jax
import numpy as np

import hwmodel as hw
from benchmarks.common import QUICK, finish, interval, say

TIME_LIMIT_S = 20.0 if QUICK else 120.0
SEEDS = 2 if QUICK else 5
WARM = hw.GradientConfig()
COLD = replace(WARM, warm_restarts=0)


# BERT's weights at 8 bits exceed the imxrt1170's 64 MiB, so it runs at 4 bits there. The chip states no
# compute rate; 100 Gop/s is ours, for an accelerator beside its memories, so that memory matters.
ACCELERATOR = hw.Rate(8, 8, 1e11)


def chips() -> list[hw.Chip]:
    presets = [hw.load_chip(name, warn=False) for name in ("nnp_i_paperstyle", "nnp_i_tight")]
    return [*presets, hw.load_chip("imxrt1170", compute=[ACCELERATOR], warn=False)]


def workloads() -> list[hw.Workload]:
    fine = hw.zoo.bert_base(granularity="fine")
    return [hw.zoo.resnet50(), fine] if QUICK else [hw.zoo.resnet50(), hw.zoo.resnet101(), fine]


def main() -> None:
    rows = [row(work, chip) for work in workloads() for chip in chips()]
    finish(
        "placement_bound",
        {
            "time_limit_s": TIME_LIMIT_S,
            "seeds": list(range(SEEDS)),
            "rows": rows,
            "worst_highs_gap": max(r["highs_gap"] for r in rows),
            "worst_gradient_gap": max(r["gradient_gap"]["mean"] for r in rows),
            "all_bind": all(r["capacity_binds"] for r in rows),
        },
    )


def row(work: hw.Workload, chip: hw.Chip) -> dict:
    n = len(work.operations)
    bits = hw.Bits(weights=4) if chip.name == "imxrt1170" and "bert" in work.name else hw.INT8
    problem = hw.problem(work, chip, bits)
    best = hw.optimal_placement(problem, time_limit_s=TIME_LIMIT_S)
    roomy = replace(
        chip, levels=(chip.levels[0], *(replace(x, capacity_bytes=2**33) for x in chip.levels[1:]))
    )
    unbound = hw.optimal_placement(hw.problem(work, roomy, bits), time_limit_s=TIME_LIMIT_S)

    def gap(latency_s: float) -> float:
        return latency_s / best.lower_bound_s - 1

    def search(config: hw.GradientConfig) -> list[float]:
        return [
            gap(hw.optimize_placement(jax.random.key(s), problem, config).latency_s) for s in range(SEEDS)
        ]

    def random(seed: int) -> float:
        count = WARM.steps // WARM.round_every * WARM.restarts
        wishes = np.random.default_rng(seed).integers(0, len(chip.levels), (count, n, 2)).astype(np.int32)
        return gap(float(hw.evaluate(problem, wishes).latency_s.min()))

    start = time.perf_counter()
    warm = search(WARM)
    seconds = (time.perf_counter() - start) / SEEDS
    result = {
        "network": work.name,
        "chip": chip.name,
        "operations": n,
        "weight_bits": int(bits.weights),
        "all_in_backing_store_us": 1e6 * float(hw.latency(problem, np.zeros((n, 2), np.int32))),
        "optimum_us": 1e6 * best.latency_s,
        "without_capacities_us": 1e6 * unbound.latency_s,
        "capacity_binds": unbound.latency_s < best.lower_bound_s * (1 - 1e-4),
        "highs_gap": best.gap,
        "highs_s": round(best.seconds, 2),
        **{
            f"{name}_gap": gap(float(hw.latency(problem, rule(problem))))
            for name, rule in hw.BASELINES.items()
        },
        "gradient_gap": interval(warm),
        "gradient_s": round(seconds, 2),
        "gradient_cold_gap": interval(search(COLD)),
        "random_gap": interval([random(s) for s in range(SEEDS)]),
    }
    say(
        f"{work.name} on {chip.name}: optimum {result['optimum_us']:.1f} us, HiGHS {100 * best.gap:.4f} % in "
        f"{best.seconds:.1f} s, gradient {100 * result['gradient_gap']['mean']:.2f} % in {seconds:.1f} s, "
        f"density {100 * result['density_gap']:.2f} %"
    )
    return result


if __name__ == "__main__":
    main()
