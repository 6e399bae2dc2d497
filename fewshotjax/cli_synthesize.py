"""`fewshotjax train-delta` and `fewshotjax synthesize`: samples of classes of one's own, from features."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import typer

from .cli_features import FeatureWriter, read_features
from .console import check_new, say, warnings_said
from .data import LabelledFeatures
from .delta import (
    DeltaConfig,
    DeltaEncoder,
    DeltaEpoch,
    DeltaTrainConfig,
    EpisodeFit,
    accuracies_by_epoch,
    delta_sampler,
    load_delta,
    save_delta,
    synthesize,
    train_delta,
)
from .delta.config import LOSSES, SCALINGS
from .delta.synthesis import CODES, row_bytes
from .episode_task import episode_task
from .files import digest_of
from .training import progress

STOPPED = 130  # exit code of a training that --resume continues
MOST_BYTES = 2**30  # of what the samples of one class take, which are made at once
FEATURES = "A .npz with features (N, D) and labels (N,), or a .csv with the column label and one per feature."
WAYS, QUERIES, EPISODES, SAMPLES = 5, 15, 200, 256  # of the validation, at most; 1-shot
MODEL, TRAIN = DeltaConfig(), DeltaTrainConfig()


def train_delta_encoder(
    features: Annotated[Path, typer.Option(help=f"Of the seen classes. {FEATURES}")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write, for synthesize.")],
    validation: Annotated[
        Path | None,
        typer.Option(
            help="As --features, other classes: after each epoch the error of 1-shot episodes, 5-way with 15 "
            "queries where there are enough; the best epoch is kept."
        ),
    ] = None,
    hidden: Annotated[int, typer.Option(help="Width of the hidden layers.")] = MODEL.hidden,
    code: Annotated[int, typer.Option(help="Numbers in a code.")] = MODEL.code,
    loss: Annotated[str, typer.Option(help=f"One of {', '.join(LOSSES)}.")] = MODEL.loss,
    scaling: Annotated[str, typer.Option(help=f"Of features: {', '.join(SCALINGS)}.")] = MODEL.scaling,
    epochs: Annotated[int, typer.Option(help="Passes over the features.")] = TRAIN.epochs,
    batch: Annotated[int, typer.Option(help="Pairs a step.")] = TRAIN.batch,
    learning_rate: Annotated[
        float,
        typer.Option(
            help="Of the first epoch. The default is the authors', for 38,400 features; begin with 1e-3 on a "
            "few thousand."
        ),
    ] = TRAIN.learning_rate,
    seed: Annotated[int, typer.Option(help="Decides weights, pairs, order and dropout.")] = 0,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop after so many seconds; --resume goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped training.")] = False,
) -> None:
    """Train a Delta-encoder on features of seen classes.

    The defaults are the authors'. On a few thousand features begin with --hidden 1024 --learning-rate 1e-3.
    A stopped training leaves OUT.ckpt, from which --resume goes on, bit for bit.
    """
    check_new(out, suffix=".safetensors")
    config = DeltaConfig(hidden=hidden, code=code, loss=loss, scaling=scaling)
    state = out.with_name(out.name + ".ckpt")
    if state.exists() and not resume:
        raise ValueError(f"{state} exists: --resume to continue its training, or give another --out")
    train = DeltaTrainConfig(learning_rate, batch, epochs, keep="last" if validation is None else "best")
    say(f"reading {features}")
    known = read_features(features, "--features")
    check = None if validation is None else _validation(validation, known)
    if check is not None:
        say(f"--validation: {check.told}{check.left_out}")
    say(f"{len(known.features)} examples of {len(known.classes)} classes; the first step compiles")

    def on_epoch(epoch: DeltaEpoch) -> None:
        wrong = epoch.validation_error
        held_out = "" if check is None else f", error of --validation {wrong:.4f}"
        say(f"epoch {epoch.number}/{epochs}: loss {epoch.loss:.4g}{held_out}, {epoch.seconds:.0f} s")

    try:
        with progress("train") as told, warnings_said():
            trained = train_delta(
                jax.random.key(seed),
                known.features,
                known.labels,
                config,
                train,
                validation=None if check is None else check.error,
                validation_settings=None if check is None else check.settings,
                on_epoch=on_epoch,
                on_chunk=told,
                checkpoint=state,
                time_limit_s=time_limit,
            )
    except KeyboardInterrupt:
        trained = None
    if trained is None or not trained.finished:
        say("fewshotjax: stopped; continue with --resume")
        raise typer.Exit(STOPPED)
    save_delta(out, trained.delta)
    state.unlink(missing_ok=True)
    last = trained.history[-1]
    print(f"Delta-encoder of {len(known.classes)} classes: loss {last.loss:.4g}; weights and codes in {out}")


def synthesize_features(
    features: Annotated[Path, typer.Option(help=f"Examples of new classes, all of them seeds. {FEATURES}")],
    delta: Annotated[Path, typer.Option(help="The .safetensors file of train-delta.")],
    out: Annotated[Path, typer.Option(help="The .npz or .csv file to write, of the form of --features.")],
    per_class: Annotated[
        int,
        typer.Option(
            help="Samples of each class, shared by its seeds; 0: none, which scales a table of queries as "
            "samples are, class by class."
        ),
    ] = 1024,
    codes: Annotated[str, typer.Option(help=f"One of {', '.join(CODES)}.")] = "pairs",
    include_seeds: Annotated[bool, typer.Option(help="Also write the seeds.")] = True,
    seed: Annotated[int, typer.Option(help="Decides the samples.")] = 0,
) -> None:
    """Write synthesized features of classes that were seen once or a few times."""
    check_new(out)
    if not per_class and not include_seeds:
        raise ValueError("--per-class is 0 and --no-include-seeds given: there is nothing to write")
    if codes not in CODES:
        raise ValueError(f"--codes must be one of {', '.join(CODES)}, got {codes!r}")
    if not delta.is_file():
        raise ValueError(f"--delta {delta}: there is no such file: fewshotjax train-delta writes one")
    say(f"reading {features} and {delta}")
    encoder, seeds = load_delta(delta), read_features(features, "--features")
    _check_seeds(encoder, seeds, per_class)
    most = len(encoder.bank) if codes == "pairs" else per_class
    with FeatureWriter(out, seeds.classes, encoder.width) as writer, warnings_said():
        for label in range(len(seeds.classes)):
            own = seeds.features[seeds.labels == label]
            each, (padded, count) = per_class // len(own), _shape(len(own), per_class)
            made = synthesize(
                jax.random.fold_in(jax.random.key(seed), label),
                encoder,
                own[np.minimum(np.arange(padded), len(own) - 1)],
                each if each > most else min(count, most),
                codes=codes,
                include_seeds=include_seeds,
            )
            array = np.asarray(made)[: len(own), : each + int(include_seeds)]
            synthesized = np.tile(np.arange(array.shape[1]) >= int(include_seeds), len(own))
            writer.add(array.reshape(-1, encoder.width), label, synthesized)
    print(f"{writer.rows} rows of {len(seeds.classes)} classes in {out}")
    if encoder.scaling.kind != "none":
        say(
            f"note: features are scaled ({encoder.scaling.kind}) as the Delta-encoder's; --per-class 0 "
            "scales a table of queries alike"
        )


def _shape(seeds: int, per_class: int) -> tuple[int, int]:
    """Seeds and samples of each that are made, and then cut: one compilation for all numbers of seeds between
    two powers of two, and at most twice the work."""
    padded = 1 << (seeds - 1).bit_length()
    return padded, per_class // (padded // 2 + 1)


def _check_seeds(encoder: DeltaEncoder, seeds: LabelledFeatures, per_class: int) -> None:
    width, counts = seeds.features.shape[1], np.bincount(seeds.labels, minlength=len(seeds.classes))
    if width != encoder.width:
        raise ValueError(f"--features has {width} features, the Delta-encoder of --delta {encoder.width}")
    if per_class < counts.max() and per_class != 0:
        name = seeds.classes[int(counts.argmax())]
        raise ValueError(
            f"--per-class is {per_class}, but class {name} has {counts.max()} seeds, which share them: give "
            f"{counts.max()} or more, or 0 for none"
        )
    most = MOST_BYTES // row_bytes(width, encoder.config.code)
    if per_class > most:
        raise ValueError(f"--per-class is {per_class}: a class of more than {most} samples takes above 1 GiB")


class _Validation(NamedTuple):
    """Episodes of --validation, the same after every epoch."""

    error: Callable[[DeltaEncoder], float]
    told: str
    left_out: str
    settings: dict[str, Any]  # that the errors depend on


def _validation(path: Path, known: LabelledFeatures) -> _Validation:
    held = read_features(path, "--validation")
    shared = sorted(set(held.classes) & set(known.classes))
    if shared:
        raise ValueError(
            f"--validation {path}: has classes of --features, {', '.join(shared[:5])}: episodes of trained "
            "classes choose nothing; if they are others, number the classes apart, or give names"
        )
    if held.features.shape[1] != known.features.shape[1]:
        raise ValueError(
            f"--validation has {held.features.shape[1]} features, --features {known.features.shape[1]}"
        )
    counts = np.sort(np.bincount(held.labels))[::-1]
    ways = min(WAYS, int((counts > 1).sum()))
    if ways < 2:
        raise ValueError("--validation needs two classes at least, of two examples each")
    # As many queries as leave enough classes; smaller ones take no part, rather than cut all others.
    queries = min(QUERIES, int(counts[ways - 1]) - 1)
    shape: dict[str, Any] = {"ways": ways, "shots": 1, "queries": queries, "episodes": EPISODES}
    task = episode_task(jax.random.key(0), held.features, held.labels, names=held.classes, **shape)

    def error(delta: DeltaEncoder) -> float:
        found = accuracies_by_epoch(task, delta_sampler(delta), EpisodeFit(min(SAMPLES, len(delta.bank))))
        return 1 - float(found.mean())

    small = ", ".join(task.excluded[:5]) + (", ..." if len(task.excluded) > 5 else "")
    return _Validation(
        error,
        f"{EPISODES} episodes, {ways}-way 1-shot with {queries} queries of a class",
        f"; left out, of fewer than {queries + 1} examples: {small}" if small else "",
        {"data": digest_of([held.features, held.labels]), "samples": SAMPLES, **task.settings},
    )
