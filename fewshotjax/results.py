"""What episodes gave: accuracies with intervals, confusions, and paired comparisons."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from .episodes import Episode

SCHEMA = "frugaljax.fewshot.episodes/1"
SCHEMA_COMPARISON = "frugaljax.fewshot.comparison/1"


class Mean(NamedTuple):
    """A mean with half the width of its 95 % interval, 1.96 · s / √n."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.half:.2f} %"


def mean_of(values: np.ndarray) -> Mean:
    """Normal interval over n values, s with n - 1 in the denominator; infinitely wide for one."""
    half = 1.96 * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.inf
    return Mean(float(np.mean(values)), float(half))


@dataclass(frozen=True)
class EpisodeResult:
    """A method's predictions in E episodes of W ways and Q queries a class, drawn from C classes."""

    predictions: np.ndarray  # (E, W, Q) int16: class within the episode; W: the method failed (NaN)
    episodes: Episode  # stacked, (E, ...): which examples these were; `save_episodes` keeps them
    classes: tuple[str, ...]  # C names
    excluded: tuple[str, ...]  # classes that had too few examples
    settings: dict[str, Any]

    @cached_property
    def episode_classes(self) -> np.ndarray:
        """(E, W), index into `classes`."""
        return np.asarray(self.episodes.classes)

    @cached_property
    def accuracies(self) -> np.ndarray:
        """(E,), of each episode."""
        ways = self.predictions.shape[1]
        return (self.predictions == np.arange(ways)[None, :, None]).mean(axis=(1, 2))

    @cached_property
    def accuracy(self) -> Mean:
        """Over episodes."""
        return mean_of(self.accuracies)

    @cached_property
    def failed(self) -> int:
        """Queries for which the method returned NaN; they count as wrong."""
        return int((self.predictions == self.predictions.shape[1]).sum())

    @cached_property
    def confusion(self) -> np.ndarray:
        """(C, C) int64: queries of class i that were taken for class j, over all episodes that had both."""
        count, (_, ways, queries) = len(self.classes), self.predictions.shape
        true = np.repeat(self.episode_classes[:, :, None], queries, axis=2)
        answered = self.predictions < ways
        index = np.minimum(self.predictions, ways - 1).reshape(len(true), -1)
        taken = np.take_along_axis(self.episode_classes, index, axis=1).reshape(true.shape)
        cells = true[answered].astype(np.int64) * count + taken[answered]
        return np.bincount(cells, minlength=count * count).reshape(count, count)

    def per_class(self) -> dict[str, float]:
        """Share of a class's queries that were right; NaN for one that no episode had."""
        ways = self.predictions.shape[1]
        right = (self.predictions == np.arange(ways)[None, :, None]).mean(axis=2)
        index, count = self.episode_classes.reshape(-1), len(self.classes)
        total = np.bincount(index, right.reshape(-1), minlength=count)
        times = np.bincount(index, minlength=count)
        with np.errstate(invalid="ignore"):
            share = total / times
        return dict(zip(self.classes, share.tolist(), strict=True))

    def minus(self, other: "EpisodeResult") -> Mean:
        """Mean paired difference of accuracies: this one's minus the other's, episode by episode.

        Raises:
            ValueError: the two are not of the same episodes.
        """
        pairs = zip(jax.tree.leaves(self.episodes), jax.tree.leaves(other.episodes), strict=True)
        same = self.classes == other.classes and all(np.array_equal(a, b) for a, b in pairs)
        if not same or self.settings != other.settings:
            raise ValueError(
                "results are of different episodes: evaluate both with one key, examples and settings"
            )
        return mean_of(self.accuracies - other.accuracies)

    def as_dict(self) -> dict[str, Any]:
        """Settings and figures, without the predictions; None for what is not known."""
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "accuracy": self.accuracy.mean,
            "accuracy_half": _known(self.accuracy.half),
            "per_class": {name: _known(share) for name, share in self.per_class().items()},
            "failed_queries": self.failed,
            "excluded_classes": list(self.excluded),
        }


@dataclass(frozen=True)
class Comparison:
    """Results of several methods on the same episodes."""

    results: Mapping[str, EpisodeResult]

    def __getitem__(self, name: str) -> EpisodeResult:
        return self.results[name]

    def best(self) -> str:
        """The name of the most accurate one; the first of equals."""
        return max(self.results, key=lambda name: self.results[name].accuracy.mean)

    def table(self) -> str:
        """A line for each method: its accuracy, and its paired difference from the best."""
        best = self.best()
        width = max(len("method"), *map(len, self.results))
        lines = [f"{'method':{width}}  {'accuracy':>17}  difference from {best}"]
        for name, result in sorted(self.results.items(), key=lambda item: -item[1].accuracy.mean):
            gap = (
                ""
                if name == best
                else f"{100 * (d := result.minus(self.results[best])).mean:+.2f} ± {100 * d.half:.2f}"
            )
            lines.append(f"{name:{width}}  {result.accuracy!s:>17}  {gap}".rstrip())
            if result.failed:
                lines.append(f"{'':{width}}  NaN for {result.failed} queries, which count as wrong")
        excluded = self.results[best].excluded
        if excluded:
            lines.append(f"left out, for want of examples: {', '.join(excluded)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Of each method what `EpisodeResult.as_dict` has, and its paired difference from the best."""
        best = self.best()
        found = {}
        for name, result in self.results.items():
            gap = result.minus(self.results[best])
            found[name] = {**result.as_dict(), "minus_best": gap.mean, "minus_best_half": _known(gap.half)}
        return {"schema": SCHEMA_COMPARISON, "best": best, "methods": found}


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
