"""New object classes from a few boxes: what `detect` looks for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ..representatives import Representatives
from .data.annotations import Faulty
from .data.boxed import BoxedImages
from .detector import Detector
from .finder import Examples, Finder, RegionFinder, examples_of
from .methods import DetectionMethod, repmet
from .photos import LEAST, MOST, STEP, check_pixels
from .support import SupportConfig
from .threshold import choose_threshold
from .tuning import DetectionTuning
from .user_support import NAMED, read_support, show
from .windows import WindowFinder, WindowModel, Windows

WINDOW_PIXELS = 320  # working size without a trained detector; ours


@dataclass(frozen=True, eq=False)
class SupportView:
    """S support boxes, as results show them."""

    boxes: np.ndarray  # (S, 4) float32, pixels of their photographs
    labels: np.ndarray  # (S,) int32
    files: tuple[str, ...]  # S names of the photographs
    crops: tuple[np.ndarray, ...]  # S pictures (h, w, 3) uint8
    regions: np.ndarray  # (S,) int32: how many of the detector's regions on it are examples, too

    def name(self, row: int) -> str:
        """Of an example: its photograph, and its number among that one's boxes where there are more."""
        same = [i for i, file in enumerate(self.files) if file == self.files[row]]
        return self.files[row] if len(same) == 1 else f"{self.files[row]} #{same.index(row) + 1}"


@dataclass(frozen=True, eq=False)
class NewClasses:
    """What `new_classes` made of S boxes of N classes; `detect` uses it, `save_new_classes` writes it."""

    classes: tuple[str, ...]  # what is found: the new ones, then, with keep_base, those trained on
    ways: int  # how many are new
    category_ids: tuple[int, ...]  # one a class, for COCO files
    finder: Finder  # the detector, or windows, with the method
    model: Any  # what the method learned
    embeddings: np.ndarray  # (M, D) float32 of the examples, of unit length where the detector's are
    owner: np.ndarray  # (M,) int32, the support box that each belongs to
    support: SupportView
    pixels: int  # working size: the longer side of photographs
    threshold: float  # score from which on `detect` shows a box
    notes: tuple[str, ...]  # what was assumed, for people
    digests: tuple[str, ...]  # SHA-256 of the support photographs, to find them among others
    default: bool  # the method is RepMet's own, which files can hold

    @property
    def detector(self) -> Detector | None:
        """None: of windows."""
        return self.finder.detector if isinstance(self.finder, RegionFinder) else None

    @property
    def representatives(self) -> Representatives | None:
        """(N, K, D) modes, of RepMet's method; the new classes come first."""
        return getattr(self.model, "found", None)

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:NAMED]) + (", ..." if len(self.classes) > NAMED else "")
        detector = self.detector
        where = "sliding windows" if detector is None else detector.name
        return f"NewClasses({names}; {len(self.support.labels)} boxes, {where}, {self.pixels} pixels)"


def new_classes(
    key: PRNGKeyArray,
    detector: Detector | Windows,
    support: BoxedImages | str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    config: SupportConfig | None = None,
    method: DetectionMethod | None = None,
    tuning: DetectionTuning | None = None,
    pixels: int | None = None,
    threshold: float | None = None,
    classes: Sequence[str] | None = None,
    faulty: Faulty = "refuse",
    on_chunk: Callable[[Any], Any] | None = None,
) -> NewClasses:
    """Classes to be found, from boxes around a few examples of each.

    The default is RepMet (Karlinsky et al. 2019): embeddings of the boxes, and of the detector's regions on
    them, are the classes' representatives. Nothing is trained unless `tuning` says so.

    Args:
        key: of k-means and tuning.
        detector: trained, of `detector(weights=...)` or `train_detector`; or `Windows`.
        support: photographs of any sizes with boxes, the path of a COCO JSON, or a folder, zip or tar file of
            VOC's XML. Photographs of files that have no box are passed over; of `BoxedImages` they are
            looked at, too, as background of windows and to choose the threshold.
        images: folder, zip or tar file of the photographs that a file names; None: beside it.
        config: what becomes of the boxes; None: the defaults of `SupportConfig`.
        method: another one of `detection.methods` that learns new classes, with a config of its own; None:
            RepMet's with `config` and `tuning`.
        tuning: of RepMet's method, of the head alone.
        pixels: working size, a multiple of 32: the longer side to which photographs are brought. None: what
            the detector was trained on; of windows 320.
        threshold: score from which on `detect` shows a box. None: chosen on the support, see
            `choose_threshold`; `notes` says how.
        classes: names to learn, of those in the support; None: all.
        faulty: boxes of a file outside of their photograph or without a side: "refuse", or "repair", which
            cuts or drops them with a warning.
        on_chunk: progress.

    Raises:
        ValueError: no boxes; a class without a usable one; files that are missing or damaged; settings out of
            range; an example that the detector makes NaN of, or a method that learns NaN; a method of the
            classes trained on alone; of windows, photographs that show nothing beside their boxes.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a score, 0 to 1, or None to choose one, got {threshold}")
    windows = isinstance(detector, Windows)
    if windows and any(one is not None for one in (config, method, tuning)):
        raise ValueError("config, method and tuning are of trained detectors: windows have a WindowConfig")
    if method is not None and (tuning is not None or config is not None):
        raise ValueError("config and tuning are of RepMet's method: leave them out, or give method its own")
    working = check_pixels(default_pixels(detector) if pixels is None else pixels)
    found, numbers = read_support(support, images, classes=classes, faulty=faulty)
    shown = show(found, numbers, working)
    settings = config or SupportConfig()
    finder: Finder
    if isinstance(detector, Windows):
        finder = WindowFinder(detector, working)
    else:
        finder = RegionFinder(detector, method or repmet(detector.net, settings, tuning=tuning), settings)
    ways = len(shown.classes)
    k_fit, k_out = jax.random.split(key)
    sights = examples_of(finder, shown.photographs, shown.image, shown.slot, shown.sizes, on_chunk)
    model = finder.learn(k_fit, sights, np.ones(len(shown), bool), ways)
    _check_learned(model)
    embeddings, owner = finder.anchors(model, sights)
    regions, notes = _regions_on(finder, sights), list(shown.notes)
    if isinstance(finder, RegionFinder):
        notes += _lonely(regions, len(shown))
        _check_present(finder, model, shown.classes)
    else:
        _check_background(model)
        notes.append(
            "sliding windows over pretrained features, no trained proposals: a first look, for want of a "
            "trained detector (fewshotjax train-detector); what has no box in the support photographs counts "
            "as background"
        )
    if threshold is None:
        chosen = choose_threshold(k_out, finder, model, (embeddings, owner), sights, ways)
        threshold = chosen.score
        notes.append(chosen.note)
    names, more = shown.classes, tuple(n if n not in shown.classes else f"{n} (trained)" for n in finder.more)
    return NewClasses(
        (*names, *more),
        ways,
        _numbers(shown.category_ids, len(more)),
        finder,
        model,
        embeddings,
        owner,
        SupportView(shown.boxes, shown.labels, shown.files, shown.crops, regions),
        working,
        float(threshold),
        tuple(notes),
        shown.digests,
        method is None,
    )


def default_pixels(detector: Detector | Windows) -> int:
    """The size that a detector was trained on, as a multiple of 32; of windows 320."""
    if isinstance(detector, Windows):
        return WINDOW_PIXELS
    return min(max(-(-detector.net.preprocess.pixels // STEP) * STEP, LEAST), MOST)


def _regions_on(finder: Finder, shown: Examples) -> np.ndarray:
    """(S,) how many of the detector's regions on each box are examples."""
    count = np.zeros(len(shown.labels), np.int32)
    if isinstance(finder, RegionFinder) and finder.support.regions:
        taken, owner = finder.taken(shown)
        boxes = len(owner) // (1 + finder.support.regions)  # first the boxes themselves
        np.add.at(count, owner[boxes:][np.asarray(taken.mask)[boxes:]], 1)
    return count


def _lonely(regions: np.ndarray, total: int) -> list[str]:
    alone = int((regions == 0).sum())
    if not alone:
        return []
    return [f"{alone} of {total} support boxes have no region of the detector on them: it would miss them"]


def _check_learned(model: Any) -> None:
    # A posterior may make probability 0 of NaN, so that it is not seen in what is found.
    if any(
        np.isnan(leaf).any() for leaf in map(np.asarray, jax.tree.leaves(model)) if leaf.dtype.kind == "f"
    ):
        raise ValueError("the method learned NaN: use another method, or tuning with a lower learning_rate")


def _check_background(model: WindowModel) -> None:
    if not np.asarray(model.there).any():
        raise ValueError(
            "every window of the support photographs shows a support box, so that nothing stands for what is "
            "none of the classes: add a photograph that shows more than its boxes, or give a trained detector"
        )


def _check_present(finder: RegionFinder, model: Any, classes: Sequence[str]) -> None:
    missing = finder.method.missing
    if missing is None:
        return
    lost = [name for name, gone in zip(classes, np.asarray(missing(model)).tolist(), strict=True) if gone]
    if lost:
        raise ValueError(
            f"no region of the detector overlaps a support box of {', '.join(lost[:NAMED])} enough to be an "
            "example: leave compat_support off, so that the boxes themselves are"
        )


def _numbers(given: tuple[int, ...], more: int) -> tuple[int, ...]:
    start = max(given, default=0) + 1
    return (*given, *range(start, start + more))
