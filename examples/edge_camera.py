"""A few pictures of new classes, two chips, and a model for each: examples, bits and memories in one go.

A pretrained EfficientNet-Lite0 learns the classes of a folder from five pictures each: by RepMet's
representatives, or with samples that a Delta-encoder makes up from them. NEMO then searches the bit-widths
of that classifier, on pictures without labels, against its latency on both chips. EGRL places the best one
for each chip in the chip's memories. What is left is a folder with an ONNX file, bit-widths, packed weights,
addresses, and report.html.

    python examples/edge_camera.py --out camera
    python examples/edge_camera.py --out camera --support shown/ --frames unlabelled/ --test labelled/

Without folders the classes are textures and pictures from scikit-image, cut from the left of each picture to
learn from, from its middle to search on, and from its right to test. Needs the extras pretrained, onnx and
addresses. Takes some minutes on 2 cores; `--quick` is for a test that it runs.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import egrljax as egrl
import fewshotjax as fs
import hwmodel as hw
import nemojax as nemo

# A Cortex-M7 at 1 GHz with two multiply-accumulates a cycle: an assumption of this example; the source of the
# chip's memories gives no rate.
CORTEX = hw.Rate(8, 8, ops_per_s=4e9, source="assumed: 1 GHz, two multiply-accumulates a cycle")
CHIPS = {"imxrt1170": [CORTEX], "nnp_i_tight": None}
SAMPLES = {  # classes of the sample pictures, files of skimage/data
    "brick": "brick.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "moon": "moon.png",
    "page": "page.png",
    "stars": "hubble_deep_field.jpg",
    "tissue": "ihc.png",
}
LEAST_FRAMES = 12
SEEN = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg")


@dataclass(frozen=True)
class Settings:
    """How much is looked at and searched for."""

    pixels: int = 96
    shots: int = 5  # pictures a class of the samples
    frames: int = 96  # unlabelled pictures: a third to calibrate, the others to search on
    tests: int = 40  # pictures a class
    budget: int = 240  # configurations of bits
    species: tuple[str, ...] = nemo.PRESETS["guided"].species
    maps: int = 1_000  # placements measured, for each chip
    most_kl: float = 0.05  # nat: how far a compressed classifier may be from the whole one
    learner: str = "repmet"
    seed: int = 0


QUICK = Settings(pixels=32, frames=24, tests=4, budget=40, species=("continuous", "floor"), maps=60)


@dataclass(frozen=True)
class Pictures:
    """What a camera is shown."""

    support: fs.LabelledImages  # a few of each class
    frames: np.ndarray  # (N, H, W, 3) uint8, unlabelled
    test: fs.LabelledImages | None  # never looked at before the end


def crops(rng: np.random.Generator, file: str, part: int, count: int, pixels: int) -> np.ndarray:
    """Squares of the left (0), the middle (1) or the right third of a picture of scikit-image."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise SystemExit("the sample pictures are scikit-image's: pip install 'frugaljax[pretrained]'")
    with Image.open(Path(package.origin).parent / "data" / file) as opened:
        picture = opened.convert("RGB")
    third = picture.width // 3
    found = []
    for _ in range(count):
        side = int(rng.integers(min(third, picture.height) // 2, min(third, picture.height)))
        left = part * third + int(rng.integers(third - side + 1))
        top = int(rng.integers(picture.height - side + 1))
        found.append(picture.crop((left, top, left + side, top + side)).resize((pixels, pixels)))
    return np.stack([np.asarray(square, np.uint8) for square in found])


def sample_pictures(settings: Settings) -> Pictures:
    """The classes of `SAMPLES`; no two of the three uses share a pixel."""
    rng, classes = np.random.default_rng(settings.seed), tuple(SAMPLES)
    each = -(-settings.frames // len(classes))

    def labelled(part: int, count: int) -> fs.LabelledImages:
        images = [crops(rng, file, part, count, settings.pixels) for file in SAMPLES.values()]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), count)
        files = tuple(f"{name} {i}" for name in classes for i in range(count))
        return fs.LabelledImages(np.concatenate(images), labels, classes, files)

    frames = rng.permutation(labelled(1, each).images)[: settings.frames]
    return Pictures(labelled(0, settings.shots), frames, labelled(2, settings.tests))


def own_pictures(settings: Settings, support: Path, frames: Path, test: Path | None) -> Pictures:
    """Folders of the user's: `support` and `test` with a subfolder for each class."""
    shown = fs.folder(support, settings.pixels)
    tested = None if test is None else fs.folder(test, settings.pixels)
    if tested is not None and tested.classes != shown.classes:
        raise SystemExit(f"the classes of {test} are {tested.classes}, those of {support} {shown.classes}")
    found = fs.pictures(frames, settings.pixels).images
    if len(found) < LEAST_FRAMES:
        raise SystemExit(f"--frames {frames} holds {len(found)} pictures: give at least {LEAST_FRAMES}")
    # In another order than the files: a third calibrates, which in the camera's own may be the night.
    chosen = np.random.default_rng(settings.seed).permutation(len(found))[: settings.frames]
    if len(chosen) < len(found):
        print(f"--frames {frames}: {len(chosen)} of {len(found)} pictures, drawn by the seed")
    return Pictures(shown, found[chosen], tested)


def learn(key: jax.Array, embed: fs.Backbone, pictures: Pictures, settings: Settings) -> fs.Classifier:
    """The new classes, one representative each, of the features of their pictures."""
    if settings.learner == "repmet":
        return fs.fit(embed, pictures.support, modes=1, reject=None, key=key)
    k_train, k_make, k_fit = jax.random.split(key, 3)
    rng = np.random.default_rng(settings.seed)
    seen = [crops(rng, file, part, 20, settings.pixels) for file in SEEN for part in range(3)]
    features = fs.features(embed, np.concatenate(seen))
    labels = np.repeat(np.arange(len(SEEN), dtype=np.int32), 60)
    delta = fs.train_delta(
        k_train,
        features,
        labels,
        fs.DeltaConfig(hidden=512, pairs="no_self"),
        fs.DeltaTrainConfig(learning_rate=1e-3, batch=64, epochs=10),
    ).delta
    shown = fs.features(embed, pictures.support)
    made = np.asarray(fs.synthesize(k_make, delta, shown, 64))
    data = fs.LabelledFeatures(
        made.reshape(-1, made.shape[2]),
        np.repeat(pictures.support.labels, made.shape[1]),
        pictures.support.classes,
    )
    return fs.fit_features(data, modes=1, reject=None, key=k_fit)


@dataclass(frozen=True)
class Compressed:
    """The classifier on one chip."""

    bits: nemo.Configuration
    placed: egrl.Placed
    accuracy: float | None  # on the test pictures


def accuracy(
    net: nemo.QuantizedNetwork, bits: Any, pixels: fs.Preprocess, pictures: Pictures
) -> float | None:
    """Share of the test pictures whose class is right."""
    if pictures.test is None:
        return None
    wrong = 0.0
    each = len(pictures.frames) - calibration(pictures)  # as many at once as the search: one program
    for start in range(0, len(pictures.test), each):
        part = pictures.test.take(np.arange(start, min(start + each, len(pictures.test))))
        task = nemo.classification(net, pixels.normalize(jnp.asarray(part.images)), part.labels, top_k=1)
        costs = task.full_precision() if bits is None else nemo.Evaluator(task)(bits[None])[0]
        wrong += len(part) * float(costs[0])
    return 1 - wrong / len(pictures.test)


def calibration(pictures: Pictures) -> int:
    """Frames that set the quantizers' ranges, first in a random order; the others are searched on."""
    return len(pictures.frames) // 3


def compress(
    key: jax.Array,
    net: nemo.QuantizedNetwork,
    inputs: jax.Array,
    chips: dict[str, hw.Chip],
    settings: Settings,
) -> tuple[nemo.Task, nemo.Found]:
    """Bit-widths against how far the answers move, size, and latency on each chip."""
    costs: dict[str, Any] = {"model_ratio": nemo.costs_by_name(net)["model_ratio"]}
    costs |= {f"{name}_s": nemo.latency(net, chip, "density") for name, chip in chips.items()}
    task = nemo.fidelity(net, inputs, costs=costs)
    config = nemo.preset("guided", population=20, species=settings.species)
    found = nemo.search(
        key, task, budget=settings.budget, config=config, warm_start="sqnr", on_chunk=nemo.progress()
    )
    return task, found


def fastest(front: nemo.Front, chip: str, most_kl: float) -> nemo.Configuration:
    """The point of least latency on a chip among those whose answers hardly move; else the truest."""
    column = front.objectives.index(f"{chip}_s")
    within = np.flatnonzero(front.costs[:, 0] <= most_kl)
    rows = within if len(within) else np.array([front.costs[:, 0].argmin()])
    return front.configuration(int(rows[front.costs[rows, column].argmin()]))


def export(
    out: Path, net: nemo.QuantizedNetwork, chip: str, model: Compressed, classes: tuple[str, ...]
) -> None:
    """Everything that the next tool needs, in a folder for each chip."""
    folder = out / chip
    folder.mkdir(parents=True, exist_ok=True)
    nemo.save_bits(folder / "bits.json", model.bits)
    nemo.export.save_packed(folder / "weights", net, model.bits)
    report = nemo.export.export_onnx(folder / "classifier.onnx", net, model.bits, batch=1)
    print(f"{folder}/classifier.onnx: {len(report.native)} quantizers native, {len(report.fake)} marked")
    egrl.write_placed(folder / "placement", model.placed)
    (folder / "classes.json").write_text(json.dumps(classes) + "\n")


def report(
    out: Path, task: nemo.Task, found: nemo.Found, models: dict[str, Compressed], whole: float | None
) -> None:
    """One page about all of it."""
    rows: list[tuple[Any, ...]] = [("full precision", "", 1.0, "", "", whole)]
    for chip, model in models.items():
        placed = model.placed
        costs = model.bits.costs
        rows.append(
            (
                f"point {model.bits.index}, for {chip}",
                costs["kl"],
                costs["model_ratio"],
                placed.latency_s * 1e3,
                placed.speedup,
                model.accuracy,
            )
        )
    table = nemo.report.Table(
        "New classes on two chips",
        (
            "model",
            "KL to full precision (nat)",
            "size",
            "latency (ms)",
            "over the best rule",
            "test accuracy",
        ),
        rows,
    )
    nemo.write_report(
        out / "report.html",
        found,
        title="Edge camera",
        network=task,
        placed=[model.placed for model in models.values()],
        tables=[table],
    )


def run(out: Path, pictures: Pictures, settings: Settings) -> dict[str, Compressed]:
    """The whole way; returns what it left for each chip."""
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {text}", flush=True)

    k_learn, k_bits, k_place = jax.random.split(jax.random.key(settings.seed), 3)
    chips = {name: hw.load_chip(name, compute, warn=False) for name, compute in CHIPS.items()}
    network = nemo.efficientnet_lite0(weights="imagenet", resolution=settings.pixels)
    pixels = fs.Preprocess(settings.pixels, mean=network.preprocess.mean, scale=network.preprocess.scale)
    embed = fs.from_function(
        fs.without_layer(network.apply, "classifier"), pixels, network.params, name=network.name
    )
    classifier = learn(k_learn, embed, pictures, settings)
    say(
        f"learned {len(classifier.classes)} classes from {len(pictures.support)} pictures: {settings.learner}"
    )

    apply, params = fs.as_function(classifier, embed)
    inputs, first = pixels.normalize(jnp.asarray(pictures.frames)), calibration(pictures)
    camera = nemo.quantizable(apply, params, name="edge camera", preprocess=network.preprocess)
    net = nemo.quantize(camera, inputs[:first])
    whole = accuracy(net, None, pixels, pictures)
    say(f"traced it: {len(net.workload.points)} points to quantize; accuracy in full precision: {whole}")

    task, found = compress(k_bits, net, inputs[first:], chips, settings)
    say(f"{found.evaluations} configurations, {len(found.front)} on the front")
    models = {}
    for i, (name, chip) in enumerate(chips.items()):
        best = fastest(found.front, name, settings.most_kl)
        placed = egrl.place(
            jax.random.fold_in(k_place, i),
            net.workload,
            chip,
            bits=nemo.tensor_bits(net.workload, chip, jnp.asarray(best.bits)),
            budget=settings.maps,
            engine="egrl",
        )
        models[name] = Compressed(best, placed, accuracy(net, best.bits, pixels, pictures))
        say(f"{placed.text()}\naccuracy at these bits: {models[name].accuracy}")
        export(out, net, name, models[name], classifier.classes)
    report(out, task, found, models, whole)
    say(f"open {out / 'report.html'}")
    return models


def main(arguments: list[str] | None = None) -> dict[str, Compressed]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--support", type=Path, help="folder with a subfolder of a few pictures a class")
    parser.add_argument("--frames", type=Path, help="folder of pictures without labels")
    parser.add_argument("--test", type=Path, help="folder as of --support, to test on")
    parser.add_argument("--learner", choices=("repmet", "delta"), default=Settings.learner)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--quick", action="store_true", help="next to no search: does it run?")
    given = parser.parse_args(arguments)
    if (given.support is None) != (given.frames is None):
        parser.error("--support and --frames go together")
    if given.test is not None and given.support is None:
        parser.error("--test needs --support and --frames: the sample pictures have a test of their own")
    settings = replace(QUICK if given.quick else Settings(), learner=given.learner, seed=given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.support is None:
        pictures = sample_pictures(settings)
    else:
        pictures = own_pictures(settings, given.support, given.frames, given.test)
    return run(given.out, pictures, settings)


if __name__ == "__main__":
    main()
