"""The subset of most hypervolume, against the plain greedy choice and the best subset."""

import itertools

import moocore
import numpy as np
import pytest

from nemojax.subset import most_hypervolume


def volume(costs: np.ndarray) -> float:
    return float(moocore.hypervolume(costs, ref=np.ones(costs.shape[1])))


def plain(costs: np.ndarray, count: int) -> list[int]:
    """In each step every row is tried."""
    chosen: list[int] = []
    for _ in range(count):
        gains = [volume(costs[[*chosen, i]]) for i in range(len(costs))]
        chosen.append(int(np.argmax(gains)))
    return chosen


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_each_row_adds_the_most(objectives, seed):
    costs = np.random.default_rng(seed).uniform(size=(40, objectives))
    found = most_hypervolume(costs, 8)
    gains = np.diff([0.0, *(volume(costs[found[: k + 1]]) for k in range(len(found)))])
    assert (np.diff(gains) <= 1e-12).all()
    wanted = plain(costs, len(found))
    np.testing.assert_allclose(volume(costs[found]), volume(costs[wanted]), rtol=1e-12)


def test_near_the_best_subset():
    costs = np.random.default_rng(9).uniform(size=(14, 3))
    best = max(volume(costs[list(rows)]) for rows in itertools.combinations(range(14), 3))
    assert volume(costs[most_hypervolume(costs, 3)]) >= (1 - 1 / np.e) * best


def test_dominated_rows_are_left_out_and_those_beyond_the_corner_come_last():
    costs = np.array([[0.5, 0.5], [0.6, 0.6], [2.0, 0.1], [0.2, 0.8], [0.5, 0.5]])
    assert most_hypervolume(costs, 9).tolist() == [0, 3, 2]
    assert most_hypervolume(costs, 1).tolist() == [0]
    assert most_hypervolume(np.zeros((0, 2)), 3).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_what_is_there_already_counts(seed):
    """The greedy choice that goes on after the known points, each step tried in full."""
    rng = np.random.default_rng(seed)
    costs, known = rng.uniform(size=(25, 3)), rng.uniform(0.3, 1.2, size=(6, 3))
    found = most_hypervolume(costs, 5, known)
    within = known[(known < 1).all(axis=1)]
    chosen: list[int] = []
    for _ in found:
        gains = [volume(np.concatenate([within, costs[[*chosen, i]]])) for i in range(len(costs))]
        chosen.append(int(np.argmax(gains)))
    wanted = volume(np.concatenate([within, costs[chosen]]))
    np.testing.assert_allclose(volume(np.concatenate([within, costs[found]])), wanted, rtol=1e-12)
    alone = volume(np.concatenate([within, costs[most_hypervolume(costs, 5)]]))
    assert wanted >= alone
    np.testing.assert_array_equal(most_hypervolume(costs, 5, known[:0]), most_hypervolume(costs, 5))
