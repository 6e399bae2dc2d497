"""NEMO on ZDT1-4, 6 and DTLZ1, 2, 7 (three objectives) beside pymoo's NSGA-III at equal evaluations.

NEMO runs the two direct species, re-sized, on a box of real numbers, with the same distribution indices as
pymoo's defaults (SBX 30, polynomial mutation 20). Scored is everything that each evaluated: the exact
hypervolume (moocore) of its non-dominated part and its R2, per problem over seeds.
"""

import time

import jax
import jax.numpy as jnp
import moocore
import numpy as np

import nemojax as nemo
from nemojax.reference_points import das_dennis

from .common import QUICK, finish, interval, say
from .moo_problems import PROBLEMS
from .pymoo_rival import run_nsga3

POPULATION, GENERATIONS = 100, (60 if QUICK else 250)
NAMES = ("zdt1", "zdt4", "dtlz2") if QUICK else tuple(PROBLEMS)
SEEDS = 2 if QUICK else 10
CONFIG = nemo.NemoConfig(
    population=POPULATION,
    species=("continuous", "floor"),
    direct=nemo.Direct(eta_crossover=30.0, eta_mutation=20.0),
)


def score(costs: np.ndarray, problem) -> dict[str, float]:
    """Hypervolume over the best possible, and R2 with the reference point as the unit."""
    costs = np.asarray(costs, np.float64)
    front = costs[moocore.is_nondominated(costs)]
    volume = float(moocore.hypervolume(front, ref=problem.reference))
    weights = das_dennis(problem.num_objectives, 100 if problem.num_objectives == 2 else 12)
    scaled = front / problem.reference
    reached = np.max(weights[:, None] * np.abs(scaled)[None], axis=2).min(axis=1)
    return {"hv": volume / problem.best_hypervolume, "r2": float(reached.mean())}


def run_nemo(problem, seeds: int) -> list[np.ndarray]:
    """All costs of each seed's run; the seeds run side by side under vmap."""
    space = nemo.Box(tuple(problem.lower.tolist()), tuple(problem.upper.tolist()), steps=None)
    algo = nemo.nemo(CONFIG, space, problem.num_objectives, scale=problem.reference)

    def one(key):
        def generation(state, _):
            x, ticket, state = algo.ask(state)
            costs = problem.costs(x)
            state, metrics = algo.tell(state, ticket, costs)
            return state, (costs, metrics.alloc)

        return jax.lax.scan(generation, algo.init(key), length=GENERATIONS)[1]

    seen, alloc = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), seeds))
    say(f"  sizes at the end {np.asarray(alloc)[:, -1].mean(0).round(1).tolist()}")
    return list(np.asarray(seen).reshape(seeds, -1, problem.num_objectives))


def main() -> None:
    start, rows = time.time(), {}
    for name in NAMES:
        problem = PROBLEMS[name]
        costs = jax.jit(problem.costs)

        def evaluate(x: np.ndarray, costs=costs) -> np.ndarray:
            return np.asarray(costs(jnp.asarray(x, jnp.float32)))

        ours = [score(seen, problem) for seen in run_nemo(problem, SEEDS)]
        theirs = []
        for seed in range(SEEDS):
            done = run_nsga3(
                evaluate,
                problem.lower,
                problem.upper,
                problem.num_objectives,
                population=POPULATION,
                generations=GENERATIONS,
                seed=seed,
            )
            theirs.append(score(done.evaluated, problem))
        hv = {"nemo": [s["hv"] for s in ours], "pymoo": [s["hv"] for s in theirs]}
        rows[name] = {
            "hv_share": {who: interval(values) for who, values in hv.items()},
            "r2": {
                who: interval([s["r2"] for s in scores])
                for who, scores in (("nemo", ours), ("pymoo", theirs))
            },
            "hv_ratio": float(np.mean(hv["nemo"]) / np.mean(hv["pymoo"])),
        }
        say(
            f"{name}, {time.time() - start:.0f} s: share {np.mean(hv['nemo']):.4f}, "
            f"pymoo's {np.mean(hv['pymoo']):.4f}, "
            f"ratio {rows[name]['hv_ratio']:.4f}"
        )
    finish(
        "moo_suite",
        {
            "settings": {
                "population": POPULATION,
                "generations": GENERATIONS,
                "seeds": SEEDS,
                "species": CONFIG.species,
                "eta": [30, 20],
            },
            "problems": rows,
            "min_hv_ratio": min(row["hv_ratio"] for row in rows.values()),
            "seconds": round(time.time() - start),
        },
    )


if __name__ == "__main__":
    main()
