"""A front again, on data that the search did not see: what was chosen for its luck there drops out."""

from collections.abc import Sequence

import numpy as np

from .evaluator import Evaluator
from .front import Front
from .task import Task


def reevaluate(front: Front, task: Task, evaluate: Evaluator | None = None) -> Front:
    """The front's points that no other one dominates on `task`, with its costs.

    Args:
        task: of the same quantizers on other images (`Task.on`), perhaps with another score.
        evaluate: of that task, if several fronts share their evaluations.

    The cost searched stands beside them as `held_out`, named ``search_`` and its objective.

    Raises:
        ValueError: a task of other quantizers, or every point fails there.
    """
    if task.space.names != front.names:
        raise ValueError("task is of another network: its quantizers have other names than the front's")
    return refiltered(front, (evaluate or Evaluator(task))(front.bits), task.objectives)


def refiltered(front: Front, costs: np.ndarray, objectives: Sequence[str]) -> Front:
    """The front's points with other costs (K, M), those that failed or are dominated left out."""
    searched = {f"search_{front.objectives[0]}": front.costs[:, 0]}
    return Front.of(front.bits, costs, objectives, front.names, front.settings, searched)
