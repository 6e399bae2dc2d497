"""All speeds that an accelerator decides: candidates, placements, episodes and detector images a second.

`make bench-gpu` runs it with the Python of the machine. It needs no network, no PyTorch and no data: weights
are drawn, images and features are noise, since only the time is measured. Beside each speed stands what it is
to be held against, measured in the same run: the full-precision forward pass of the same network for
candidates and detector images, and a copy of memory for placements and episodes, whose arithmetic is small.
Both lowerings of a convolution are timed, and which one is the default; so is everything on a CPU, at small
sizes, as a test of itself.

PARTS=candidates,placements measures these alone.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fewshotjax as few
import hwmodel as hw
import nemojax as nemo
from fewshotjax import detection as de
from fewshotjax.detection.detector import feature_maps, init_detector
from nemojax.lowering import default_lowering

from .common import QUICK, finish, say, time_side_by_side

ON_CPU = jax.default_backend() == "cpu"
ROUNDS = 3 if QUICK else 10
Row = dict[str, Any]


@jax.jit
def one_by_one(network: nemo.QuantizedNetwork, bits: jax.Array, images: jax.Array) -> jax.Array:
    return jax.lax.map(lambda row: network.quantized_logits(row, images), bits)


@jax.jit
def vmapped(network: nemo.QuantizedNetwork, bits: jax.Array, images: jax.Array) -> jax.Array:
    return jax.vmap(lambda row: network.quantized_logits(row, images))(bits)


@jax.jit
def full_precision(network: nemo.QuantizedNetwork, images: jax.Array) -> jax.Array:
    return network.logits(images)


def bandwidth_bytes_per_s(size_bytes: int) -> float:
    """Bytes read and written a second by a copy that does not fit the caches."""
    x = jnp.zeros(size_bytes // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)  # a bare copy would be none: XLA gives the buffer back
    times = time_side_by_side({"copy": lambda: copy(x)}, ROUNDS)["copy"]
    return 2 * x.nbytes / float(times.min())


def candidates(resolution: int, images: int, count: int) -> Row:
    """NEMO's candidates, one by one and vmapped, under both lowerings, beside the full-precision pass."""
    k_weights, k_images, k_bits = jax.random.split(jax.random.key(0), 3)
    net = nemo.efficientnet_lite0(None, k_weights, resolution=resolution)
    pictures = jax.random.normal(k_images, (images, resolution, resolution, 3))
    runs: dict[str, Callable[[], Any]] = {}
    error = {}
    for lowering in ("xla", "cpu"):
        network = nemo.quantize(net, pictures[:4], lowering=lowering)  # type: ignore[arg-type]
        bits = nemo.search_space(network).sample(k_bits, count)
        runs[f"{lowering}, fp32"] = lambda n=network: full_precision(n, pictures)
        runs[f"{lowering}, one by one"] = lambda n=network, b=bits: one_by_one(n, b, pictures)
        runs[f"{lowering}, vmapped"] = lambda n=network, b=bits: vmapped(n, b, pictures)
        logits = full_precision(network, pictures)
        error[lowering] = float(
            jnp.abs(logits - net.apply(net.params, pictures)).max() / jnp.abs(logits).max()
        )
    times = time_side_by_side(runs, ROUNDS)
    per = {n: images * (1 if "fp32" in n else count) / float(t.min()) for n, t in times.items()}
    forward = {low: per[f"{low}, fp32"] for low in error}
    own = default_lowering()
    faster = max(error, key=lambda low: per[f"{low}, one by one"])
    return {
        "candidates_per_s": {n: per[n] / images for n in per if "fp32" not in n},
        "images_per_s": per,
        "fraction_of_fp32_forward": {n: per[n] / forward[n.split(",")[0]] for n in per if "fp32" not in n},
        "lowering": {"default": own, "faster": faster, "default_is_faster": own == faster},
        "relative_error": error,
        "settings": {"resolution": resolution, "images": images, "candidates": count},
    }


def placements(counts: tuple[int, ...], bandwidth: float) -> Row:
    """Random placements of fine BERT, rectified and timed; bytes are those of wishes and results."""
    work, chip = hw.zoo.bert_base(granularity="fine"), hw.load_chip("nnp_i_tight", warn=False)
    problem, run = hw.problem(work, chip), jax.jit(hw.evaluate)
    runs = {}
    for count in counts:
        wishes = jax.random.randint(jax.random.key(1), (count, len(work.operations), 2), 0, len(chip.levels))
        runs[f"{count} at once"] = lambda w=wishes: run(problem, w).latency_s
    times = time_side_by_side(runs, ROUNDS)
    per = {n: c / float(t.min()) for (n, t), c in zip(times.items(), counts, strict=True)}
    each = 8 * len(work.operations) + hw.evaluation_bytes(problem, 1)
    return {
        "placements_per_s": per,
        "fraction_of_bandwidth": {n: rate * each / bandwidth for n, rate in per.items()},
    }


def episodes(methods: tuple[str, ...], count: int, bandwidth: float) -> Row:
    """5-way 1-shot episodes with 15 queries of features; bytes are those of the examples, read once."""
    rng, width = np.random.default_rng(0), 512
    features = rng.normal(size=(2_000, width)).astype(np.float32)
    labels = np.repeat(np.arange(20), 100)
    key = jax.random.key(0)
    drawn = few.evaluate(key, methods[0], features, labels, episodes=count).episodes
    runs = {m: lambda m=m: few.evaluate(key, m, features, labels, drawn=drawn).accuracy.mean for m in methods}
    per = {name: count / float(t.min()) for name, t in time_side_by_side(runs, ROUNDS).items()}
    each = 5 * 16 * width * 4
    return {
        "episodes_per_s": per,
        "fraction_of_bandwidth": {n: rate * each / bandwidth for n, rate in per.items()},
        "settings": {"episodes": count, "width": width},
    }


def detector_images(side: int, images: int, chunk: int) -> Row:
    """Regions of photographs by a detector of drawn weights, beside its network's maps in float32 alone."""
    k_pyramid, k_detector = jax.random.split(jax.random.key(0))
    pyramid = de.pyramid("resnet18_pyramid", key=k_pyramid, width=1 / 8 if ON_CPU else 1.0)
    found = init_detector(k_detector, pyramid, de.DetectorConfig(), ("a", "b"))
    pictures = np.random.default_rng(0).integers(0, 255, (images, side, side, 3)).astype(np.uint8)
    maps = jax.jit(lambda params, images: feature_maps(params, found.net, images))

    def forward() -> Any:
        return [maps(found.params, pictures[i : i + chunk]) for i in range(0, images, chunk)]

    runs = {"regions": lambda: de.find_regions(found, pictures, chunk=chunk).boxes, "fp32 forward": forward}
    per = {name: images / float(t.min()) for name, t in time_side_by_side(runs, ROUNDS).items()}
    return {
        "images_per_s": per,
        "fraction_of_fp32_forward": per["regions"] / per["fp32 forward"],
        "settings": {"pixels": side, "images": images, "chunk": chunk},
    }


def main() -> None:
    copied = 2**26 if ON_CPU else 2**32
    bandwidth = bandwidth_bytes_per_s(copied)
    methods = (
        ("prototypes", "repmet") if ON_CPU else ("prototypes", "repmet", "matching", "ridge", "logistic")
    )
    parts: dict[str, Callable[[], Row]] = {
        "candidates": lambda: candidates(32, 8, 2) if ON_CPU else candidates(160, 256, 8),
        "placements": lambda: placements(
            (1_000, 10_000) if ON_CPU else (10_000, 100_000, 1_000_000), bandwidth
        ),
        "episodes": lambda: episodes(methods, 500 if ON_CPU else 50_000, bandwidth),
        "detector": lambda: detector_images(64, 4, 4) if ON_CPU else detector_images(320, 256, 16),
    }
    words = [word for word in os.environ.get("PARTS", "").split(",") if word]
    rows = {}
    for name in words or parts:
        rows[name] = _rounded(parts[name]())
        say(f"{name}: {rows[name]}")
    finish(
        "gpu",
        {
            "rounds": ROUNDS,
            "copy_bytes_per_s": float(f"{bandwidth:.4g}"),
            "copied_bytes": copied,
            **rows,
        },
        store=not ON_CPU and not words,
    )


def _rounded(value: Any) -> Any:
    """Four digits of every number."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
