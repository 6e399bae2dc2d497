"""ImageNet as it is kept on disk: DIR/train/WNID/*.JPEG and DIR/val/WNID/*.JPEG.

A wnid (n01440764) names a class; the classes of trained networks are the 1,000 wnids of ILSVRC-2012 in sorted
order. Of a part of the classes the order says nothing, so then a table is needed.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nemojax.data.class_table import FORMS, WNID, WordNetClass, class_table
from nemojax.data.entries import LABELS, is_picture
from nemojax.data.labelled import Pictures, labelled_pictures
from nemojax.sources import Source

CLASSES = 1000
SYNSETS = "LOC_synset_mapping.txt"  # of the copy that Kaggle distributes; found beside train and val


def imagenet(
    place: str | os.PathLike[str],
    part: str = "val",
    *,
    table: str | os.PathLike[str] | None = None,
    classes: int | None = CLASSES,
) -> Pictures:
    """Pictures of `place`/`part`, or of `place` itself where it has no such folder, by wnid and file name.

    A folder with a labels.csv (columns file,label) is read by that instead.

    Args:
        part: "val" or "train".
        table: of the classes, see `class_table`; by default LOC_synset_mapping.txt in `place` if it is
            there, else all wnids must be there and their sorted order is that of the classes.
        classes: of the network. None: as many as there are wnids or lines.

    Raises:
        ValueError: one line that names the folder, what is wrong with it and what to do.
    """
    if part not in ("train", "val"):
        raise ValueError(f"part must be 'train' or 'val', got {part!r}")
    other = "val" if part == "train" else "train"
    if has_part(place, other) and not has_part(place, part):
        raise ValueError(
            f"{place}: has a folder {other} but none for {part}: add it, or give {place}/{other}"
        )
    source = Source(Path(place, part) if has_part(place, part) else place)
    if any(name.split("/")[-1] == LABELS and name.count("/") <= 1 for name in source.names):
        return labelled_pictures(source, classes)
    beside = Path(place, SYNSETS)
    if table is None and beside.is_file():
        table = beside
    wnids = _wnid_folders(source)
    known = class_table(table, classes) if table is not None else _by_order(source, wnids, classes)
    members: dict[str, int] = dict.fromkeys(wnids, 0)
    names = [name for name in source.names if "/" in name]
    for name in names:
        if not is_picture(name):
            raise ValueError(f"{source.place / name}: is not a picture by its name: move it out")
        members[name.split("/")[0]] += 1
    for wnid, count in members.items():
        if wnid not in known:
            raise ValueError(f"{source.place / wnid}: is not in the table {table}: add it or move it out")
        if not count:
            raise ValueError(f"{source.place / wnid}: holds no pictures: remove the folder or add some")
    labels = np.array([known[name.split("/")[0]].label for name in names], np.int32)
    return Pictures(source, tuple(names), labels, _names(known))


def has_part(place: str | os.PathLike[str], part: str) -> bool:
    """Whether `place` has a folder of that part."""
    return Path(place, part).is_dir()


def _wnid_folders(source: Source) -> list[str]:
    flat = [name for name in source.names if "/" not in name and is_picture(name)]
    if flat:
        hint = f"sort the pictures into folders by wnid, or add a {LABELS} with the columns file,label"
        raise ValueError(f"{source.place}: {flat[0]!r} lies in no folder of a class: {hint}")
    other = [folder for folder in source.folders if not WNID.fullmatch(folder)]
    if not source.folders or other:
        what = f"the folder {other[0]!r} is no wnid" if other else "has no folders"
        raise ValueError(f"{source.place}: {what}: give the folder above train and val, or of WNID/*.JPEG")
    return source.folders


def _by_order(source: Source, wnids: list[str], classes: int | None) -> Mapping[str, WordNetClass]:
    if classes is not None and len(wnids) != classes:
        have = f"has {len(wnids)} of {classes} wnids, so their order says no class"
        raise ValueError(f"{source.place}: {have}: give a table of classes ({FORMS})")
    return {wnid: WordNetClass(label, wnid) for label, wnid in enumerate(wnids)}


def _names(known: Mapping[str, WordNetClass]) -> tuple[str, ...]:
    """By label; empty where some class is in no line."""
    named = {entry.label: entry.name for entry in known.values()}
    return tuple(named[label] for label in sorted(named)) if max(named) == len(named) - 1 else ()
