"""PASCAL VOC's XML annotations: inclusive corners that count from 1, made half-open from 0."""

import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from xml.parsers import expat

import numpy as np

from fewshotjax.data.files import Files
from fewshotjax.detection.data.annotations import Annotations, Faulty, repaired
from fewshotjax.detection.metrics.records import GroundTruth

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    place: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    prefix: str = "",
    classes: Sequence[str] | None = None,
    faulty: Faulty = "refuse",
) -> Annotations:
    """Annotations of a folder, zip or tar file with one XML per picture.

    Args:
        names: of the XML files below `prefix`, without ".xml", in this order. None: all, sorted.
        prefix: "Annotations/", say.
        classes: in this order; others are refused. None: those that occur, sorted.
        faulty: see `repaired`; a box whose last pixel is its first, or before it, has no side here.

    Raises:
        ValueError: a file that is missing, no such XML, or has a document type (which may define entities
            that expand without end); an unknown class; a faulty box, where it is refused.
    """
    with Files(place) as files:
        if names is None:
            found = [n for n in files.names if n.startswith(prefix) and n.endswith(".xml")]
            names = [name[len(prefix) : -len(".xml")] for name in found]
        if not names:
            raise ValueError(f"{files.place / prefix}: holds no XML files: give another folder or prefix")
        rows = []
        for name in names:
            file = f"{prefix}{name}.xml"
            if file not in files:
                raise ValueError(f"{files.place / file}: there is no such file: put it there")
            rows.append(_parsed(str(files.place / file), files.read(file)))
    known = tuple(sorted({label for _, _, objects in rows for label, *_ in objects}))
    chosen = known if classes is None else tuple(classes)
    strange = [label for label in known if label not in chosen]
    if strange:
        raise ValueError(f"{place}: has class {strange[0]!r}, which is none of {', '.join(chosen)}: add it")
    sizes = np.array([size for _, size, _ in rows], np.int64)
    image = np.repeat(np.arange(len(rows)), [len(objects) for *_, objects in rows])
    where = [f"{place}: {name}.xml" for name, row in zip(names, rows, strict=True) for _ in row[2]]
    flat = [one for *_, objects in rows for one in objects]
    boxes = np.array([box for _, box, _ in flat], np.float64).reshape(-1, 4)
    # One pixel wide is no side: such corners are an annotator's slip of the hand (two in BCCD).
    inside, kept = repaired(boxes, sizes[image], where, faulty, least=1.0)
    labels = np.array([chosen.index(label) for label, *_ in flat], np.int64)
    difficult = np.array([flag for *_, flag in flat], bool)
    truth = GroundTruth(image[kept], labels[kept], inside, difficult[kept])
    numbers = tuple(range(1, len(rows) + 1))
    return Annotations(
        tuple(file for file, *_ in rows), sizes, chosen, truth, numbers, tuple(range(1, len(chosen) + 1))
    )


def _parsed(where: str, data: bytes) -> tuple[str, tuple[int, int], list[tuple[str, list[float], bool]]]:
    """File name, (height, width), and (class, box, difficult) of each object."""
    root = _safe_xml(where, data)
    size = tuple(_whole(where, root, f"size/{side}") for side in ("height", "width"))
    file = (root.findtext("filename") or "").strip()
    if not file or "/" in file or "\\" in file:
        raise ValueError(f"{where}: filename must be a file's name, got {file!r}")
    objects = []
    for i, node in enumerate(root.iter("object")):
        here = f"{where}: object {i}"
        label = (node.findtext("name") or "").strip()
        if not label:
            raise ValueError(f"{here}: has no name: give its class")
        x1, y1, x2, y2 = (_number(here, node, f"bndbox/{corner}") for corner in CORNERS)
        # From 1 to the last pixel inclusive: x1 - 1 up to x2.
        difficult = (node.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise ValueError(f"{here}: difficult must be 0 or 1, got {difficult!r}")
        objects.append((label, [x1 - 1, y1 - 1, x2, y2], difficult == "1"))
    return file, (size[0], size[1]), objects


def _safe_xml(where: str, data: bytes) -> ElementTree.Element:
    """The root, built by expat with every document type refused: without one there are no entities."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise ValueError(f"{where}: has a document type (DTD), which is not read: remove it")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        root = builder.close()
    except (expat.ExpatError, UnicodeError, AssertionError) as error:
        raise ValueError(f"{where}: is no XML ({error}): replace or remove it") from None
    if root.tag != "annotation":
        raise ValueError(f"{where}: its root is {root.tag!r}, not 'annotation': is it VOC's?")
    return root


def _number(where: str, node: ElementTree.Element, path: str) -> float:
    text = (node.findtext(path) or "").strip()
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {path} must be a number, got {text!r}")
    return number


def _whole(where: str, node: ElementTree.Element, path: str) -> int:
    number = _number(where, node, path)
    if number < 1 or number != int(number):
        raise ValueError(f"{where}: {path} must be a whole number of pixels, got {number}")
    return int(number)
