"""Intervals of metrics that are no mean over episodes, such as one curve over all of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Interval(NamedTuple):
    """A metric with its 95 % (or `level`) interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}] %"


def bootstrap(
    rng: np.random.Generator,
    measure: Callable[[Float[np.ndarray, " images"]], float],
    episodes: Int[np.ndarray, " images"],
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Interval over episodes drawn with replacement (Efron 1979): quantiles of the resamples' deviations from
    their mean, around the value.

    Departs from the percentile interval, which takes the resamples' own quantiles: an envelope over copies of
    the same decisions lies higher, so AP of few objects a class falls below its own interval.

    Args:
        measure: of weights (images,) float64; a metric's `weighted`, or a difference of two: with the images
            in the same order, that is the paired comparison.
        episodes: of each image, 0 to E - 1; the images of an episode are drawn together.
        resamples: of which those where the metric is NaN (nothing to find) are left out.

    Raises:
        ValueError: fewer than 2 episodes, 2 resamples, a level that is not between 0 and 1.
    """
    if episodes.ndim != 1 or not len(episodes) or episodes.min() < 0 or episodes.max() < 1:
        raise ValueError(f"episodes must number at least 2 from 0, for each image, got {episodes[:5]}")
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}: 1000 is usual")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}: 0.95 is usual")
    count = int(episodes.max()) + 1
    value = measure(np.ones(len(episodes)))
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    values = np.array([measure(weights[episodes]) for weights in drawn])
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(values - values.mean(), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(value + low), float(value + high))
