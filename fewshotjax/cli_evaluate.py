"""`fewshotjax evaluate --data ...`: methods on the same episodes, with intervals."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from .backbones import features as features_of
from .classifier_fingerprint import fingerprint
from .cli_inputs import (
    BACKBONE_HELP,
    DEFAULT,
    contamination,
    is_features,
    labelled_features,
    labelled_images,
    named_backbone,
)
from .console import check_new, say, warnings_said
from .episodes import EpisodeConfig
from .evaluation import compare
from .files import write_bytes
from .methods import METHODS, by_name
from .training import progress

SCHEMA = "frugaljax.fewshot.evaluation/1"


def evaluate_methods(
    data: Annotated[
        str,
        typer.Option(
            help="Folder with one subfolder per class, CSV of pictures (file,label) or of features "
            "(label,...), or a part of a set below FRUGALJAX_DATA: tiny_imagenet:novel_test, omniglot:test."
        ),
    ],
    backbone: Annotated[str, typer.Option(help=BACKBONE_HELP)] = DEFAULT,
    ways: Annotated[int, typer.Option(help="Classes of an episode.")] = 5,
    shots: Annotated[int, typer.Option(help="Examples of each to learn from.")] = 1,
    queries: Annotated[int, typer.Option(help="Others of each to be tested on.")] = 15,
    episodes: Annotated[int, typer.Option(help="How many are drawn.")] = 1_000,
    methods: Annotated[str, typer.Option(help="With commas; default: all.")] = ",".join(METHODS),
    seed: Annotated[int, typer.Option(help="Decides the episodes.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the figures as .json.")] = None,
) -> None:
    """Compare few-shot methods on the same episodes: accuracy with its 95 % interval."""
    check_new(out, suffix=".json")
    config = EpisodeConfig(ways, shots, queries)
    chosen = {name: by_name(name) for name in dict.fromkeys(part.strip() for part in methods.split(","))}
    if episodes < 1:
        raise ValueError(f"--episodes must be at least 1, got {episodes}")
    embed, notes = None, []
    say(f"reading {data}")
    if is_features(data):
        found, labels, classes = labelled_features(data)
    else:
        embed = named_backbone(backbone)
        images = labelled_images(data, embed.preprocess)
        say(f"{len(images)} images of {len(images.classes)} classes; the first batch compiles")
        with progress("features") as told:
            found = features_of(embed, images, on_chunk=told)
        labels, classes = images.labels, images.classes
    note = contamination(data, embed)
    if note:
        notes.append(note)
    with progress("episodes") as told, warnings_said():
        comparison = compare(
            jax.random.key(seed),
            chosen,
            np.asarray(found),
            labels,
            ways=ways,
            shots=shots,
            queries=queries,
            episodes=episodes,
            names=classes,
            on_chunk=told,
        )
    where = "features" if embed is None else embed.name
    print(f"{data}, {where}: {episodes} episodes of {ways} ways, {shots} shots, {queries} queries")
    print(comparison.table())
    for note in notes:
        print(f"note: {note}")
    if out is not None:
        report: dict[str, Any] = {
            "schema": SCHEMA,
            "data": data,
            "backbone": None if embed is None else fingerprint(embed),
            "seed": seed,
            "episode": asdict(config),
            "notes": notes,
            **{name: told for name, told in comparison.as_dict().items() if name != "schema"},
        }
        write_bytes(out, (json.dumps(report, indent=2) + "\n").encode())
        say(f"wrote {out}")
