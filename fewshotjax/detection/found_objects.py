"""What `detect` found in photographs: boxes in their own pixels, as a table, as COCO files, as pictures."""

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ..files import write_bytes
from .data.annotations import Annotations
from .data.coco import write_coco, write_coco_detections
from .drawing import Drawn, Missed, draw_boxes
from .metrics.pooled import on_left_out
from .metrics.records import Detections, GroundTruth, no_detections
from .metrics.voc import voc_match
from .new_classes import SupportView
from .photos import Photos

COLUMNS = ("file", "label", "score", "background", "x1", "y1", "x2", "y2", "nearest", "distance")
DETECTIONS, IMAGES = "detections.json", "images.json"
NO_EXAMPLE = np.full((1, 1, 3), 255, np.uint8)  # beside a class that the detector was trained on


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """D boxes in N photographs, photograph by photograph, each by descending score."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # one a class, for COCO files
    files: tuple[str, ...]  # N names
    sizes: np.ndarray  # (N, 2) int64, height and width
    detections: Detections  # image_index, labels, scores (probabilities), boxes in the photographs' pixels
    background: np.ndarray  # (D,) float32: probability of being none of the classes; NaN: the method has none
    nearest: np.ndarray  # (D,) int32: support box nearest to it, of whatever class; -1: a class trained on
    distance: np.ndarray  # (D,) float32 from it, between embeddings of unit length: 0-2
    support: SupportView
    threshold: float  # score that boxes have at least
    photos: Photos

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        have = f"{len(self)} boxes in {len(self.files)} photographs"
        return f"FoundObjects({have}, score from {self.threshold:.3g})"

    @property
    def boxes(self) -> Float[np.ndarray, "D 4"]:
        """x1, y1, x2, y2 in pixels of each one's photograph, half-open."""
        return self.detections.boxes

    @property
    def scores(self) -> Float[np.ndarray, " D"]:
        return self.detections.scores

    @property
    def labels(self) -> Int[np.ndarray, " D"]:
        return self.detections.labels

    @property
    def image_index(self) -> Int[np.ndarray, " D"]:
        """Which photograph."""
        return self.detections.image_index

    @property
    def names(self) -> tuple[str, ...]:
        """The class of each box."""
        return tuple(self.classes[label] for label in self.labels.tolist())

    def of(self, photograph: int | str) -> "FoundObjects":
        """Those of one photograph, by its number or name; the others stay as photographs without boxes.

        Raises:
            ValueError: no such photograph.
        """
        return self._take(self.image_index == self._row(photograph))

    def _row(self, photograph: int | str) -> int:
        if isinstance(photograph, str):
            if photograph not in self.files:
                raise ValueError(f"no photograph {photograph!r}: there are {', '.join(self.files[:5])}, ...")
            return self.files.index(photograph)
        if not 0 <= photograph < len(self.files):
            raise ValueError(f"no photograph {photograph}: their numbers are 0 to {len(self.files) - 1}")
        return int(photograph)

    def above(self, threshold: float) -> "FoundObjects":
        """Those of a score of at least `threshold`; one below that of `detect` brings nothing back."""
        kept = self._take(self.scores >= threshold)
        object.__setattr__(kept, "threshold", max(threshold, self.threshold))
        return kept

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of `COLUMNS` for each box."""
        cells = zip(
            self.image_index.tolist(),
            self.names,
            self.scores.tolist(),
            self.background.tolist(),
            self.boxes.tolist(),
            self.nearest.tolist(),
            self.distance.tolist(),
            strict=True,
        )
        return [
            dict(
                zip(
                    COLUMNS,
                    (
                        self.files[image],
                        name,
                        score,
                        none,
                        *box,
                        self.support.name(nearest) if nearest >= 0 else "",
                        distance,
                    ),
                    strict=True,
                )
            )
            for image, name, score, none, box, nearest, distance in cells
        ]

    def table(self, limit: int | None = None) -> str:
        """File, label, score, box, and nearest example with its distance, of the first `limit` boxes."""
        lines = [("file", "label", "score", "box", "nearest example", "distance")]
        for row in self.rows()[:limit]:
            box = " ".join(f"{row[edge]:.0f}" for edge in ("x1", "y1", "x2", "y2"))
            near = (row["nearest"], f"{row['distance']:.3f}") if row["nearest"] else ("", "")
            lines.append((row["file"], row["label"], f"{row['score']:.1%}", box, *near))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        hidden = len(self) + 1 - len(lines)
        return "\n".join([*text, f"... and {hidden} more"] if hidden else text)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes `rows` with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.rows():
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        write_bytes(Path(path), text.getvalue().encode())

    def annotations(self) -> Annotations:
        """The photographs and classes, without true boxes: what COCO's files of detections refer to."""
        none = no_detections()
        truth = GroundTruth(none.image_index, none.labels, none.boxes)
        numbers = tuple(range(1, len(self.files) + 1))
        return Annotations(self.files, self.sizes, self.classes, truth, numbers, self.category_ids)

    def to_coco(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Writes detections.json, COCO's list of results, and images.json, the images and categories that its
        numbers refer to; the folder is made where it is missing.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        known = self.annotations()
        write_coco_detections(place / DETECTIONS, self.detections, known)
        write_coco(place / IMAGES, known)
        return place / DETECTIONS, place / IMAGES

    def draw(
        self, folder: str | os.PathLike[str], *, empty: bool = True, truth: GroundTruth | None = None
    ) -> tuple[Path, ...]:
        """Writes a .png of each photograph with its boxes, scores and, beside it, the nearest examples.

        The photographs are read again. "a/b.jpg" becomes a_b.png; the folder is made where it is missing.

        Args:
            empty: also of photographs without boxes.
            truth: as of `picture`.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        written = []
        names, faults = picture_names(self.files), None if truth is None else self._faults(truth)
        for row in range(len(self.files)):
            if empty or (self.image_index == row).any():
                buffer = io.BytesIO()
                self._picture(row, faults).save(buffer, "PNG")
                write_bytes(place / names[row], buffer.getvalue())
                written.append(place / names[row])
        return tuple(written)

    def picture(self, photograph: int | str, truth: GroundTruth | None = None) -> Any:
        """The PIL image that `draw` writes of one photograph.

        Args:
            photograph: its number or name.
            truth: the objects of all photographs. Boxes that hit none of them at IoU .5, by VOC's rules, are
                said to be wrong, and objects that no box hits are drawn, dashed; difficult ones and crowds
                are neither. `image_index` counts `files`, labels count `classes`.

        Raises:
            ValueError: no such photograph; truth of a class or photograph that is not there.
        """
        return self._picture(self._row(photograph), None if truth is None else self._faults(truth))

    def _picture(self, photograph: int, faults: "Faults | None") -> Any:
        mine = np.flatnonzero(self.image_index == photograph)
        found: list[Drawn] = []
        missed = []
        if faults is not None:
            lost = faults.lost.take(faults.lost.image_index == photograph)
            missed = [
                Missed(box, label, self.classes[label])
                for box, label in zip(lost.boxes.tolist(), lost.labels.tolist(), strict=True)
            ]
        for i in mine.tolist():
            near, label = int(self.nearest[i]), int(self.labels[i])
            crop = self.support.crops[near] if near >= 0 else NO_EXAMPLE
            example = self.support.name(near) if near >= 0 else "trained on"
            score = float(self.scores[i])
            name = self.classes[label]
            name = f"{name}, wrong" if faults is not None and faults.wrong[i] else name
            found.append(Drawn(self.boxes[i].tolist(), label, name, score, crop, example))
        return draw_boxes(self.photos.read(photograph), found, missed)

    def _faults(self, truth: GroundTruth) -> "Faults":
        """Of all photographs; difficult objects and crowds are neither wrong nor missed."""
        for what, column, known in (
            ("label", truth.labels, self.classes),
            ("image_index", truth.image_index, self.files),
        ):
            if len(truth) and int(column.max()) >= len(known):
                some = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
                raise ValueError(
                    f"truth has {what} {int(column.max())}: it must count the {len(known)}: {some}"
                )
        target, hit = voc_match(self.detections, truth, iou=0.5)
        counted = np.append(~truth.left_out, True)  # the last is for boxes on no object
        lost = np.setdiff1d(np.flatnonzero(counted[:-1]), target[hit])
        wrong = ~hit & counted[target]
        inside = on_left_out(self.detections, truth)
        return Faults(wrong & ~inside, truth.take(lost))

    def _take(self, rows: Any) -> "FoundObjects":
        return FoundObjects(
            self.classes,
            self.category_ids,
            self.files,
            self.sizes,
            self.detections.take(rows),
            self.background[rows],
            self.nearest[rows],
            self.distance[rows],
            self.support,
            self.threshold,
            self.photos,
        )


class Faults(NamedTuple):
    """What truth says about boxes."""

    wrong: Bool[np.ndarray, " D"]
    lost: GroundTruth  # that no box hits


def picture_names(files: Sequence[str]) -> list[str]:
    """A .png name in one folder for each file, told apart by numbers where two are alike."""
    names: dict[str, None] = {}  # a set in order
    last: dict[str, int] = {}
    for file in files:
        stem = re.sub(r"[/\\:]+", "_", str(Path(file).with_suffix("")).strip("/"))
        name, number = f"{stem}.png", last.get(stem, 1)
        while name in names:
            number += 1
            name = f"{stem}_{number}.png"
        names[name], last[stem] = None, number
    return list(names)
