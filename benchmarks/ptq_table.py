"""Post-training quantization of EfficientNet-Lite0, option by option, on labelled ImageNet photographs.

Every fifth photograph calibrates and is learned from, the other 400 are reported. Rates and sizes of the
reconstruction were first tried at 128 pixels on these same 400, and so was the choice to correct biases for
the rounding of weights alone: these rows are not untouched by development. Beside them AIMET on the same
images and weights, see ptq_rivals.py; its learned rounding, with as many steps, runs where TABLE_ADAROUND=1
is set: one of its some 80 layers took 12 minutes for 1,000. The range setter of a run is that of the weights;
our activations have the range of the least squared error throughout, AIMET's the one that its weights have.
What corrects biases runs with the extremes, too: ranges of least squared error shrink the weights, which no
bias mends. All quantizers have the row's bit-widths, those of the first and last layer too. Runs are kept and
stored with the table, so that an interrupted one goes on. Needs FRUGALJAX_DATA.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nemojax as nemo
from nemojax.ptq import PTQConfig, improve
from nemojax.quantized import compiled_logits

from .common import QUICK, finish, say
from .kept import Kept
from .ptq_rivals import ASYMMETRIC, LOWEST, Aimet

LIMIT_S = float(os.environ.get("TABLE_LIMIT_S", "inf"))  # what is not begun by then is left out, and said so
RESOLUTION = 96 if QUICK else 224
REPORTED = 50 if QUICK else None  # None: all
STEPS = 20 if QUICK else 200
SEEDS = 1 if QUICK else int(os.environ.get("TABLE_SEEDS", "5"))
ROWS = ((4, 8),) if QUICK else ((8, 8), (6, 6), (4, 8), (4, 4), (3, 4))  # bits of weights, of activations
LEARNED = PTQConfig(steps=STEPS, step_elements=100_000, learn_activations=True, reconstruct="block")
OPTIONS = {
    "plain": PTQConfig(),
    "CLE": PTQConfig(equalize=True),
    "BC": PTQConfig(correct_bias=True),
    "CLE+BC": PTQConfig(equalize=True, correct_bias=True),
    "block+BC": replace(LEARNED, correct_bias=True),
    "block": LEARNED,
    "layer+BC": replace(LEARNED, reconstruct="layer", learn_activations=False, correct_bias=True),
    "layer": replace(LEARNED, reconstruct="layer", learn_activations=False),
    "all": replace(LEARNED, equalize=True, correct_bias=True),
}
# What takes seconds, with the ranges of weights: the extremes, or the least squared error at each bit-width.
QUICK_ONES = (
    ("plain", "minmax"),
    ("plain", "mse"),
    ("CLE", "mse"),
    ("BC", "minmax"),
    ("BC", "mse"),
    ("CLE+BC", "minmax"),
    ("CLE+BC", "mse"),
)
# Of AIMET: with its own default, and with weights' grids as ours are.
AIMET_ONES = (("plain", "minmax"), ("plain", "mse"), ("CLE", "mse"))
ASYMMETRIC_ONES = tuple((option + ASYMMETRIC, weight_range) for option, weight_range in AIMET_ONES)
ADAROUND = bool(os.environ.get("TABLE_ADAROUND"))
if QUICK:
    QUICK_ONES, AIMET_ONES = (("plain", "minmax"), ("BC", "minmax")), (("plain", "minmax"),)
GRANULARITIES = ("channel",) if QUICK else ("channel", "tensor")


class Run(NamedTuple):
    """One entry of the table."""

    tool: str  # "ours" or "aimet"
    option: str
    granularity: str
    weight_range: str
    bits: tuple[int, int]
    seed: int

    @property
    def name(self) -> str:
        weights, activations = self.bits
        row = f"W{weights}A{activations}, per {self.granularity}"
        return f"{row}: {self.tool} {self.option}, {self.weight_range}, seed {self.seed}"


def main() -> None:
    place = os.environ.get("FRUGALJAX_DATA")
    if not place:
        raise SystemExit("set FRUGALJAX_DATA to the folder that holds imagenet_samples/images.zip")
    start = time.time()
    net = nemo.efficientnet_lite0("imagenet", resolution=RESOLUTION)
    photos = nemo.load_labelled(Path(place) / "imagenet_samples" / "images.zip", net.preprocess)
    fifth = np.arange(len(photos)) % 5 == 0
    calibration = photos.take(np.flatnonzero(fifth)).images[: 16 if QUICK else None]
    data = Photographs(net, calibration, photos.take(np.flatnonzero(~fifth)[:REPORTED]))
    settings = {
        "network": "efficientnet_lite0",
        "resolution": RESOLUTION,
        "images": {"calibration": len(calibration), "report": len(data.reported)},
        "options": {name: str(config) for name, config in OPTIONS.items()},
        "interval": "95 %, normal, over the photographs",
    }
    runs = Kept("ptq_table", settings)
    ours = Ours(data)
    tools = {"ours": ours, "aimet": Theirs(data, ours)}
    absent = []
    for run in plan():
        if run.name in runs.done:
            continue
        if time.time() - start > LIMIT_S:
            absent.append(run.name)
            continue
        begun = time.time()
        found = tools[run.tool].logits(run)
        figures = scores(found, ours.full(), data.reported.labels)
        runs.add(run.name, {**figures, "seconds": round(time.time() - begun, 1)})
        say(f"{time.time() - start:.0f} s: {run.name}: top-1 {figures['top1']}, KL {figures['kl']}")
    by_row = compared(runs.done)
    margins = [row["best_minus_best_of_aimet"] for row in by_row.values() if row["aimet"]]
    finish(
        "ptq_table",
        {
            "settings": {**settings, "seeds": SEEDS},
            "full_precision": scores(ours.full(), ours.full(), data.reported.labels),
            "rows": by_row,
            "worst_margin_vs_aimet": min(margins, default=None),
            "complete": not absent,
            "runs": runs.done,
            "seconds": round(sum(run["seconds"] for run in runs.done.values())),
        },
    )


def plan() -> list[Run]:
    """All runs: what takes seconds, what learns, and where an option draws, the other seeds."""
    aimet_rows = [row for row in ROWS if row[0] >= LOWEST]
    few = [row for row in ROWS if row[0] <= 4]  # bits at which calibration alone loses the network
    out = []
    for granularity in GRANULARITIES:
        out += [Run("ours", *one, row, 0) for one in _at(granularity, QUICK_ONES) for row in ROWS]
        out += [Run("aimet", *one, row, 0) for one in _at(granularity, AIMET_ONES) for row in aimet_rows]
    if QUICK:
        return out
    out += [Run("aimet", *one, row, 0) for one in _at("channel", ASYMMETRIC_ONES) for row in aimet_rows]
    out += [Run("aimet", "seq_mse", "channel", "mse", row, 0) for row in few if row[0] >= LOWEST]
    out += [Run("aimet", "seq_mse" + ASYMMETRIC, "channel", "mse", row, 0) for row in few if row[0] >= LOWEST]
    for option in ("block+BC", "block", "layer+BC", "layer", "all"):
        out += [Run("ours", option, "channel", "minmax", row, 0) for row in ROWS]
    for option in ("block+BC", "all"):
        out += [Run("ours", option, "tensor", "minmax", row, 0) for row in ROWS]
    lost = (4, 4)  # the row for the spread over seeds
    out += [Run("ours", "block+BC", "channel", "minmax", lost, seed) for seed in range(1, SEEDS)]
    return out + [Run("aimet", "adaround", "channel", "mse", lost, 0)] * ADAROUND


def _at(granularity: str, ones: tuple[tuple[str, str], ...]) -> list[tuple[str, str, str]]:
    """(option, granularity, range of weights), as a `Run` begins after its tool."""
    return [(option, granularity, weight_range) for option, weight_range in ones]


class Photographs(NamedTuple):
    network: nemo.Network
    calibration: np.ndarray
    reported: nemo.ImageSet


class Ours:
    """`nemojax.ptq`."""

    def __init__(self, data: Photographs):
        self.data, self.networks, self._full = data, {}, None

    def quantized(self, granularity: str, weight_range: str) -> nemo.QuantizedNetwork:
        key = granularity, weight_range
        if key not in self.networks:
            config = nemo.QuantizerConfig(weight_range=weight_range, per_channel=granularity == "channel")
            self.networks[key] = nemo.quantize(self.data.network, self.data.calibration, config)
        return self.networks[key]

    def full(self) -> np.ndarray:
        if self._full is None:
            network = self.quantized("channel", "mse")
            bits = np.full(len(network.workload.points), 32, np.int32)
            self._full = logits(network, bits, self.data.reported.images)
        return self._full

    def logits(self, run: Run) -> np.ndarray:
        network, (weights, activations) = self.quantized(run.granularity, run.weight_range), run.bits
        points = network.workload.points
        bits = np.array([weights if point.is_weight else activations for point in points], np.int32)
        key = jax.random.key(run.seed)
        better = improve(key, network, bits, self.data.calibration, OPTIONS[run.option])
        return logits(better, bits, self.data.reported.images)


class Theirs:
    """AIMET, which must give the same logits in full precision."""

    def __init__(self, data: Photographs, ours: Ours):
        self.data, self.ours, self.models = data, ours, {}

    def logits(self, run: Run) -> np.ndarray:
        images = self.data.reported.images
        if run.granularity not in self.models:
            model = Aimet(RESOLUTION, self.data.calibration, run.granularity == "channel")
            found, expected = model.full_precision(images[:8]), self.ours.full()[:8]
            if np.abs(found - expected).max() > 1e-3 * np.abs(expected).max():
                raise SystemExit("AIMET's network is not the same in full precision")
            self.models[run.granularity] = model
        model = self.models[run.granularity]
        return model.logits(run.option, run.weight_range, run.bits, images, STEPS, run.seed)


def compared(done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Row -> top-1 of each tool's options, seeds averaged, and the difference of their best."""
    rows: dict[str, Any] = {}
    for run in plan():
        if run.name in done:
            row = rows.setdefault(run.name.split(":")[0], {"ours": {}, "aimet": {}})
            label = f"{run.option}, {run.weight_range}"
            row[run.tool].setdefault(label, []).append(done[run.name]["top1"])
    for row in rows.values():
        for tool in ("ours", "aimet"):
            row[tool] = {label: round(float(np.mean(v)), 4) for label, v in row[tool].items()}
        if row["ours"] and row["aimet"]:
            best = max(row["ours"].values()) - max(row["aimet"].values())
            row["best_minus_best_of_aimet"] = round(best, 4)
    return rows


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
