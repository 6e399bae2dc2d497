"""The boxes that a user shows: of a file or in memory, checked, one row each, with a picture of each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..classifier_fingerprint import image_digests
from ..data.labelled import chosen_classes
from .data.annotations import Annotations, Faulty, read_images
from .data.boxed import BoxedImages
from .data.coco import read_coco
from .data.fit import fitted
from .data.voc import read_voc

CROP = 96  # pixels of the longer side of an example's picture
MARGIN = 0.1  # of a box's sides, around it in that picture
SMALL = 8.0  # pixels of a box's shorter side at working size, below which little of it is left
NAMED = 5  # of what a message lists


@dataclass(frozen=True, eq=False)
class Shown:
    """S boxes of N photographs, at the working size."""

    photographs: BoxedImages  # (N, P, P, 3), the boxes of the classes
    image: np.ndarray  # (S,) int32, row of `photographs` of each box
    slot: np.ndarray  # (S,) int32, its place among that one's boxes
    labels: np.ndarray  # (S,) int32
    boxes: np.ndarray  # (S, 4) float32, pixels of the photograph as it was given
    files: tuple[str, ...]  # S names of the photographs
    sizes: np.ndarray  # (N, 2) float32, height and width that a photograph fills at working size
    crops: tuple[UInt8[np.ndarray, "_ _ 3"], ...]  # S pictures of at most CROP pixels
    category_ids: tuple[int, ...]  # one a class, of the COCO file, or from 1
    digests: tuple[str, ...]  # N, SHA-256 of the photographs
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.photographs.classes

    def __len__(self) -> int:
        return len(self.labels)


def read_support(
    support: BoxedImages | str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    classes: Sequence[str] | None = None,
    faulty: Faulty = "refuse",
    keep_empty: bool = False,
    longest: int | None = None,
) -> tuple[BoxedImages, tuple[int, ...]]:
    """Photographs of any sizes with their boxes, and a category number for each class.

    Args:
        support: `BoxedImages`; a COCO JSON; or a folder, zip or tar file of VOC's XML, one a photograph.
        images: folder, zip or tar file with the photographs that a file names. None: where the JSON lies, or
            the folder of XML itself.
        classes: names to look for; None: all that the file has.
        faulty: boxes outside of their photograph or without a side: "refuse", or "repair", which cuts or
            drops them with a warning.
        keep_empty: also photographs without a box, which show background: to train and to test on.
        longest: pixels of the longer side of photographs of files, as of `read_images`.

    Raises:
        ValueError: as `read_coco`, `read_voc` and `read_images`; no boxes at all; a class without one.
    """
    if isinstance(support, BoxedImages):
        if images is not None:
            raise ValueError("support has its photographs already: leave images out")
        found, numbers = support, tuple(range(1, len(support.classes) + 1))
    else:
        path = Path(support)
        of_coco = path.suffix.lower() == ".json"
        if not path.exists():
            raise ValueError(f"{path}: there is no such file: give a COCO JSON, or a folder of VOC's XML")
        known: Annotations = read_coco(path, faulty=faulty) if of_coco else read_voc(path, faulty=faulty)
        used = np.unique(known.truth.image_index)
        if not len(used):
            raise ValueError(f"{path}: has no boxes: draw one around an example of each class, at least")
        place = images if images is not None else path.parent if of_coco else path
        wanted = known if keep_empty else known.only(used)
        found, numbers = read_images(wanted, place, longest=longest), known.category_ids
    if not found.shown.any():
        raise ValueError("support has no boxes: give one of each class, at least")
    if classes is not None:
        names = chosen_classes(classes, found.classes)
        numbers = tuple(numbers[found.classes.index(name)] for name in names)
        found = found.only(names)
    return found, numbers


def show(support: BoxedImages, category_ids: tuple[int, ...], pixels: int) -> Shown:
    """The boxes in a row, at a working size; regions of many objects (COCO's crowds) are no examples.

    Raises:
        ValueError: a class without a usable box: it is named.
    """
    if not len(support) or not support.shown.any():
        raise ValueError("support has no boxes: give one of each class, at least")
    notes = []
    support = _rgb(support)
    crowd = np.asarray(support.crowd) & support.shown
    kept = support.shown & ~crowd
    if crowd.any():
        notes.append(f"{int(crowd.sum())} boxes of crowds are no examples, and no background either")
    counts = np.bincount(support.labels[kept], minlength=len(support.classes))
    empty = [name for name, count in zip(support.classes, counts.tolist(), strict=True) if not count]
    if empty:
        have = [name for name in support.classes if name not in empty]
        raise ValueError(
            f"support has no usable box of {_listed(empty)}: draw one, or name the others alone, "
            f"classes={tuple(have[:NAMED])}"
        )
    image, slot = np.nonzero(kept)
    fit = fitted(support, pixels, pixels)
    at_work = fit.images.boxes[image, slot]
    side = (at_work[:, 2:] - at_work[:, :2]).min(axis=1)
    if (side < SMALL).any():
        notes.append(
            f"{int((side < SMALL).sum())} support boxes are under {SMALL:g} pixels at a working size of "
            f"{pixels}, where little of them is seen: raise pixels"
        )
    boxes, labels = support.boxes[image, slot], support.labels[image, slot]
    single = [name for name, count in zip(support.classes, counts.tolist(), strict=True) if count == 1]
    if single:
        notes.append(f"classes of one example: {_listed(single)}; more of them make a class surer")
    return Shown(
        fit.images,
        image.astype(np.int32),
        slot.astype(np.int32),
        labels,
        boxes,
        tuple(support.where(row) for row in image.tolist()),
        np.round(support.sizes * fit.scales[:, ::-1]).astype(np.float32),
        tuple(
            crop(support.images[row], box) for row, box in zip(image.tolist(), boxes.tolist(), strict=True)
        ),
        category_ids,
        tuple(image_digests(one[None])[0] for one in support.images),
        tuple(notes),
    )


def crop(photo: UInt8[np.ndarray, "H W 3"], box: Sequence[float]) -> UInt8[np.ndarray, "h w 3"]:
    """What a box shows with a margin, at most CROP pixels wide and high."""
    x1, y1, x2, y2 = box
    dx, dy = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    left, top = (max(0, int(np.floor(low))) for low in (x1 - dx, y1 - dy))
    right, bottom = int(np.ceil(x2 + dx)), int(np.ceil(y2 + dy))
    piece = Image.fromarray(np.ascontiguousarray(photo[top:bottom, left:right]))
    piece.thumbnail((CROP, CROP), Image.Resampling.BILINEAR)
    return np.asarray(piece)


def _rgb(support: BoxedImages) -> BoxedImages:
    """Grey photographs get three channels."""
    if all(image.shape[2] == 3 for image in support.images):
        return support
    strange = next((image.shape[2] for image in support.images if image.shape[2] not in (1, 3)), None)
    if strange is not None:
        raise ValueError(f"support has a photograph of {strange} channels: give 1 (grey) or 3 (RGB)")
    images = tuple(np.repeat(one, 3, axis=2) if one.shape[2] == 1 else one for one in support.images)
    return replace(support, images=images)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
