"""A user's own pictures: a folder with one subfolder per class, and pictures without classes."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewshotjax.data.decode import SUFFIXES, load
from fewshotjax.data.files import File, Files
from fewshotjax.data.labelled import LabelledImages, Pictures, chosen_classes

HINT = "give a folder with one subfolder of pictures per class"


def folder(
    path: str | os.PathLike[str],
    pixels: int | None = None,
    channels: int = 3,
    *,
    classes: Sequence[str] | None = None,
    threads: int | None = None,
) -> LabelledImages:
    """The pictures of a folder, zip or tar file with one subfolder per class, in sorted order.

    An archive's single outer folder is passed over. Photographs stand upright (EXIF), grey ones and palettes
    become RGB, transparency is laid on white.

    Args:
        pixels: side of the images: the shorter side is resized to it and the centre cropped, bilinear and
            antialiased. None: the pictures as they are, which must have one size.
        channels: 3 (RGB) or 1 (grey).
        classes: the subfolders to read, in this order. None: all, sorted.
        threads: that decode; None: one per processor up to 8.

    Returns:
        The class names are those of the subfolders, the files relative to `path`.

    Raises:
        ValueError: no class folders, one without pictures, a picture outside of them, or a file that is no
            picture, damaged or too large; it is named.
    """
    with Files(path) as files:
        top = _outer(files)
        members: dict[str, list[str]] = {
            name[len(top) :]: [] for name in files.folders if _depth(name, top) == 0
        }
        if not members:
            raise ValueError(f"{path}: has no class folders: {HINT}")
        for name in files.names:
            depth = _depth(name, top)
            if depth == 0 and name.lower().endswith(SUFFIXES):
                raise ValueError(f"{files.place / name}: lies in no class folder: {HINT}")
            if depth == 1:
                members[name[len(top) :].split("/")[0]].append(name)
            elif depth is not None and depth > 1:
                raise ValueError(f"{files.place / name}: lies below a class folder, not in it: {HINT}")
        names = tuple(members) if classes is None else chosen_classes(classes, tuple(members))
        for name in names:
            if not members[name]:
                raise ValueError(f"{files.place / top / name}: holds no pictures: add some or remove it")
        rows = [(file, label) for label, name in enumerate(names) for file in members[name]]
        images = load([File(files, f) for f, _ in rows], pixels=pixels, channels=channels, threads=threads)
    labels = np.array([label for _, label in rows], np.int32)
    return LabelledImages(images, labels, names, tuple(file for file, _ in rows))


def pictures(
    path: str | os.PathLike[str],
    pixels: int | None = None,
    channels: int = 3,
    *,
    threads: int | None = None,
) -> Pictures:
    """One picture, or all below a folder or in a zip or tar file in sorted order: images and names.

    Args:
        pixels, channels, threads: as in `folder`.

    Raises:
        ValueError: no pictures, or a file that is none, damaged or too large; it is named.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        with Files(path.absolute().parent, [path.name]) as files:
            only = [File(files, path.name)]
            return Pictures(load(only, pixels=pixels, channels=channels, threads=1), (path.name,))
    with Files(path) as files:
        if not files.names:
            raise ValueError(f"{path}: holds no pictures: give another folder")
        every = [File(files, name) for name in files.names]
        return Pictures(load(every, pixels=pixels, channels=channels, threads=threads), files.names)


def _outer(files: Files) -> str:
    """ "name/" of a single outer folder around the class folders, else ""."""
    first = [name for name in files.folders if "/" not in name]
    if len(first) != 1 or not any("/" in name for name in files.folders):
        return ""
    inside = [name for name in files.names if name.count("/") <= 1 and name.lower().endswith(SUFFIXES)]
    return "" if inside else f"{first[0]}/"


def _depth(name: str, top: str) -> int | None:
    """Folders between `top` and a file or folder; None: it is not below `top`."""
    return name[len(top) :].count("/") if name.startswith(top) and name != top else None
