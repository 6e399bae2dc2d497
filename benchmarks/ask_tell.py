"""What NEMO's own work costs: ask and tell, without the evaluation, beside pymoo's NSGA-III in the same run.

Both search 244 numbers for 3 objectives with SBX and polynomial mutation; NEMO's are the two direct species,
re-sized, with its archive of 1,024. Then all four published species against the time of evaluating their
generation on EfficientNet-Lite0, how often a search of 100 re-sized generations compiles, and the memory of
8,192 members.
"""

import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import nemojax as nemo

from .common import QUICK, finish, say
from .pymoo_rival import generation_seconds

QUANTIZERS, OBJECTIVES = 244, 3
POPULATIONS = {128: 12, 1024: 6} if QUICK else {128: 60, 1024: 20, 4096: 8}  # population: generations timed
ROUNDS = 2 if QUICK else 3
RESOLUTION, IMAGES, TIMED = (96, 32, 4) if QUICK else (160, 64, 12)
LARGE = 8192
SEED = 0


def costs(bits: jax.Array) -> jax.Array:
    """Squared distances to three corners: cheap, and no configuration is best in all."""
    x = (bits.astype(jnp.float32) - 2) / 6
    corners = np.random.default_rng(SEED).integers(0, 2, (OBJECTIVES, QUANTIZERS)).astype(np.float32)
    return jnp.stack([jnp.mean((x - corner[None]) ** 2, axis=1) for corner in corners], axis=1)


def search(population: int, species: tuple[str, ...]) -> nemo.Nemo:
    space = nemo.BitSpace.create([f"q{i}" for i in range(QUANTIZERS)])
    config = nemo.NemoConfig(population=population, species=species)
    return nemo.nemo(config, space, OBJECTIVES, graph=nemo.chain_graph(QUANTIZERS))


class Own:
    """A search whose ask and tell are timed apart from the evaluation."""

    def __init__(self, population: int, species: tuple[str, ...]):
        algo = search(population, species)
        self.ask, self.tell = jax.jit(algo.ask), jax.jit(algo.tell)
        self.evaluate = jax.jit(costs)
        self.state = algo.init(jax.random.key(SEED))

    def generations(self, count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            bits, ticket, state = jax.block_until_ready(self.ask(self.state))
            asked = time.perf_counter()
            found = jax.block_until_ready(self.evaluate(bits))
            told = time.perf_counter()
            self.state, _ = jax.block_until_ready(self.tell(state, ticket, found))
            times.append(asked - start + time.perf_counter() - told)
        return times

    @property
    def compiles(self) -> int:
        return max(self.ask._cache_size(), self.tell._cache_size())


def against_pymoo() -> dict[str, dict[str, float]]:
    rows = {}
    for population, count in POPULATIONS.items():
        own = Own(population, ("continuous", "floor"))
        own.generations(3)
        ours, theirs = [], []
        for _ in range(ROUNDS):  # in turns, so that noise meets both alike
            ours.append(np.median(own.generations(count)))
            theirs.append(generation_seconds(population, generations=max(count // 2, 3)))
        ratio = float(np.median(np.array(theirs) / np.array(ours)))
        rows[str(population)] = {
            "nemo_ms": round(1e3 * float(np.median(ours)), 3),
            "pymoo_ms": round(1e3 * float(np.median(theirs)), 3),
            "ratio": round(ratio, 2),
        }
        say(f"population {population}: {rows[str(population)]}")
    return rows


def against_evaluation() -> dict[str, float]:
    """Share of the evaluation's time, for a generation of 128 of the four published species."""
    net = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
    parts = nemo.sample_photographs(
        jax.random.key(SEED), net.preprocess, calibration=32, search=IMAGES, report=1
    ).parts
    task = nemo.fidelity(nemo.quantize(net, parts.calibration.images), parts.search.images)
    evaluate = nemo.Evaluator(task)
    evaluate(nemo.uniform_bits(task)[:1])
    drawn = nemo.initial_bits(jax.random.key(SEED), task.space, TIMED + 7)[7:]
    start = time.perf_counter()
    evaluate(drawn)
    one = (time.perf_counter() - start) / evaluate.evaluations * 1.0
    config = nemo.NemoConfig(population=128)
    graph = nemo.quantizer_graph(task.network.workload)
    algo = nemo.nemo(config, task.space, OBJECTIVES, graph=graph)
    ask, tell = jax.jit(algo.ask), jax.jit(algo.tell)
    state, times = algo.init(jax.random.key(SEED)), []
    weights = jnp.arange(task.space.size, dtype=jnp.float32)[:, None] % jnp.asarray([2.0, 3.0, 5.0])[None]
    for _ in range(8):
        start = time.perf_counter()
        bits, ticket, asked = jax.block_until_ready(ask(state))
        middle = time.perf_counter()
        found = 4.0 ** (2 - bits.astype(jnp.float32)) @ weights / task.space.size
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(tell(asked, ticket, found))
        times.append(middle - start + time.perf_counter() - begin)
    own = float(np.median(times[2:]))
    return {"ask_tell_s": own, "evaluation_s": 128 * one, "share": own / (128 * one)}


def large_memory() -> float:
    """Peak GiB of a fresh process that runs three generations of 8,192 members."""
    code = (
        "from benchmarks.ask_tell import Own, LARGE\n"
        "from benchmarks.common import peak_gib\n"
        "Own(LARGE, ('continuous', 'floor')).generations(3)\n"
        "print(peak_gib())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    rows = against_pymoo()
    evaluation = against_evaluation()
    say(f"four species: {evaluation}")
    whole = Own(120, ("continuous", "floor", "gcn", "unet"))
    sizes = []
    for _ in range(100):
        whole.generations(1)
        sizes.append(tuple(np.asarray(whole.state.alloc).tolist()))
    result = {
        "settings": {"quantizers": QUANTIZERS, "objectives": OBJECTIVES, "archive": 1024, "seed": SEED},
        "per_generation": rows,
        **{f"ratio_vs_pymoo_{population}": row["ratio"] for population, row in rows.items()},
        "four_species": evaluation,
        "evaluation_settings": {"resolution": RESOLUTION, "images": IMAGES, "population": 128},
        "compiles": whole.compiles,
        "different_sizes_in_100_generations": len(set(sizes)),
        "peak_gib_8192": None if QUICK else round(large_memory(), 3),
    }
    finish("ask_tell", result)


if __name__ == "__main__":
    main()
