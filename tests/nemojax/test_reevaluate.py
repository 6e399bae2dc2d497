"""A front on other images: what is dominated there drops out, and the searched cost stays beside it."""

import jax
import numpy as np
import pytest

import nemojax as nemo


@pytest.fixture(scope="module")
def tasks(small_network):
    images = jax.random.normal(jax.random.key(1), (14, 16, 16, 3))
    task = nemo.fidelity(nemo.quantize(small_network(), images[:2]), images[2:6])
    return task, task.on(images[6:])


@pytest.mark.long
def test_points_dominated_on_other_images_drop_out(tasks):
    task, report = tasks
    bits = np.asarray(task.space.sample(jax.random.key(0), 60))
    front = nemo.Front.of(bits, nemo.Evaluator(task)(bits), task.objectives, task.space.names, {"seed": 3})
    again = nemo.reevaluate(front, report)
    costs = np.asarray(nemo.Evaluator(report)(front.bits), np.float64)
    beaten = [any((a <= c).all() and (a < c).any() for a in costs) for c in costs]
    assert 0 < sum(beaten) < len(front), "some drop out, not all"
    stay = np.flatnonzero(~np.array(beaten))
    order = stay[np.lexsort(costs[stay].T[::-1])]
    np.testing.assert_array_equal(again.bits, front.bits[order])
    np.testing.assert_array_equal(again.costs, costs[order])
    np.testing.assert_array_equal(again.held_out["search_kl"], front.costs[order, 0])
    assert again.settings["seed"] == 3


def test_a_task_of_another_network_is_refused(tasks):
    task, _ = tasks
    bits = np.full((1, 2), 4, np.int32)
    front = nemo.Front.of(bits, np.ones((1, 3)), task.objectives, ("a.weight", "a"))
    with pytest.raises(ValueError, match="task is of another network"):
        nemo.reevaluate(front, task)
