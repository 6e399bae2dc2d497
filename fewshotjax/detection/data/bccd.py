"""BCCD: blood cells in 364 photographs of 640x480, up to 30 boxes each (MIT licence, Shenggan et al.).

From root/bccd/bccd.zip, in the layout of VOC: BCCD/JPEGImages, Annotations, ImageSets/Main.
"""

import os
import warnings

from fewshotjax.data.files import Files
from fewshotjax.data.root import data_file
from fewshotjax.detection.data.annotations import Annotations, read_images
from fewshotjax.detection.data.boxed import BoxedImages
from fewshotjax.detection.data.voc import read_voc

CLASSES = ("RBC", "WBC", "Platelets")
PARTS = ("train", "val", "test")


def bccd(root: str | os.PathLike[str] | None, part: str, *, threads: int | None = None) -> BoxedImages:
    """One part, in the order of its list: (N, 480, 640, 3) uint8 and the boxes of its cells.

    Two degenerate boxes (one pixel) are left out.

    Args:
        root: the folder that holds bccd; None: FRUGALJAX_DATA.
        part: train (205), val (87) or test (72 images).
        threads: that decode; None: one per processor up to 8.

    Raises:
        ValueError: another part, a missing or damaged file.
    """
    place = data_file(root, "bccd", "bccd.zip")
    return read_images(bccd_annotations(root, part), place, prefix="BCCD/JPEGImages/", threads=threads)


def bccd_annotations(root: str | os.PathLike[str] | None, part: str) -> Annotations:
    """The boxes alone."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    place = data_file(root, "bccd", "bccd.zip")
    with Files(place) as files:
        name = f"BCCD/ImageSets/Main/{part}.txt"
        if name not in files:
            raise ValueError(f"{place}: has no {name}: get it again")
        names = files.read(name).decode("ascii", "replace").split()
    with warnings.catch_warnings():
        # The two boxes are known; nothing else is wrong with these files (a test counts what is left).
        warnings.simplefilter("ignore", UserWarning)
        return read_voc(place, names, prefix="BCCD/Annotations/", classes=CLASSES, faulty="repair")
