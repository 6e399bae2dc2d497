"""CIFAR-10 (Krizhevsky 2009) in memory, from any of the forms that it is kept in.

The published binary version (cifar-10-batches-bin, or cifar-10-binary.tar.gz as it is downloaded): records
of one label and 32x32 red, green and blue values. Or pictures: train/CLASS/FILE and test/CLASS/FILE in a
folder, zip or tar archive. JPEG pictures are not the published pixels, so figures on them are their own.
The published Python version is pickled, and nothing is unpickled here.
"""

import os

import numpy as np

from nemojax.data.entries import is_picture
from nemojax.data.labelled import LabelledArrays, Pictures, in_memory
from nemojax.sources import Source

SIDE = 32  # pixels
RECORD_BYTES = 1 + 3 * SIDE * SIDE
BINARY_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
CLASS_NAMES = "batches.meta.txt"
HINT = "give cifar-10-batches-bin (the binary version), or a folder or archive of train|test/CLASS/PICTURE"


def cifar10(place: str | os.PathLike[str], *, threads: int = 1) -> tuple[LabelledArrays, LabelledArrays]:
    """(train, test): images (N, 32, 32, 3) uint8, labels (N,) int32, ten class names.

    Pictures come in the order of class and file name, the binary version in its own.

    Args:
        threads: that decode pictures; these are so small that more than one mostly wait for the interpreter.

    Raises:
        ValueError: the place holds none of these forms or a damaged one; one line that says what to do.
    """
    with Source(place) as source:
        ends = {name.split("/")[-1]: name for name in source.names}
        if any(name in ends for files in BINARY_FILES.values() for name in files):
            return _binary(source, ends, "train"), _binary(source, ends, "test")
        if any(name in ends for name in ("data_batch_1", "test_batch", "batches.meta")):
            raise ValueError(f"{place}: is the pickled Python version, which could run any program: {HINT}")
        train = _split(source, "train", threads)
        test = _split(source, "test", threads)
    if train.classes != test.classes:
        other = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"{place}: train and test have other classes ({other[0]!r} is in one): {HINT}")
    return train, test


def _binary(source: Source, ends: dict[str, str], part: str) -> LabelledArrays:
    records = []
    for file in BINARY_FILES[part]:
        if file not in ends:
            raise ValueError(f"{source.place}: lacks {file} of the binary version: get it again")
        data = np.frombuffer(source.read(ends[file]), np.uint8)
        if not len(data) or len(data) % RECORD_BYTES:
            have = f"has {len(data)} bytes, no multiple of {RECORD_BYTES}"
            raise ValueError(f"{source.place / ends[file]}: {have}: get it again")
        records.append(data.reshape(-1, RECORD_BYTES))
        if records[-1][:, 0].max() > 9:
            wrong = records[-1][:, 0].max()
            raise ValueError(f"{source.place / ends[file]}: holds the label {wrong}, above 9: get it again")
    table = np.concatenate(records)
    planes = table[:, 1:].reshape(-1, 3, SIDE, SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return LabelledArrays(images, table[:, 0].astype(np.int32), _names(source, ends))


def _names(source: Source, ends: dict[str, str]) -> tuple[str, ...]:
    if CLASS_NAMES not in ends:
        raise ValueError(f"{source.place}: lacks {CLASS_NAMES} of the binary version: get it again")
    names = source.read(ends[CLASS_NAMES]).decode("utf-8", "replace").split()
    if len(names) != 10:
        raise ValueError(
            f"{source.place / ends[CLASS_NAMES]}: names {len(names)} classes, not 10: get it again"
        )
    return tuple(names)


def _split(source: Source, part: str, threads: int) -> LabelledArrays:
    """Pictures of PART/CLASS/FILE; an archive's single outer folder is passed over."""
    outer = f"{source.folders[0]}/" if len(source.folders) == 1 and source.folders[0] != part else ""
    start = f"{outer}{part}/"
    names = [name for name in source.names if name.startswith(start) and is_picture(name)]
    for name in names:
        if name.count("/") != start.count("/") + 1:
            raise ValueError(f"{source.place / name}: lies in no class folder of {start}: {HINT}")
    if not names:
        raise ValueError(f"{source.place}: holds no pictures in {start}: {HINT}")
    folders = [name[len(start) :].split("/")[0] for name in names]
    classes, labels = np.unique(folders, return_inverse=True)
    if len(classes) != 10:
        raise ValueError(f"{source.place}: {start} has {len(classes)} class folders, not 10: {HINT}")
    found = in_memory(
        Pictures(source, tuple(names), labels.astype(np.int32), tuple(classes.tolist())), threads=threads
    )
    height, width = found.images.shape[1:3]
    if (height, width) != (SIDE, SIDE):
        raise ValueError(f"{source.place / names[0]}: is {width}x{height}, not {SIDE}x{SIDE}: {HINT}")
    return found
