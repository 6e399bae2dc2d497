"""The area under the ROC curve against counting pairs, with ties and weights."""

import numpy as np
import pytest

from fewshotjax.detection.metrics.auroc import OpenSet, auroc, auroc_by_episode


def counted(scores, positive, weights):
    """Over all pairs of a positive and a negative."""
    won = total = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            pair = weights[i] * weights[j]
            total += pair
            won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return won / total


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_share_of_pairs(seed):
    rng = np.random.default_rng(seed)
    count = rng.integers(5, 60)
    scores = rng.integers(0, 6, count) / 4 if seed % 2 else rng.normal(size=count)  # many ties, none
    positive = rng.random(count) < 0.4
    positive[:2] = [True, False]
    weights = rng.integers(0, 4, count).astype(np.float64)
    weights[:2] = 1
    assert auroc(scores, positive) == pytest.approx(counted(scores, positive, np.ones(count)))
    assert auroc(scores, positive, weights) == pytest.approx(counted(scores, positive, weights))
    # A weight is so many copies.
    times = weights.astype(int)
    assert auroc(scores, positive, weights) == pytest.approx(
        auroc(np.repeat(scores, times), np.repeat(positive, times))
    )
    assert auroc(np.exp(scores), positive) == pytest.approx(auroc(scores, positive))
    assert auroc(-scores, positive) == pytest.approx(1 - auroc(scores, positive))


def test_known_values():
    assert auroc(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])) == 1
    assert auroc(np.array([-np.inf, 0.0, 0.0]), np.array([False, True, False])) == 0.75
    assert auroc(np.zeros(5), np.arange(5) < 2) == 0.5
    assert np.isnan(auroc(np.ones(3), np.ones(3, bool)))
    assert np.isnan(auroc(np.ones(0), np.ones(0, bool)))
    with pytest.raises(ValueError, match="scores must not be NaN"):
        auroc(np.array([0.0, np.nan]), np.array([True, False]))


def test_each_episode_counts_as_often_as_it_is_drawn():
    rng = np.random.default_rng(0)
    episode, scores = rng.integers(0, 5, 80), rng.integers(0, 9, 80) / 3
    known = rng.random(80) < 0.3
    measure = auroc_by_episode(OpenSet(episode, scores, known))
    for weights in rng.integers(0, 3, (4, 5)).astype(np.float64):
        assert measure(weights) == pytest.approx(counted(scores, ~known, weights[episode]))
    assert np.isnan(measure(np.zeros(5)))
