"""`fewshotjax classify --support DIR --query DIR_OR_FILE`: a user's own pictures by a few examples."""

from pathlib import Path
from typing import Annotated

import typer

from .classifier import fit
from .classifier_files import save_classifier
from .classifier_plot import plot_predictions
from .classifier_predict import NONE, predict
from .cli_inputs import BACKBONE_HELP, DEFAULT, labelled_images, named_backbone
from .console import check_new, say, warnings_said
from .methods import METHODS
from .training import progress


def classify(
    support: Annotated[
        Path, typer.Option(help="Folder (or zip, tar) with one subfolder of examples per class.")
    ],
    query: Annotated[Path, typer.Option(help="A picture, or a folder (zip, tar) of pictures.")],
    backbone: Annotated[str, typer.Option(help=BACKBONE_HELP)] = DEFAULT,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "repmet",
    reject: Annotated[
        str,
        typer.Option(
            help="Distance (0-2) above which a query is 'none of these'; auto: from the support; or off."
        ),
    ] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write a .csv file, one line a query.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw examples and queries in two dimensions to a .png file.")
    ] = None,
    projection: Annotated[str, typer.Option(help="Of the picture: pca or tsne.")] = "pca",
    save: Annotated[
        Path | None, typer.Option(help="Write the classifier as .safetensors, for load_classifier.")
    ] = None,
) -> None:
    """Label pictures by a few examples of each class, with confidence and the nearest example."""
    check_new(out, suffix=".csv")
    check_new(picture, suffix=".png")
    check_new(save, suffix=".safetensors")
    limit = _reject(reject)
    if projection not in ("pca", "tsne"):
        raise ValueError(f"--projection must be pca or tsne, got {projection!r}")
    for option, place in (("--support", support), ("--query", query)):
        if not place.exists():
            raise ValueError(f"{option} {place}: there is no such file or folder")
    say(f"reading {support} and {backbone}")
    embed = named_backbone(backbone)
    examples = labelled_images(str(support), embed.preprocess, option="--support")
    say(f"{len(examples)} examples of {len(examples.classes)} classes; the first batch compiles")
    with warnings_said():
        with progress("examples") as told:
            classifier = fit(embed, examples, method=method, reject=limit, on_chunk=told)
        for note in classifier.notes:
            say(f"note: {note}")
        with progress("queries") as told:
            found = predict(classifier, query, on_chunk=told)
    print(found.table())
    rejected = sum(name == NONE for name in found.names)
    at = (
        ""
        if found.threshold is None
        else f", {rejected} none of these (distance above {found.threshold:.3f})"
    )
    sigma = "" if classifier.sigma is None else f"; sigma {classifier.sigma:.3g}"
    say(f"{len(found.files)} queries{at}{sigma}")
    if out is not None:
        found.to_csv(out)
    if picture is not None:
        plot_predictions(classifier, found, method=projection).figure.savefig(picture)
    if save is not None:
        save_classifier(save, classifier)
    for file in (out, picture, save):
        if file is not None:
            say(f"wrote {file}")


def _reject(text: str) -> float | str | None:
    if text.lower() in ("auto", "off"):
        return "auto" if text.lower() == "auto" else None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--reject must be auto, off or a distance, got {text!r}") from None
