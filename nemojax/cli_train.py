"""`nemojax train --network NAME --data CIFAR --out DIR`: a network of the zoo on CIFAR-10, in one command."""

import inspect
import json
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jax
import matplotlib.figure
import numpy as np
import typer

from . import networks
from .data import LabelledArrays, cifar10
from .evaluation import wilson_interval
from .front_io import write_text
from .networks import NETWORKS, save_weights
from .training import Chunk, Epoch, TrainConfig, predict, train

DEFAULT = TrainConfig()
VALIDATION = 2_000  # of the training images, for looking at while settings are chosen
CIFAR = tuple(name for name in NETWORKS if name.endswith("_cifar"))
WEIGHTS, METRICS, CURVE, CHECKPOINT = "weights.safetensors", "metrics.json", "curve.png", "train.ckpt"
EPOCHS = "epochs.json"  # what was seen so far, for the curve and the time of a run that was resumed


def train_network(
    data: Annotated[
        Path, typer.Option(help="CIFAR-10: its binary archive or folder, or folders train/ and test/.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, figures and the checkpoint.")],
    network: Annotated[str, typer.Option(help=f"One of {', '.join(CIFAR)}.")] = CIFAR[0],
    width: Annotated[
        float | None,
        typer.Option(help="MobileNet-V2: multiplies its channels. Others: channels of the stem."),
    ] = None,
    groups: Annotated[
        int | None, typer.Option(help="ResNeXt: groups of its 3x3 convolutions. For a CPU: --width 16, 4, 8.")
    ] = None,
    group_width: Annotated[
        int | None, typer.Option(help="ResNeXt: channels of each group in the first stage.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = DEFAULT.epochs,
    batch: Annotated[int, typer.Option(help="Images a step.")] = DEFAULT.batch,
    learning_rate: Annotated[float, typer.Option(help="The highest one.")] = DEFAULT.learning_rate,
    resolutions: Annotated[
        str,
        typer.Option(
            help="Pixels that images are scaled to, each for an equal share of the epochs: 16,24,32 takes "
            "half the time of 32 alone. Default: as they are."
        ),
    ] = "",
    cutout: Annotated[int, typer.Option(help="Side of a square to blank in each image, in pixels.")] = 0,
    images: Annotated[
        int | None, typer.Option(help="Train on so many images alone, for a trial; default: all.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Write weights in float16: half the size.")] = False,
    seed: Annotated[int, typer.Option(help="Decides weights, order and augmentation.")] = 0,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop after so many seconds; --resume goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in --out.")] = False,
) -> None:
    """Train a network on CIFAR-10; its test images are looked at once, at the end.

    2,000 training images are held out, and their error is printed after every epoch. The folder then holds
    weights.safetensors, metrics.json, curve.png, and train.ckpt and epochs.json (to resume a stopped run, bit
    for bit).
    """
    if network not in CIFAR:
        raise ValueError(f"--network must be one of {', '.join(CIFAR)}, got {network!r}")
    config = TrainConfig(
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        warmup_epochs=min(DEFAULT.warmup_epochs, epochs / 10),
        cutout=cutout,
        resolutions=_whole_numbers(resolutions),
    )
    if out.exists() and any(out.iterdir()) and not resume:
        raise ValueError(f"{out} is not empty: give another --out, or --resume to continue its training")
    options: dict[str, Any] = {"groups": groups, "group_width": group_width}
    options = {name: value for name, value in options.items() if value is not None}
    if width is not None:  # a factor of some networks, a number of channels of others
        kind = type(inspect.signature(NETWORKS[network]).parameters["width"].default)
        if kind(width) != width:
            raise ValueError(f"--width of {network} must be a whole number of channels, got {width}")
        options["width"] = kind(width)
    k_weights, k_train = jax.random.split(jax.random.key(seed))
    net = networks.by_name(network, None, k_weights, **options)
    _say(f"reading {data}, about 20 s")
    whole, test = cifar10(data)
    part, validation = _held_out(whole, VALIDATION)
    if images is not None:
        part = _some(part, images)
    _say(f"{net.name}: {_parameters(net):,} parameters; {len(part.labels)} images; the first epoch compiles")
    curve, seconds = _seen_before(out / EPOCHS) if resume else ([], 0.0)
    started = time.monotonic()

    def on_chunk(chunk: Chunk) -> None:
        nonlocal seconds
        seconds += chunk.seconds
        seen = {"training_seconds": seconds, "epochs": [asdict(epoch) for epoch in curve]}
        write_text(out / EPOCHS, json.dumps(seen) + "\n")
        count = chunk.step % chunk.per_epoch
        if count or sys.stderr.isatty():
            _say(
                f"epoch {(chunk.step - 1) // chunk.per_epoch + 1}/{epochs}, step {count or chunk.per_epoch}/"
                f"{chunk.per_epoch}: loss {chunk.loss:.3f}, {time.monotonic() - started:.0f} s",
                passing=True,
            )
        if time_limit is not None and time.monotonic() - started > time_limit and chunk.step < chunk.steps:
            raise _TimeUpError

    def on_epoch(epoch: Epoch, _: object) -> None:
        curve[:] = [e for e in curve if e.number < epoch.number] + [epoch]
        _say(
            f"epoch {epoch.number}/{epochs}: loss {epoch.loss:.3f}, error on held-out training images "
            f"{epoch.validation_error:.4f}, {epoch.seconds:.0f} s"
        )

    try:
        trained = train(
            k_train,
            net,
            part,
            config,
            validation=validation,
            on_epoch=on_epoch,
            on_chunk=on_chunk,
            checkpoint=out / CHECKPOINT,
        )
    except (KeyboardInterrupt, _TimeUpError):
        _say("nemojax: stopped; continue with --resume")
        raise typer.Exit(130) from None
    if half:  # before the test, so that its figure is of the weights in the file
        trained = replace(trained, params=jax.tree.map(lambda leaf: leaf.astype(np.float16), trained.params))
    save_weights(out / WEIGHTS, trained)
    trained = networks.by_name(network, out / WEIGHTS, **options)
    misses = int(np.sum(predict(trained, test.images) != test.labels))
    low, high = wilson_interval(np.array(misses), len(test.labels))
    figures = {
        "schema": "frugaljax.nemo.training/1",
        "network": network,
        "options": options,
        "parameters": _parameters(net),
        "config": asdict(config),
        "seed": seed,
        "training_images": len(part.labels),
        "test_images": len(test.labels),
        "test_error": misses / len(test.labels),
        "test_error_interval": [float(low), float(high)],
        "training_seconds": seconds,
        "epochs": [asdict(epoch) for epoch in curve],
        "float16": half,
        "versions": {name: version(name) for name in ("frugaljax", "jax", "flax", "optax")},
        "backend": jax.default_backend(),
    }
    write_text(out / METRICS, json.dumps(figures, indent=2) + "\n")
    _curve(curve).savefig(out / CURVE)
    accuracy, megabytes = 1 - misses / len(test.labels), (out / WEIGHTS).stat().st_size / 1e6
    print(
        f"{network}: top-1 accuracy {accuracy:.4f} [{1 - high:.4f}, {1 - low:.4f}] on {len(test.labels)} "
        f"test images; weights in {out / WEIGHTS} ({megabytes:.1f} MB)"
    )


class _TimeUpError(Exception):
    pass


def _held_out(whole: LabelledArrays, count: int) -> tuple[LabelledArrays, LabelledArrays]:
    """All but `count` images and those, the same whatever the seed; classes evenly, to within chance."""
    order = np.random.default_rng(0).permutation(len(whole.labels))
    parts = np.sort(order[count:]), np.sort(order[:count])
    first, second = (LabelledArrays(whole.images[i], whole.labels[i], whole.classes) for i in parts)
    return first, second


def _some(part: LabelledArrays, count: int) -> LabelledArrays:
    if not 1 <= count <= len(part.labels):
        raise ValueError(f"--images must be 1-{len(part.labels)}, got {count}")
    rows = np.random.default_rng(1).permutation(len(part.labels))[:count]
    return LabelledArrays(part.images[rows], part.labels[rows], part.classes)


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise ValueError(
            f"--resolutions must be numbers with commas, such as 16,24,32, got {text!r}"
        ) from None


def _seen_before(file: Path) -> tuple[list[Epoch], float]:
    """Epochs of the run that is resumed, and the seconds of its steps; nothing if it was stopped at once."""
    if not file.exists():
        return [], 0.0
    try:
        seen = json.loads(file.read_text(encoding="utf-8"))
        return [Epoch(**entry) for entry in seen["epochs"]], float(seen["training_seconds"])
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        raise ValueError(f"{file} is damaged: delete it, which costs the curve its first part") from None


def _parameters(net: networks.Network) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(net.params["params"]))


def _curve(curve: list[Epoch]) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    numbers = [epoch.number for epoch in curve]
    errors = [np.nan if e.validation_error is None else e.validation_error for e in curve]
    axes.plot(numbers, errors, label="error, held-out training images")
    axes.plot(numbers, [epoch.loss for epoch in curve], label="loss (nats, smoothed labels)")
    axes.set(xlabel="epoch", ylim=(0, None))
    axes.legend()
    return figure


def _say(line: str, *, passing: bool = False) -> None:
    """On stderr; on a terminal the next line takes the place of a passing one."""
    clear, end = ("\r\033[K", "" if passing else "\n") if sys.stderr.isatty() else ("", "\n")
    print(clear + line, file=sys.stderr, flush=True, end=end)
