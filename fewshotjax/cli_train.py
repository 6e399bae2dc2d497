"""`fewshotjax train --data ... --out FOLDER`: a backbone of one's own, in one command."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from .backbones import BACKBONES, Backbone, backbone as make_backbone, features as features_of, save_backbone
from .cli_inputs import labelled_images
from .console import say, warnings_said
from .data import LabelledImages, check_disjoint
from .evaluation import evaluate
from .files import write_bytes
from .methods import simpleshot
from .objectives import Objective, prototypical_objective, softmax_objective
from .repmet_model import RepMetConfig, repmet_objective
from .soft_triple import SoftTripleConfig, soft_triple_objective
from .training import Epoch, TrainConfig, progress, train

SCHEMA = "frugaljax.fewshot.training/1"
WEIGHTS, METRICS, CHECKPOINT = "weights.safetensors", "metrics.json", "train.ckpt"
STOPPED = 130  # exit code of a training that --resume continues
DEFAULT = TrainConfig()
# Without layers of their own below the loss: what the file holds is all that episodes need.
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "softmax": softmax_objective,
    "repmet": lambda: repmet_objective(RepMetConfig(embedding=None)),
    "prototypical": prototypical_objective,
    "soft_triple": lambda: soft_triple_objective(SoftTripleConfig()),
}
WAYS, PER_CLASS = 16, 8  # of a batch of the prototypical objective, which compares images of one batch
QUERIES, EPISODES = 15, 500  # of the validation, 5-way 1-shot


def train_backbone(
    data: Annotated[
        str, typer.Option(help="As of evaluate, such as tiny_imagenet:base_train, omniglot:base or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, figures and the checkpoint.")],
    backbone: Annotated[str, typer.Option(help=f"One of {', '.join(BACKBONES)}.")] = "conv4",
    objective: Annotated[str, typer.Option(help=f"One of {', '.join(OBJECTIVES)}.")] = "softmax",
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = DEFAULT.epochs,
    batch: Annotated[int, typer.Option(help="Images a step; prototypical has its own.")] = DEFAULT.batch,
    learning_rate: Annotated[float, typer.Option(help="The highest one.")] = DEFAULT.learning_rate,
    pixels: Annotated[int | None, typer.Option(help="Side of the images; default 64, omniglot 28.")] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="As --data, other classes: after each epoch the error of 5-way 1-shot episodes; the best "
            "epoch is kept."
        ),
    ] = None,
    mirror: Annotated[bool, typer.Option(help="Mirror half of the images; characters are not.")] = True,
    seed: Annotated[int, typer.Option(help="Decides weights, order and augmentation.")] = 0,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop after so many seconds; --resume goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the training in --out.")] = False,
) -> None:
    """Train a backbone whose features few-shot methods compare.

    The folder then holds weights.safetensors, for --backbone of classify and evaluate, metrics.json, and
    train.ckpt (to resume a stopped run, bit for bit).
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"--objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    if backbone not in BACKBONES:
        raise ValueError(f"--backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
    if out.exists() and any(out.iterdir()) and not resume:
        raise ValueError(f"{out} is not empty: give another --out, or --resume to continue its training")
    say(f"reading {data}")
    images = labelled_images(data, pixels=pixels)
    k_weights, k_train = jax.random.split(jax.random.key(seed))
    side, channels = images.images.shape[2:]
    start = make_backbone(backbone, key=k_weights, pixels=side, channels=channels)
    config = _config(data, images, objective, epochs, batch, learning_rate, mirror)
    check = None
    if validation is not None:
        held = labelled_images(validation, start.preprocess, option="--validation")
        shared = sorted(set(images.classes) & set(held.classes))
        if shared:
            raise ValueError(
                f"--validation {validation}: has classes of --data, {', '.join(shared[:5])}: episodes of "
                "trained classes choose nothing"
            )
        with warnings_said():
            check_disjoint(images, held)
        check, config = _episode_error(held), replace(config, keep="best")
    say(f"{backbone}: {len(images)} images of {len(images.classes)} classes; the first step compiles")

    def on_epoch(epoch: Epoch) -> None:
        wrong = epoch.validation_error
        held_out = "" if wrong is None else f", 5-way 1-shot error of --validation {wrong:.4f}"
        say(
            f"epoch {epoch.number}/{epochs}: loss {epoch.loss:.3f}, training error {epoch.error:.4f}"
            f"{held_out}, {epoch.seconds:.0f} s"
        )

    out.mkdir(parents=True, exist_ok=True)
    try:
        with progress("train") as told:
            trained = train(
                k_train,
                start,
                images,
                OBJECTIVES[objective](),
                config,
                validation=check,
                on_epoch=on_epoch,
                on_chunk=told,
                checkpoint=out / CHECKPOINT,
                time_limit_s=time_limit,
            )
    except KeyboardInterrupt:
        trained = None
    if trained is None or trained.backbone is None or not trained.finished:
        say("fewshotjax: stopped; continue with --resume")
        raise typer.Exit(STOPPED)
    save_backbone(out / WEIGHTS, trained.backbone)
    history = [asdict(epoch) for epoch in trained.history]
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "data": data,
        "validation": validation,
        "classes": list(images.classes),
        "images": len(images),
        "objective": objective,
        "seed": seed,
        "settings": trained.settings,
        "epochs": history,
    }
    write_bytes(out / METRICS, (json.dumps(figures, indent=2) + "\n").encode())
    last, best = trained.history[-1], ""
    if validation is not None:
        errors = [e.validation_error for e in trained.history if e.validation_error is not None]
        best = f", least 5-way 1-shot error of {validation} {min(errors):.4f}"
    print(f"{backbone}, {objective}: training error {last.error:.4f}{best}; weights in {out / WEIGHTS}")


def _config(
    data: str,
    images: LabelledImages,
    objective: str,
    epochs: int,
    batch: int,
    learning_rate: float,
    mirror: bool,
) -> TrainConfig:
    characters = data.startswith("omniglot")  # mirrored ones are others; 4 of 28 pixels are a large shift
    ways = min(WAYS, len(images.classes)) if objective == "prototypical" else None
    fewest = int(images.counts().min())
    return TrainConfig(
        epochs=epochs,
        batch=batch,
        ways=ways,
        per_class=max(1, min(PER_CLASS, fewest)),
        learning_rate=learning_rate,
        warmup_epochs=min(DEFAULT.warmup_epochs, epochs / 10),
        padding=2 if characters else DEFAULT.padding,
        mirror=mirror and not characters,
    )


def _episode_error(held: LabelledImages) -> Callable[[Backbone, Any], float]:
    """Error of 5-way 1-shot episodes by SimpleShot, the same episodes after every epoch."""
    least = int(held.counts().min())
    queries, ways = min(QUERIES, least - 1), min(5, len(held.classes))
    if queries < 1 or ways < 2:
        raise ValueError("--validation needs two classes at least, of two images each")

    def error(backbone: Backbone, head: Any) -> float:
        found = evaluate(
            jax.random.key(0),
            simpleshot(),
            features_of(backbone, held),
            held.labels,
            ways=ways,
            shots=1,
            queries=queries,
            episodes=EPISODES,
        )
        return 1 - found.accuracy.mean

    return error
