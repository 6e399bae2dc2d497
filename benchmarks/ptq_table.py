"""Post-training quantization of EfficientNet-Lite0, option by option, on labelled ImageNet photographs.

Every fifth photograph calibrates and is learned from, the other 400 are reported. Rates and sizes of the
reconstruction were first tried at 128 pixels on these same 400, so its rows are not untouched by development.
All quantizers have the row's bit-widths, those of the first and last layer too. Runs are kept, so that an
interrupted table goes on where it stopped.
Needs FRUGALJAX_DATA. Stored under results/ with every run.
"""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nemojax as nemo
from nemojax.ptq import PTQConfig, improve
from nemojax.quantized import compiled_logits

from .common import QUICK, finish, say
from .kept import Kept

LIMIT_S = float(os.environ.get("PTQ_LIMIT_S", "inf"))  # what is not begun by then is left out, and said so
RESOLUTION = 96 if QUICK else 224
REPORTED = 100 if QUICK else None  # None: all
STEPS = 60 if QUICK else 200
SEEDS = 1 if QUICK else int(os.environ.get("PTQ_SEEDS", "3"))
ROWS = ((4, 8),) if QUICK else ((8, 8), (6, 6), (4, 8), (4, 4), (3, 4))  # bits of weights, of activations
LEARNED = PTQConfig(steps=STEPS, step_elements=100_000, learn_activations=True, reconstruct="block")
OPTIONS = {
    "plain": PTQConfig(),
    "CLE": PTQConfig(equalize=True),
    "BC": PTQConfig(correct_bias=True),
    "CLE+BC": PTQConfig(equalize=True, correct_bias=True),
    "block": LEARNED,
    "layer": replace(LEARNED, reconstruct="layer", learn_activations=False),
    "block+BC": replace(LEARNED, correct_bias=True),
    "all": replace(LEARNED, equalize=True, correct_bias=True),
}
# Of weights: the extremes, or the least squared error at each bit-width.
RANGES = {"channel": ("minmax", "mse"), "tensor": ("minmax", "mse")}


def main() -> None:
    place = os.environ.get("FRUGALJAX_DATA")
    if not place:
        raise SystemExit("set FRUGALJAX_DATA to the folder that holds imagenet_samples/images.zip")
    start = time.time()
    net = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
    photos = nemo.load_labelled(Path(place) / "imagenet_samples" / "images.zip", net.preprocess)
    fifth = np.arange(len(photos)) % 5 == 0
    calibration = photos.take(np.flatnonzero(fifth)).images[: 25 if QUICK else None]
    reported = photos.take(np.flatnonzero(~fifth)[:REPORTED])
    settings = {
        "network": "efficientnet_lite0",
        "resolution": RESOLUTION,
        "images": {"calibration": len(calibration), "report": len(reported)},
        "options": {name: str(config) for name, config in OPTIONS.items()},
        "interval": "95 %, normal, over the photographs",
    }
    runs = Kept("ptq_table", settings)
    networks: dict[tuple[str, str], nemo.QuantizedNetwork] = {}
    full = None
    absent = []
    for granularity, weight_range, option, (weights, activations), seed in plan():
        name = f"W{weights}A{activations} {option}, per {granularity}, {weight_range}, seed {seed}"
        if name in runs.done:
            continue
        if time.time() - start > LIMIT_S:
            absent.append(name)
            continue
        if (granularity, weight_range) not in networks:
            config = nemo.QuantizerConfig(weight_range=weight_range, per_channel=granularity == "channel")
            networks[granularity, weight_range] = nemo.quantize(net, calibration, config)
        quantized = networks[granularity, weight_range]
        bits = np.array(
            [weights if point.is_weight else activations for point in quantized.workload.points], np.int32
        )
        if full is None:
            full = logits(quantized, np.full_like(bits, 32), reported.images)
            runs.add("full precision", scores(full, full, reported.labels))
        begun = time.time()
        better = improve(jax.random.key(seed), quantized, bits, calibration, OPTIONS[option])
        seconds = time.time() - begun
        row = scores(logits(better, bits, reported.images), full, reported.labels)
        runs.add(name, {**row, "seconds": round(seconds, 1)})
        say(
            f"{time.time() - start:.0f} s: {name}: "
            + ", ".join(f"{k} {v}" for k, v in runs.done[name].items())
        )
    finish(
        "ptq_table",
        {
            "settings": {**settings, "seeds": SEEDS},
            "complete": not absent,
            "runs": runs.done,
            "seconds": round(time.time() - start),
        },
    )


def plan() -> list[tuple[str, str, str, tuple[int, int], int]]:
    """(granularity, weight range, option, bits, seed) of all runs; what learns last, other seeds after it."""
    out = []
    for seed in range(SEEDS):
        for option, config in OPTIONS.items():
            if seed and config.reconstruct is None:  # nothing is drawn
                continue
            for granularity, ranges in RANGES.items():
                for weight_range in ranges if config.reconstruct is None else ("mse",):
                    out += [(granularity, weight_range, option, row, seed) for row in ROWS]
    return [run for run in out if not (QUICK and run[0] == "tensor")]


def logits(network: nemo.QuantizedNetwork, bits: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.asarray(compiled_logits(network, jnp.asarray(bits)[None], images)[0])


def scores(found: np.ndarray, full: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Top-1, top-5, and KL from full precision, each with half the width of its 95 % interval."""
    order = np.argsort(-found, axis=1)[:, :5]
    log_p, log_q = (np.asarray(jax.nn.log_softmax(jnp.asarray(x), axis=1)) for x in (full, found))
    values = {
        "top1": order[:, 0] == labels,
        "top5": (order == labels[:, None]).any(1),
        "kl": (np.exp(log_p) * (log_p - log_q)).sum(1),
    }
    out = {name: round(float(np.mean(v)), 4) for name, v in values.items()}
    return out | {
        f"{name}_half": round(float(1.96 * np.std(v) / len(v) ** 0.5), 4) for name, v in values.items()
    }


if __name__ == "__main__":
    main()
