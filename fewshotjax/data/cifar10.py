"""CIFAR-10 (Krizhevsky 2009) as JPEG pictures: ten classes, 5,000 (train) and 1,000 (test) images each.

From root/cifar10.tar.xz with train|test/CLASS/FILE. JPEG is lossy: these are not the published pixels, so
figures on them are their own.
"""

import os
from collections.abc import Sequence

import numpy as np

from fewshotjax.data.decode import load
from fewshotjax.data.files import File, Files
from fewshotjax.data.labelled import LabelledImages, chosen_classes
from fewshotjax.data.root import data_file

SIDE = 32  # pixels
PARTS = ("train", "test")


def cifar10(
    root: str | os.PathLike[str] | None,
    part: str,
    *,
    classes: Sequence[str] | None = None,
    threads: int | None = None,
) -> LabelledImages:
    """One part, in the order of class and file: (N, 32, 32, 3) uint8. The archive is read once, as a stream.

    Args:
        root: the folder that holds cifar10.tar.xz; None: FRUGALJAX_DATA.
        part: train or test.
        classes: to read, such as ("cat", "dog"), in this order. None: all, sorted.
        threads: that decode; None: one per processor up to 8.

    Raises:
        ValueError: another part or class, a missing or damaged file.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    with Files(data_file(root, "cifar10.tar.xz")) as files:
        members: dict[str, list[str]] = {}
        for name in files.names:
            if name.startswith(f"{part}/") and name.count("/") == 2:
                members.setdefault(name.split("/")[1], []).append(name)
        if not members:
            raise ValueError(f"{files.place}: has no pictures {part}/CLASS/FILE: get it again")
        names = tuple(members) if classes is None else chosen_classes(classes, tuple(members))
        rows = [(label, file) for label, name in enumerate(names) for file in members[name]]
        images = load([File(files, file) for _, file in rows], side=SIDE, threads=threads)
    labels = np.array([label for label, _ in rows], np.int32)
    return LabelledImages(images, labels, names, tuple(file for _, file in rows))
