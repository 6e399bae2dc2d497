"""`nemojax evaluate --network NAME --imagenet DIR`: errors of configurations on a whole data set."""

import sys
import time
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer

from . import networks
from .calibration import QuantizerConfig
from .configuration import Configuration, load_bits
from .data.imagenet import has_part, imagenet as open_imagenet
from .data.parts import Parts, report_and_calibration
from .data.pipeline import batches
from .evaluation import evaluate_batches
from .evaluation_progress import EvaluationProgress
from .evaluation_table import evaluation_columns, evaluation_table, save_evaluation
from .networks.network import Network
from .quantized import QuantizedNetwork, quantize
from .quantizers import FULL_BITS
from .setup_run import RunSettings, quantizers_of
from .space import HIGHEST_BITS, LOWEST_BITS

FULL = "full precision"
CALIBRATION, BATCH = 64, 32  # images

Configurations = Annotated[
    list[str] | None, typer.Argument(help="Files such as knee.json, or numbers: that many bits.")
]
ImageNet = Annotated[
    Path | None, typer.Option(help="Folder of train/ and val/ with a folder per wnid, or such a one itself.")
]
NetworkName = Annotated[str | None, typer.Option(help="A network of the zoo, such as resnet50.")]
Weights = Annotated[str | None, typer.Option(help="File of weights, or 'imagenet' where a package has them.")]
Resolution = Annotated[int | None, typer.Option(help="Pixels of a side; default: the network's own.")]
Report = Annotated[int | None, typer.Option(help="Report so many images, spread evenly; default: all.")]
Seed = Annotated[int | None, typer.Option(help="Decides which images calibrate.")]
Table = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        help="Which class each wnid is, where not all 1,000 are there: lines 'n01440764 tench' in the order "
        "of the classes, or a csv with columns wnid,label.",
    ),
]
Calibration = Annotated[
    int | None, typer.Option(help=f"Images that set the quantizers' ranges; default: {CALIBRATION}.")
]
BatchSize = Annotated[
    int | None, typer.Option(help=f"Images that go through the network together; default: {BATCH}.")
]
Threads = Annotated[int | None, typer.Option(help="Decoding threads; default: one a processor, up to 8.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")]


def evaluate_dataset(
    configurations: Configurations = None,
    imagenet: ImageNet = None,
    network: NetworkName = None,
    weights: Weights = None,
    resolution: Resolution = None,
    report: Report = None,
    seed: Seed = None,
    table: Table = None,
    calibration: int = CALIBRATION,
    batch: int = BATCH,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Top-1 and top-5 error of a network on ImageNet, in full precision and with configurations of bits.

    Every picture is decoded once for all configurations. Quantizers are calibrated on images of train/;
    without that folder, on images that are then left out of the report.
    """
    started = time.monotonic()
    given = configurations or []
    if imagenet is None or network is None:
        missing = "--imagenet DIR" if imagenet is None else "--network NAME"
        raise ValueError(f"{missing} is missing: give both, such as --network resnet50 --imagenet DIR")
    for name, value in (("--calibration", calibration), ("--batch", batch), ("--report", report)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1 image, got {value}")
    if json is not None and json.exists():
        raise ValueError(f"{json} exists: give another name")
    if json is not None and not json.parent.is_dir():
        raise ValueError(f"{json}: its folder is missing: make it first")
    files = _files(given)
    config = _quantizers(files)
    _say(f"making the network {network}")
    net = _network(network, weights, resolution)
    _say(f"network: {net.name}, {net.weights_source}; reading the list of pictures in {imagenet}")
    classes = _classes(net)
    found = open_imagenet(imagenet, table=table, classes=classes)
    train = None
    if given and has_part(imagenet, "train"):
        train = open_imagenet(imagenet, "train", table=table, classes=classes)
    parts = report_and_calibration(
        found, train, calibration=calibration if given else 0, report=report, seed=seed or 0
    )
    quantized = _quantized(net, parts, config, threads)
    names = (FULL, *given)
    bits = np.stack([_bits(name, quantized, files) for name in names])
    _say(f"{len(parts.report)} images to report; {parts.said}; the first batch compiles")
    pipeline = batches(parts.report, net.preprocess, batch=min(batch, len(parts.report)), threads=threads)
    progress = EvaluationProgress(len(parts.report))
    try:
        result = evaluate_batches(
            (quantized, bits) if given else quantized,
            pipeline,
            top_k=(1, 5) if classes > 5 else (1,),
            compare=bool(given),
            on_batch=progress,
        )
    finally:
        progress.close()
        pipeline.close()
    columns = evaluation_columns(result, quantized, bits)
    print(evaluation_table(names, columns))
    together = f", each with {len(bits)} configurations" if given else ""
    print(
        f"\n{result.images} images in {result.seconds:.1f} s, {result.images_per_s:.1f} images/s{together}; "
        f"{result.waiting_s:.1f} s of it waiting for pictures; {parts.said}"
    )
    if json is not None:
        settings = {
            "network": net.name,
            "weights": net.weights_source,
            "images": str(imagenet),
            "calibration": parts.said,
            "resolution": net.preprocess.resolution,
            "backend": jax.default_backend(),
        }
        save_evaluation(json, names, columns, result, settings)
        print(f"Written: {json}")
    _say(f"done in {time.monotonic() - started:.0f} s")


def _network(name: str, weights: str | None, resolution: int | None) -> Network:
    """With the weights of a package, where none are given."""
    try:
        return networks.by_name(name, weights or "imagenet", resolution=resolution)
    except ValueError as error:
        if weights is None and name in networks.NETWORKS:
            raise ValueError(f"--weights FILE is missing, and {name} has none to install ({error})") from None
        raise


def _files(given: list[str]) -> dict[str, Configuration]:
    """The configurations that are files; ValueError where one is given twice or is no bit-width."""
    for name in given:
        if given.count(name) > 1:
            raise ValueError(f"CONFIGURATION {name} is given twice: leave one out")
        if name.isdigit() and not LOWEST_BITS <= int(name) <= HIGHEST_BITS:
            raise ValueError(f"CONFIGURATION is {name} bits: give 2-16, or a file such as knee.json")
    return {name: load_bits(name) for name in given if not name.isdigit()}


def _quantizers(files: dict[str, Configuration]) -> QuantizerConfig:
    """As the files were searched with; they must agree, since one set of ranges serves all."""
    told = {
        name: file.settings for name, file in files.items() if {"run", "quantizers"} & file.settings.keys()
    }
    found = {name: quantizers_of(settings) for name, settings in told.items()}
    first, *others = found.items() or [("", RunSettings().quantizers)]
    for name, config in others:
        if config != first[1]:
            raise ValueError(
                f"{name} was searched with other quantizers than {first[0]}: evaluate them apart"
            )
    return first[1]


def _classes(net: Network) -> int:
    side = net.preprocess.resolution
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    try:
        shape = jax.eval_shape(net.apply, net.params, image).shape
    except Exception as error:  # whatever a user's function raises on such an image
        raise ValueError(f"{net.name} takes no images {image.shape}: {str(error).splitlines()[0]}") from None
    if len(shape) != 2:
        raise ValueError(f"{net.name} gives an array {shape}, not logits (N, classes): it classifies nothing")
    return shape[1]


def _quantized(net: Network, parts: Parts, config: QuantizerConfig, threads: int | None) -> QuantizedNetwork:
    """Calibrated, or where nothing is quantized, traced on an empty image for its speed and its costs."""
    if parts.calibration is None:
        side = net.preprocess.resolution
        return quantize(
            net, np.zeros((1, side, side, 3), np.float32), QuantizerConfig(activation_range="minmax")
        )
    count = len(parts.calibration)
    _say(f"calibrating on {count} images")
    images = next(batches(parts.calibration, net.preprocess, batch=count, threads=threads)).images
    return quantize(net, images, config)


def _bits(name: str, quantized: QuantizedNetwork, files: dict[str, Configuration]) -> np.ndarray:
    """(n,) of full precision, of a file, or of a number."""
    points = quantized.workload.point_names
    if name in files:
        return load_bits(name, points).bits
    return np.full(len(points), FULL_BITS if name == FULL else int(name), np.int32)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
