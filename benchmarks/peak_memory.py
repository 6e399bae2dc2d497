"""Bytes that the population maps really hold at once, beside what is said of them.

Each map runs in a process of its own. Compiling takes memory, too, so it comes first; then the kernel's mark
of the process's peak is put back (/proc/self/clear_refs), and what the peak rises by while the program runs
is the map's. Where the kernel has no such mark, the peak before is subtracted. `said_mib` is the package's
estimate, the function under `by`; that is XLA's own count, `program_bytes`, where a method or network may be
anything. `search` is all that a search at population 64 holds, with JAX and its compiler.

CASES=placements,synthesis measures these alone.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import egrljax as egrl
import fewshotjax as few
import hwmodel as hw
import nemojax as nemo

from .common import QUICK, finish, peak_gib, say

Case = tuple[
    Callable[..., Any], tuple[Any, ...], int, str
]  # a jitted map, its arguments, bytes said, by what
RESOLUTION, IMAGES, POPULATION = (64, 32, 64) if QUICK else (160, 64, 64)
GENERATIONS = 1 if QUICK else 3
FREE = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")  # glibc gives back at once what is freed


def placements(chunk: int | None = None) -> Case:
    """hwmodel.evaluate of placements of ResNet-50."""
    problem = hw.problem(hw.zoo.resnet50(), hw.load_chip("nnp_i_tight", warn=False))
    count = 200_000 if QUICK else 400_000
    wishes = jax.random.randint(jax.random.key(0), (count, problem.shape[0], 2), 0, 3)
    run = jax.jit(lambda problem, wishes: hw.evaluate(problem, wishes, chunk=chunk))
    return run, (problem, wishes), hw.evaluation_bytes(problem, count, chunk), "evaluation_bytes"


def policies(block: str, chunk: int) -> Case:
    """egrljax.apply_population on the graph of BERT."""
    env = egrl.environment(hw.zoo.bert_base(), hw.load_chip("nnp_i_tight", warn=False))
    config = egrl.PolicyConfig(block=block, choices=3, decisions=2)  # type: ignore[arg-type]
    net, graph = egrl.policy(config), env.graph
    layout = egrl.genome(jax.eval_shape(net.init, jax.random.key(0), graph))
    vectors = 0.1 * jax.random.normal(jax.random.key(0), (chunk, layout.size))
    run = jax.jit(lambda vectors, graph: egrl.apply_population(net, layout, vectors, graph, chunk=chunk))
    nodes, edges = len(np.asarray(graph.nodes)), len(np.asarray(graph.senders))
    return run, (vectors, graph), egrl.policy_bytes(config, nodes, edges, chunk), "policy_bytes"


def candidates(name: str, resolution: int, images: int, chunk: int) -> Case:
    """A candidate of NEMO's: a network at 4 bits, `chunk` images at a time."""
    net = nemo.networks.by_name(name, None, jax.random.key(0), resolution=resolution)
    inputs = jax.random.normal(jax.random.key(1), (images, resolution, resolution, 3))
    network = nemo.quantize(net, inputs[:4], nemo.QuantizerConfig(activation_range="minmax"))
    bits = jnp.full(len(network.workload.points), 4, jnp.int32)
    run = jax.jit(lambda network, bits, inputs: network.quantized_logits(bits, inputs, chunk=chunk))
    return run, (network, bits, inputs), nemo.candidate_bytes(network, images, chunk), "candidate_bytes"


def episodes(name: str, chunk: int) -> Case:
    """A few-shot method on `chunk` episodes at once."""
    features = jax.random.normal(jax.random.key(0), (3_000, 512))
    method = few.by_name(name)
    rows = jax.random.randint(jax.random.key(1), (4 * chunk, 20, 20), 0, len(features))
    labels = jnp.repeat(jnp.arange(20, dtype=jnp.int32), 5)

    def one(features: jax.Array, rows: jax.Array) -> jax.Array:
        support, query = features[rows[:, :5].reshape(-1)], features[rows[:, 5:].reshape(-1)]
        return jnp.argmax(method.predict(method.fit(jax.random.key(0), support, labels, 20), query), axis=1)

    run = jax.jit(lambda f, rows: jax.lax.map(lambda own: one(f, own), rows, batch_size=chunk))
    return run, (features, rows), hw.program_bytes(run, features, rows), "program_bytes"


def synthesis(chunk: int) -> Case:
    """A Delta-encoder's samples of 64 seeds."""
    from fewshotjax import delta as de

    config = de.DeltaConfig(hidden=4_096)
    features = np.random.default_rng(0).normal(size=(200, 1_024)).astype(np.float32)
    labels, train = np.repeat(np.arange(10), 20), de.DeltaTrainConfig(1e-4, 64, 1)
    delta = de.train_delta(jax.random.key(0), features, labels, config, train).delta
    seeds = jnp.asarray(features[:64])
    run = jax.jit(
        lambda delta, seeds: de.generate(jax.random.key(1), delta, seeds, 256, codes="noise", chunk=chunk)
    )
    return run, (delta, seeds), hw.program_bytes(run, delta, seeds), "program_bytes"


def regions(chunk: int) -> Case:
    """A detector's proposals with their features, of `chunk` photographs at once."""
    from fewshotjax.detection.regions import regions_of

    detector = drawn_detector()
    images = jnp.zeros((chunk, 128, 128, 3), jnp.uint8)
    run = jax.jit(lambda params, images: regions_of(params, detector.net, images))
    return run, (detector.params, images), hw.program_bytes(run, detector.params, images), "program_bytes"


def drawn_detector() -> Any:
    """One of drawn weights, as `fewshotjax train-detector` begins with."""
    from fewshotjax import detection as de
    from fewshotjax.detection.detector import init_detector

    k_pyramid, k_detector = jax.random.split(jax.random.key(0))
    pyramid = de.pyramid("resnet18_pyramid", key=k_pyramid, width=0.5)
    return init_detector(k_detector, pyramid, de.DetectorConfig(), ("a", "b"))


CASES: dict[str, Callable[[], Case]] = {
    "placements": placements,
    "placements_chunk": lambda: placements(10_000),
    "policies_gcn": lambda: policies("gcn", 512),
    "candidates_small": lambda: candidates("resnet20_cifar", 32, 1_024, 512),
    "episodes_prototypes": lambda: episodes("prototypes", 256),
    "synthesis": lambda: synthesis(4_096),
}
if not QUICK:
    CASES |= {
        "policies_unet": lambda: policies("unet", 512),
        "candidates": lambda: candidates("efficientnet_lite0", 128, 64, 32),
        "episodes_matching": lambda: episodes("matching", 64),
        "regions": lambda: regions(32),
    }


def measured(name: str) -> dict[str, Any]:
    """In a process of its own: what the map says and holds."""
    run, arguments, said, by = CASES[name]()
    arguments = jax.block_until_ready(arguments)
    compiled = run.lower(*arguments).compile()
    gc.collect()
    mark = Path("/proc/self/clear_refs")
    before = peak_gib()
    if mark.exists():
        mark.write_text("5")  # the peak is what is held now
        before = peak_gib()
    jax.block_until_ready(compiled(*arguments))
    found = {"said_mib": said / 2**20, "held_mib": (peak_gib() - before) * 2**10, "by": by}
    if by != "program_bytes":
        found["xla_mib"] = hw.program_bytes(run, *arguments) / 2**20
    return found


def search() -> dict[str, Any]:
    key = jax.random.key(0)
    net = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
    parts = nemo.sample_photographs(key, net.preprocess, calibration=32, search=IMAGES, report=1).parts
    task = nemo.fidelity(nemo.quantize(net, parts.calibration.images), parts.search.images)
    found = nemo.search(
        key, task, budget=GENERATIONS * POPULATION, config=nemo.NemoConfig(population=POPULATION)
    )
    return {"evaluations": len(found.bits), "peak_gib": round(peak_gib(), 3)}


def in_a_process(name: str) -> dict[str, Any]:
    environment = {**os.environ, **dict.fromkeys(FREE, "65536")}
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak_memory", name],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if told.returncode:
        raise SystemExit(f"{name}: {told.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def ratio(row: dict[str, Any]) -> float:
    """How far what was said is off, in either direction; 1 is exact."""
    said, held = row["said_mib"], row["held_mib"]
    return max(said / held, held / said)


def main() -> None:
    if sys.argv[1:]:
        name = sys.argv[1]
        print(json.dumps(search() if name == "search" else measured(name)))
        return
    words = [word for word in os.environ.get("CASES", "").split(",") if word]
    rows = {}
    for name in words or CASES:
        row = in_a_process(name)
        rows[name] = {k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}
        rows[name]["ratio"] = round(ratio(row), 3)
        say(f"{name}: {rows[name]}")
    found = {} if words else in_a_process("search")
    finish(
        "peak_memory",
        {
            "settings": {"resolution": RESOLUTION, "images": IMAGES, "population": POPULATION, "seed": 0},
            **found,
            "limit_gib": 3,
            "maps": rows,
            "worst_ratio": max(row["ratio"] for row in rows.values()),
            "limit_ratio": 1.25,
        },
        store=not words,
    )


if __name__ == "__main__":
    main()
