"""What episodes of detection gave: three kinds of average precision, recall and floors, each with its
interval over episodes, and paired comparisons.

The figures of different metrics are not comparable, and none of them is to be read without the floors: what a
detector reaches that takes the whole photograph, or its middle, for the box and always knows the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..results import Mean, mean_of
from .episodes import DetectionEpisodes
from .metrics.auroc import OpenSet, auroc_by_episode
from .metrics.bootstrap import Interval, bootstrap
from .metrics.coco import CocoAP, coco_ap
from .metrics.overlap import paired_iou, pairs
from .metrics.pooled import PooledAP, repmet_pooled_ap, without_left_out
from .metrics.records import Detections, GroundTruth
from .metrics.voc import VocAP, episode_voc_ap, voc_ap
from .queries import centred
from .resampling import Weighted, by_episode
from .result_table import METRICS as METRICS, result_table, str_of as str_of

SCHEMA = "frugaljax.fewshot.detection/1"
SCHEMA_COMPARISON = "frugaljax.fewshot.detection_comparison/1"
RESAMPLES = 1_000


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """A method's detections in E episodes of Q query images: image e·Q + q is query q of episode e.

    Labels are classes of the photographs, so that metrics per class are of real classes.
    """

    detections: Detections
    background: np.ndarray | None  # (D,) float32, probability that the region is of no class; open-set score
    region: np.ndarray  # (D,) int32, which region of its image each is
    truth: GroundTruth  # of the episodes' classes alone
    frames: np.ndarray  # (M, 4) float32, what the photograph of each true box fills
    episodes: DetectionEpisodes
    missing: np.ndarray  # (E, W) bool, classes of which the method had no usable support
    failed: int  # queries for which the method returned NaN
    settings: dict[str, Any]
    # All regions of the query images, with what each shows; None: the method knows no background.
    open_set: OpenSet | None = None
    _kept: dict[Any, Interval] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def episode_of(self) -> np.ndarray:
        """(E·Q,) int64, of each image."""
        count, queries = self.episodes.asked.shape
        return np.repeat(np.arange(count), queries)

    @cached_property
    def pooled(self) -> PooledAP:
        return repmet_pooled_ap(*without_left_out(self.detections, self.truth))

    @cached_property
    def voc(self) -> VocAP:
        """All-point."""
        return voc_ap(self.detections, self._as_voc)

    @cached_property
    def voc_11(self) -> VocAP:
        return voc_ap(self.detections, self._as_voc, points=11)

    @cached_property
    def coco(self) -> CocoAP:
        return coco_ap(self.detections, replace(self.truth, crowd=self.truth.left_out))

    @cached_property
    def _as_voc(self) -> GroundTruth:
        return replace(self.truth, difficult=self.truth.left_out)

    @cached_property
    def episode_voc(self) -> Mean:
        """Mean of the VOC AP within each episode that has objects."""
        values = episode_voc_ap(self.detections, self._as_voc, self.episode_of)
        return mean_of(values[~np.isnan(values)])

    @cached_property
    def best_iou(self) -> np.ndarray:
        """(M,) of each true box with the detections in its image, of any class; 0 without."""
        pair = pairs(self.detections.image_index, self.truth.image_index)
        overlap = paired_iou(self.detections.boxes[pair.detection], self.truth.boxes[pair.truth])
        best = np.zeros(len(self.truth))
        np.maximum.at(best, pair.truth, overlap)
        return best

    def figure(self, name: str, *, resamples: int = RESAMPLES) -> Interval:
        """A metric of `METRICS` with its 95 % bootstrap interval over episodes, kept once computed.

        Args:
            resamples: 0: the value alone.

        Raises:
            ValueError: another name.
        """
        key = name, resamples
        if key not in self._kept:
            self._kept[key] = self._interval(self.weighted(name), resamples)
        return self._kept[key]

    def weighted(self, name: str) -> Weighted:
        """The metric as a function of how often each episode counts, (E,), for `bootstrap`.

        Raises:
            ValueError: another name.
        """
        if name not in METRICS:
            raise ValueError(f"name must be one of {', '.join(METRICS)}, got {name!r}")
        if name == "background_auroc":
            # Positive: regions that meet no object of the episode's classes at IoU .5.
            return _unknown if self.open_set is None else auroc_by_episode(self.open_set)
        if name == "repmet_pooled_ap":
            return by_episode([self.pooled.curve], self.episode_of)
        if name in ("voc_ap", "voc_ap_11"):
            found = self.voc if name == "voc_ap" else self.voc_11
            return by_episode(list(found.curves.values()), self.episode_of, found.points)
        if name in ("coco_ap", "coco_ap75"):
            rows = slice(None) if name == "coco_ap" else slice(5, 6)  # IoU .50, .55, ...
            curves = [curve for of_class in self.coco.curves.values() for curve in of_class[rows]]
            return by_episode(curves, self.episode_of, 101)
        least = 0.75 if name.endswith("75") else 0.5
        if name.startswith("recall"):
            return self._share(self.best_iou >= least)
        frames = self.frames if "whole" in name else centred(self.frames)
        return self._share(paired_iou(self.truth.boxes, frames.astype(np.float64)) >= least)

    def minus(
        self, other: "DetectionResult", name: str = "repmet_pooled_ap", *, resamples: int = RESAMPLES
    ) -> Interval:
        """The paired difference of a metric: this one's minus the other's, over the same resampled episodes.

        Raises:
            ValueError: the two are not of the same episodes, or not of the same query images.
        """
        if not self.episodes.same(other.episodes):
            raise ValueError("results are of different episodes: evaluate both with one key, or as `drawn`")
        if not self.same_queries(other):
            raise ValueError(
                f"results are of different query images, {self._queries} and {other._queries}: what there is "
                "to find is not the same, so that no difference is paired"
            )
        mine, theirs = self.weighted(name), other.weighted(name)
        return self._interval(lambda weights: mine(weights) - theirs(weights), resamples)

    def same_queries(self, other: "DetectionResult") -> bool:
        """Whether both looked for the very same objects: equal boxes and classes in the same images."""
        return all(
            np.array_equal(getattr(self.truth, name), getattr(other.truth, name))
            for name in ("image_index", "labels", "boxes")
        )

    @property
    def _queries(self) -> str:
        return str(self.settings.get("images", ""))

    def table(self, *, resamples: int = RESAMPLES) -> str:
        """A line for each metric: value and interval, %; then the floors and what is to be known."""
        return result_table({"": self}, resamples)

    def as_dict(self, *, resamples: int = RESAMPLES) -> dict[str, Any]:
        """Settings and figures, without the detections; None for what is not known."""
        figures = {name: self.figure(name, resamples=resamples) for name in METRICS}
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "figures": {name: [_known(x) for x in interval] for name, interval in figures.items()},
            "episode_voc_ap": [_known(x) for x in self.episode_voc],
            "voc_ap_per_class": {
                self.episodes.names[label]: _known(ap) for label, ap in self.voc.per_class.items()
            },
            "objects": len(self.truth),
            "detections": len(self.detections),
            "classes_without_support": int(self.missing.sum()),
            "queries_in_support": self.episodes.shared(),
            "failed_queries": self.failed,
            "excluded_classes": list(self.episodes.excluded),
        }

    def _interval(self, measure: Weighted, resamples: int) -> Interval:
        count = len(self.episodes)
        if resamples == 0 or count < 2:
            return Interval(measure(np.ones(count)), float("nan"), float("nan"))
        # The same resamples for all metrics and methods.
        return bootstrap(np.random.default_rng(0), measure, np.arange(count), resamples=resamples)

    def _share(self, hit: Bool[np.ndarray, " M"]) -> Weighted:
        """Of the objects, difficult and crowd ones left out."""
        easy = ~self.truth.left_out
        episode, count = self.episode_of[self.truth.image_index], len(self.episodes)
        objects, hits = (
            np.bincount(episode[rows], minlength=count).astype(np.float64) for rows in (easy, easy & hit)
        )

        def measure(weights: Float[np.ndarray, " E"]) -> float:
            total = objects @ weights
            return float(hits @ weights / total) if total else float("nan")

        return measure


@dataclass(frozen=True, eq=False)
class DetectionComparison:
    """Results of several methods on the same episodes."""

    results: Mapping[str, DetectionResult]

    def __getitem__(self, name: str) -> DetectionResult:
        return self.results[name]

    def best(self, metric: str = "repmet_pooled_ap") -> str:
        """The name of the one with the highest value; the first of equals."""
        return max(self.results, key=lambda name: self.results[name].figure(metric, resamples=0).value)

    def difference(
        self, name: str, other: str, metric: str = "repmet_pooled_ap", *, resamples: int = RESAMPLES
    ) -> Interval:
        """Paired: the first one's metric minus the other's."""
        return self.results[name].minus(self.results[other], metric, resamples=resamples)

    def table(self, metric: str = "repmet_pooled_ap", *, resamples: int = RESAMPLES) -> str:
        """All metrics of all methods with intervals, %, and their paired differences from the best in one.

        Results on other query images than the best's have no difference, which is said.
        """
        best = self.best(metric)
        lines = [result_table(self.results, resamples)]
        for name in self.results:
            if name == best:
                continue
            if not self[name].same_queries(self[best]):
                lines.append(f"{METRICS[metric]}: {name} is on other query images than {best}: no difference")
                continue
            gap = self.difference(name, best, metric, resamples=resamples)
            lines.append(f"{METRICS[metric]}: {name} minus {best}: {gap}")
        return "\n".join(lines)

    def as_dict(self, *, resamples: int = RESAMPLES) -> dict[str, Any]:
        """Of each method what `DetectionResult.as_dict` has, and its paired differences from the best;
        None of one that is on other query images.
        """
        best = self.best()
        methods = {}
        for name, result in self.results.items():
            gaps = None
            if result.same_queries(self[best]):
                gaps = {
                    metric: [_known(x) for x in self.difference(name, best, metric, resamples=resamples)]
                    for metric in ("repmet_pooled_ap", "voc_ap", "coco_ap")
                }
            methods[name] = {**result.as_dict(resamples=resamples), "minus_best": gaps}
        return {"schema": SCHEMA_COMPARISON, "best": best, "methods": methods}


def _unknown(weights: Float[np.ndarray, " E"]) -> float:
    return float("nan")


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
