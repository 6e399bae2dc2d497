"""How much of the true front is found: 6 quantizers of 7 bit-widths, all 117,649 configurations evaluated.

The network is the digits network of `small_networks`. Costs: KL to full precision on the search images (the
error of a few hundred images has too many ties for a front), model_ratio and bitops_max. Every method may
look up 2,000 different configurations; one that it knows already costs it nothing, as in a search. Methods
that go in generations have 50 members and end early after 25 generations without a new configuration. They
start as `nemo.search` does without a table, from uniform configurations and such with noise; `guided` is
`nemo.search` with one. Per method:
  front_share  configurations of the true front that were looked up, over all of the true front
  hv_ratio     hypervolume of what was looked up over that of the true front, up to 1.1 times the front's box
"""

import itertools
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import moocore
import numpy as np
from jaxtyping import Bool, Float, Int
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.util.ref_dirs import get_reference_directions

import nemojax as nemo
from nemojax.baselines import BASELINES
from nemojax.quantizer_graph import quantizer_graph
from nemojax.reference_points import most_divisions
from nemojax.sensitivity_measures import measure_sensitivity

from .common import QUICK, finish, interval, say
from .small_networks import digits_network

IMAGES = 100 if QUICK else 300
CALIBRATION = 200
SEEDS = 3 if QUICK else 10
BUDGET = 2000
POPULATION = 50
STALE = 25  # generations without a new configuration
MOST_GENERATIONS = 4000
SEARCHES = {
    "nemo": nemo.NemoConfig(population=POPULATION),
    "equal_sizes": nemo.NemoConfig(population=POPULATION, resize=nemo.Resize(rule="equal")),
    **{
        f"{name}_alone": nemo.NemoConfig(population=POPULATION, species=(name,))
        for name in ("continuous", "floor", "gcn", "unet")
    },
    "nsga2_direct": nemo.NemoConfig(population=POPULATION, species=("continuous",), survival="nsga2"),
}
if QUICK:  # each compiles for ten seconds or more
    SEARCHES = {name: SEARCHES[name] for name in ("nemo", "continuous_alone", "gcn_alone", "nsga2_direct")}


class Table:
    """Costs of all configurations of a task, and which of them are on the true front."""

    def __init__(self, task: nemo.Task, block: int = 2401):
        """`block` configurations go to the device at a time."""
        self.allowed = tuple(np.array(bits) for bits in task.space.allowed)
        self.bits = np.array(list(itertools.product(*task.space.allowed)), np.int32)  # (K, n)
        costs = jax.jit(nemo.Task.costs)
        padded = np.pad(self.bits, ((0, -len(self.bits) % block), (0, 0)), mode="edge")
        blocks = [
            np.asarray(costs(task, jnp.asarray(part))) for part in np.split(padded, len(padded) // block)
        ]
        self.costs = np.concatenate(blocks)[: len(self.bits)]  # (K, M) float32
        self.on_front = moocore.is_nondominated(self.costs.astype(np.float64), keep_weakly=True)
        front = self.costs[self.on_front].astype(np.float64)
        self._low, self._span = front.min(axis=0), np.ptp(front, axis=0)
        self._whole = self.hypervolume(self.on_front)

    def index(self, bits: Int[np.ndarray, "N n"]) -> Int[np.ndarray, " N"]:
        """Rows of the table."""
        digits = [np.searchsorted(own, column) for own, column in zip(self.allowed, bits.T, strict=True)]
        return np.ravel_multi_index(digits, [len(own) for own in self.allowed])

    def hypervolume(self, chosen: Bool[np.ndarray, " K"]) -> float:
        """Of some rows, with the true front's box scaled to [0, 1] and the reference at 1.1."""
        scaled = (self.costs[chosen].astype(np.float64) - self._low) / self._span
        return float(moocore.hypervolume(scaled, np.full(scaled.shape[1], 1.1)))

    def figures(self, seen: Bool[np.ndarray, " K"]) -> dict[str, float]:
        return {
            "front_share": float((seen & self.on_front).sum() / self.on_front.sum()),
            "hv_ratio": self.hypervolume(seen) / self._whole,
            "evaluations": int(seen.sum()),
        }


class Lookup:
    """bits (N, n) -> costs (N, M), until `BUDGET` different configurations have been asked for."""

    def __init__(self, table: Table):
        self.table, self.seen = table, np.zeros(len(table.bits), bool)
        self.stale = 0  # calls in a row without a new configuration

    def __call__(self, bits: Int[np.ndarray, "N n"]) -> Float[np.ndarray, "N M"]:
        """Costs of all rows; what is beyond the budget does not count as seen."""
        index = self.table.index(bits)
        _, first = np.unique(index, return_index=True)
        new = [i for i in index[np.sort(first)] if not self.seen[i]]
        self.seen[new[: BUDGET - int(self.seen.sum())]] = True
        self.stale = 0 if new else self.stale + 1
        return self.table.costs[index]

    @property
    def finished(self) -> bool:
        return self.stale >= STALE or int(self.seen.sum()) >= BUDGET


def nemo_method(task: nemo.Task, config: nemo.NemoConfig) -> Callable[[int, Lookup], None]:
    """NEMO, or a part of it, by the loop on which `nemo.search` stands."""
    graph = quantizer_graph(task.network.workload)
    scale = nemo.reference(task)
    algo = nemo.nemo(config, task.space, len(task.objectives), graph=graph, scale=scale)

    def method(seed: int, lookup: Lookup) -> None:
        k_first, k_run = jax.random.split(jax.random.key(seed))
        state = algo.init(k_run, nemo.initial_bits(k_first, task.space, algo.room))
        nemo.run(
            algo,
            lookup,
            state,
            generations=MOST_GENERATIONS,
            every=1,
            on_chunk=lambda state, metrics: lookup.finished,
            jit_evaluate=False,
        )

    return method


def whole_method(task: nemo.Task) -> Callable[[int, Lookup], None]:
    """`nemo.search` as it is: with a fifth species and a warm start by a table that takes no evaluation."""
    config = nemo.preset("guided", population=POPULATION)

    def method(seed: int, lookup: Lookup) -> None:
        lookup(nemo.search(jax.random.key(seed), task, budget=BUDGET, config=config).bits)

    return method


def pymoo_method(task: nemo.Task) -> Callable[[int, Lookup], None]:
    """pymoo's NSGA-III on whole numbers: its own operators, children rounded, no duplicates, NEMO's start.

    Of four pairs of eta (3 and 3, 2 and 10, 15 and 20, 30 and 20), with this start and a random one, the one
    that found most of the front here.
    """
    problem = Problem(
        n_var=task.space.size,
        n_obj=len(task.objectives),
        xl=task.space.low.astype(int),
        xu=task.space.high.astype(int),
        vtype=int,
    )
    divisions = most_divisions(len(task.objectives), POPULATION)
    directions = get_reference_directions("das-dennis", len(task.objectives), n_partitions=divisions)

    def method(seed: int, lookup: Lookup) -> None:
        algorithm = NSGA3(
            directions,
            pop_size=POPULATION,
            sampling=nemo.initial_bits(jax.random.key(seed), task.space, POPULATION),
            crossover=SBX(prob=1.0, eta=30.0, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, eta=20.0, vtype=float, repair=RoundingRepair()),
        )
        algorithm.setup(problem, termination=NoTermination(), seed=seed)
        while not lookup.finished:
            candidates = algorithm.ask()
            if candidates is None or not len(candidates):  # nothing but duplicates could be made
                return
            costs = lookup(candidates.get("X").astype(np.int32))
            candidates.set("F", costs.astype(np.float64))
            algorithm.tell(infills=candidates)

    return method


def random_method(seed: int, lookup: Lookup) -> None:
    """Different configurations, all equally likely."""
    rng = np.random.default_rng(seed)
    lookup(lookup.table.bits[rng.permutation(len(lookup.table.bits))[:BUDGET]])


def baseline_method(task: nemo.Task, name: str) -> Callable[[int, Lookup], None]:
    """A baseline of nemojax by a sensitivity of the same costs; it may make fewer than the budget."""

    def method(seed: int, lookup: Lookup) -> None:
        key = jax.random.key(seed)
        sensitivity = measure_sensitivity(key, task, task.score.name)
        for i, widths in enumerate(task.space.allowed):  # what the sensitivity has evaluated
            alone = np.tile(task.space.high.astype(np.int32), (len(widths), 1))
            alone[:, i] = widths
            lookup(alone)
        lookup(BASELINES[name](key, task, BUDGET, sensitivity))

    return method


def summary(runs: Mapping[str, list[dict[str, float]]], figure: str) -> dict[str, dict[str, float]]:
    """Mean and interval per method; of one run, which no seed changes, the run itself."""
    values = {name: [run[figure] for run in rows] for name, rows in runs.items()}
    return {name: interval(row * 2 if len(row) == 1 else row) for name, row in values.items()}


def main() -> None:
    start = time.time()
    trained = digits_network(jax.random.key(0))
    network = nemo.quantize(trained.network, trained.train.images[:CALIBRATION])
    task = nemo.fidelity(network, trained.search.images[:IMAGES])
    before = time.time()
    table = Table(task)
    enumeration = time.time() - before
    say(f"{len(table.bits)} configurations in {enumeration:.0f} s, {table.on_front.sum()} on the front")
    methods = {name: nemo_method(task, config) for name, config in SEARCHES.items()}
    methods |= {"guided": whole_method(task), "pymoo_nsga3": pymoo_method(task), "random": random_method}
    fixed = {name: baseline_method(task, name) for name in ("greedy", "knapsack")}
    runs: dict[str, list[dict[str, float]]] = {}
    for name, method in (methods | fixed).items():
        before, runs[name] = time.time(), []
        for seed in range(1 if name in fixed else SEEDS):
            lookup = Lookup(table)
            method(seed, lookup)
            runs[name].append(table.figures(lookup.seen))
        mean = {key: round(float(np.mean([run[key] for run in runs[name]])), 4) for key in runs[name][0]}
        say(f"{name}, {time.time() - before:.0f} s: {mean}")
    finish(
        "oracle",
        {
            "settings": {
                "points": list(task.space.names),
                "images": {"calibration": CALIBRATION, "search": IMAGES},
                "objectives": list(task.objectives),
                "configurations": len(table.bits),
                "front": int(table.on_front.sum()),
                "budget": BUDGET,
                "population": POPULATION,
                "stale_generations": STALE,
                "seeds": SEEDS,
                "one_run_only": list(fixed),
                "pymoo": "start as NEMO, SBX eta 30, PM eta 20, rounded, no duplicates",
            },
            "network_accuracy": trained.accuracy,
            "front_share": summary(runs, "front_share"),
            "hv_ratio": summary(runs, "hv_ratio"),
            "evaluations": {
                name: float(np.mean([r["evaluations"] for r in rows])) for name, rows in runs.items()
            },
            "runs": runs,
            "seconds_enumeration": round(enumeration, 1),
            "seconds": round(time.time() - start),
        },
    )


if __name__ == "__main__":
    main()
