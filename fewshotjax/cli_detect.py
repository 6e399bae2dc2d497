"""`fewshotjax detect --support boxes.json --images DIR --out DIR`: new object classes from a few boxes."""

import warnings
from pathlib import Path
from typing import Annotated

import jax
import typer

from .console import check_new, say, warnings_said
from .detection.augmentation import AUTHORS_AUGMENTATION
from .detection.detect import detect, detector
from .detection.new_classes import NewClasses, new_classes
from .detection.new_classes_files import load_new_classes, save_new_classes
from .detection.photos import photos
from .detection.support import SupportConfig
from .detection.tuning import DetectionTuning
from .detection.windows import Windows
from .training import progress

PICTURES, TABLE = "pictures", "detections.csv"
LINES = 40  # of the table on the screen


def detect_objects(
    images: Annotated[
        Path, typer.Option(help="Photographs to look at: a folder (or zip, tar), or a picture.")
    ],
    out: Annotated[
        Path, typer.Option(help="New folder for detections.json, images.json, detections.csv and pictures/.")
    ],
    support: Annotated[
        Path | None,
        typer.Option(help="Boxes of a few examples: a COCO .json, or a folder of VOC's .xml."),
    ] = None,
    support_images: Annotated[
        Path | None,
        typer.Option(
            help="Folder (zip, tar) of the photographs that --support names; default: beside it, or --images."
        ),
    ] = None,
    detector_file: Annotated[
        Path | None,
        typer.Option(
            "--detector",
            help="A .safetensors of train-detector. Without: sliding windows over pretrained features (extra "
            "pretrained), no trained proposals.",
        ),
    ] = None,
    load: Annotated[
        Path | None, typer.Option(help="Classes that --save wrote, in place of --support.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the classes as .safetensors, for --load.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names to look for, a,b; default: all in --support.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least score, 0-1; default: chosen on the support.")
    ] = None,
    per_image: Annotated[
        int | None, typer.Option(help="Boxes of a photograph at most; default: the detector's, 100.")
    ] = None,
    pixels: Annotated[
        int | None,
        typer.Option(
            help="Working size, a multiple of 32: the longer side of photographs; default: the detector's."
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Cut boxes off at the border instead of refusing the file.")
    ] = False,
    skip: Annotated[
        bool, typer.Option("--skip", help="Pass over files that are no pictures or damaged.")
    ] = False,
    keep_base: Annotated[
        bool, typer.Option("--keep-base", help="Find the classes that the detector was trained on, too.")
    ] = False,
    tune: Annotated[
        int, typer.Option(help="Epochs of fine-tuning the detector's head on the support; authors: 5.")
    ] = 0,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment",
            help="Turn, shift, zoom and mirror the support anew in each epoch of --tune (authors).",
        ),
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of k-means and fine-tuning; default 0.")] = None,
) -> None:
    """Find new object classes in photographs, from boxes around a few examples of each.

    Writes COCO JSON, a table, and pictures with boxes, scores and the nearest example beside them.
    """
    check_new(save, suffix=".safetensors")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty: give another --out")
    if (support is None) == (load is None):
        raise ValueError("give either --support, boxes of examples, or --load, classes that --save wrote")
    if load is not None:
        given = {
            "--support-images": support_images,
            "--classes": classes,
            "--pixels": pixels,
            "--per-image": per_image,
            "--repair": repair or None,
            "--keep-base": keep_base or None,
            "--tune": tune or None,
            "--augment": augment or None,
            "--seed": seed,
        }
        vain = [option for option, value in given.items() if value is not None]
        if vain:
            raise ValueError(
                f"{', '.join(vain)} are of --support: the classes of --load are as they were saved"
            )
    for option, place in (
        ("--images", images),
        ("--support", support),
        ("--support-images", support_images),
        ("--detector", detector_file),
        ("--load", load),
    ):
        if place is not None and not place.exists():
            raise ValueError(f"{option} {place}: there is no such file or folder")
    if tune < 0:
        raise ValueError(f"--tune must be at least 0 epochs, got {tune}")
    if augment and not tune:
        raise ValueError("--augment is of fine-tuning: give --tune EPOCHS, too")
    looked_at = photos(images)
    say(f"reading {detector_file or 'the pretrained network of sliding windows'}")
    eye = detector(detector_file, per_image=per_image)
    with warnings_said():
        if load is not None:
            found = load_new_classes(load, eye)
        else:
            assert support is not None
            found = _learned(
                eye,
                support,
                support_images,
                images,
                classes,
                threshold,
                pixels,
                repair,
                keep_base,
                tune,
                augment,
                seed or 0,
            )
        for note in found.notes:
            say(f"note: {note}")
        say(f"{found!r}; {len(looked_at)} photographs; the first ones compile")
        with progress("photographs") as told:
            answer = detect(
                found,
                looked_at,
                threshold=threshold,
                unreadable="skip" if skip else "refuse",
                on_chunk=told,
            )
    out.mkdir(parents=True, exist_ok=True)
    written = [*answer.to_coco(out), out / TABLE]
    answer.to_csv(out / TABLE)
    answer.draw(out / PICTURES)
    print(answer.table(LINES))
    per_class = ", ".join(
        f"{name} {int((answer.labels == label).sum())}" for label, name in enumerate(answer.classes)
    )
    have = f"{len(answer)} boxes in {len(answer.files)} photographs"
    say(f"{have}, score from {answer.threshold:.3g}: {per_class}")
    if save is not None:
        save_new_classes(save, found)
        written.append(save)
    for file in (*written, out / PICTURES):
        say(f"wrote {file}")


def _learned(
    eye: object,
    support: Path,
    support_images: Path | None,
    images: Path,
    classes: str | None,
    threshold: float | None,
    pixels: int | None,
    repair: bool,
    keep_base: bool,
    tune: int,
    augment: bool,
    seed: int,
) -> NewClasses:
    own = isinstance(eye, Windows)
    if own and (keep_base or tune):
        raise ValueError("--keep-base and --tune need a trained detector: give --detector")
    if support_images is None and support.suffix.lower() == ".json" and images.is_dir():
        # As in `--support boxes.json --images DIR`, where the boxes are of photographs in DIR.
        support_images = images if _lie_in(support, images) else None
    with progress("support") as told:
        return new_classes(
            jax.random.key(seed),
            eye,  # type: ignore[arg-type]
            support,
            images=support_images,
            config=None if own else SupportConfig(keep_base=keep_base),
            tuning=_tuning(tune, augment),
            pixels=pixels,
            threshold=threshold,
            classes=None if classes is None else [name.strip() for name in classes.split(",")],
            faulty="repair" if repair else "refuse",
            on_chunk=told,
        )


def _tuning(epochs: int, augment: bool) -> DetectionTuning | None:
    if not epochs:
        return None
    return DetectionTuning(epochs=epochs, augmentation=AUTHORS_AUGMENTATION if augment else None)


def _lie_in(support: Path, images: Path) -> bool:
    """Whether the first photograph that boxes are of lies there, and not beside the file."""
    from .detection.data.coco import read_coco  # light; read again with the pictures

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all is told where it is read for good, faults as well
            known = read_coco(support, faulty="repair")
    except ValueError:
        return False
    names = [known.files[row] for row in sorted(set(known.truth.image_index.tolist()))]
    return bool(names) and not (support.parent / names[0]).is_file() and (images / names[0]).is_file()
