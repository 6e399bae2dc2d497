"""Omniglot (Lake et al. 2015): handwritten characters, each drawn by 20 people, split by alphabet.

base  Balinese, Greek, Japanese (katakana), Latin, Sanskrit: 163 characters
val   Early Aramaic: 22
test  Korean, Tagalog: 57

From root/omniglot: images_background_small1.zip and images_background_small2.zip. Greek and Latin are in
both, with the same files, and count once. A split of our own: the usual one needs all 50 alphabets.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from fewshotjax.data.decode import load
from fewshotjax.data.files import File, Files
from fewshotjax.data.labelled import LabelledImages, chosen_classes
from fewshotjax.data.root import data_file

SIDE = 105  # pixels, as published
ARCHIVES = ("images_background_small1.zip", "images_background_small2.zip")
PARTS = {
    "base": ("Balinese", "Greek", "Japanese_(katakana)", "Latin", "Sanskrit"),
    "val": ("Early_Aramaic",),
    "test": ("Korean", "Tagalog"),
}


def omniglot(
    root: str | os.PathLike[str] | None,
    part: str,
    pixels: int = 28,
    *,
    rotations: bool = False,
    classes: Sequence[str] | None = None,
    threads: int | None = None,
) -> LabelledImages:
    """One part, in the order of class and drawer, with bright strokes (255) on black: inverted.

    Args:
        root: the folder that holds omniglot; None: FRUGALJAX_DATA.
        part: base, val or test.
        pixels: side of the images, resized from 105 bilinear and antialiased.
        rotations: base only: each character turned by 90, 180 and 270 degrees counter-clockwise is a class
            of its own (Vinyals et al. 2016; Santoro et al. 2016). They come after all upright ones. Some
            characters look the same when turned, and are two classes nonetheless, as in these papers.
        classes: to read, such as "Greek/character01", in this order. None: all, sorted.
        threads: that decode; None: one per processor up to 8.

    Returns:
        (N, pixels, pixels, 1) uint8; classes "alphabet/character", or "alphabet/character/rot90".

    Raises:
        ValueError: another part or class, rotations of val or test, a missing or damaged file.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    if rotations and part != "base":
        raise ValueError(f"rotations make more classes to learn from: set part='base', got {part!r}")
    with ExitStack() as stack:
        opened = [stack.enter_context(Files(data_file(root, "omniglot", name))) for name in ARCHIVES]
        members = _members(opened, part)
        names = tuple(members) if classes is None else chosen_classes(classes, tuple(members))
        rows = [(label, file) for label, name in enumerate(names) for file in members[name].values()]
        strokes = load([f for _, f in rows], pixels=pixels, channels=1, side=SIDE, threads=threads)
    np.subtract(255, strokes, out=strokes)
    labels = np.array([label for label, _ in rows], np.int32)
    files = tuple(file.name for _, file in rows)
    if not rotations:
        return LabelledImages(strokes, labels, names, files)
    turns = range(4)
    return LabelledImages(
        np.concatenate([np.rot90(strokes, turn, axes=(1, 2)) for turn in turns]),
        np.concatenate([labels + np.int32(turn * len(names)) for turn in turns]),
        tuple(name + _turned(turn) for turn in turns for name in names),
        tuple(file + _turned(turn) for turn in turns for file in files),
    )


def _turned(turn: int) -> str:
    return f"/rot{90 * turn}" if turn else ""


def _members(opened: list[Files], part: str) -> dict[str, dict[str, File]]:
    """Class -> drawing -> file, sorted; what is in both archives once."""
    found: dict[str, dict[str, File]] = {}
    for files in opened:
        for name in files.names:
            alphabet, character, drawing = ("", "", *name.split("/"))[-3:]
            if alphabet not in PARTS[part]:
                continue
            drawings = found.setdefault(f"{alphabet}/{character}", {})
            first = drawings.setdefault(drawing, File(files, name))
            if first.source.checksum(first.name) != files.checksum(name):
                raise ValueError(f"{files.place / name}: differs from {first}: get both again")
    alphabets = {name.split("/")[0] for name in found}
    lacking = [alphabet for alphabet in PARTS[part] if alphabet not in alphabets]
    if lacking:
        places = ", ".join(str(files.place) for files in opened)
        raise ValueError(f"{places}: have no pictures of {lacking[0]}: get them again")
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}
