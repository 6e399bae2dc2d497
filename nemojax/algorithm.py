"""The algorithm of a search over a task: compiled once for all searches that differ in their state alone."""

from typing import Any

import jax
import numpy as np

from .config import NemoConfig
from .custom_error import ErrorOfBits, ErrorOfOutputs
from .fingerprint import digest_of
from .nemo import Nemo, nemo
from .prices import Prices
from .quantizer_graph import quantizer_graph
from .sensitivity import Sensitivity
from .species import SPECIES
from .survival import SURVIVALS
from .task import Task
from .warm_start import with_sensitivity

_BUILT: dict[tuple[Any, ...], Nemo] = {}
_MOST = 32


def algorithm(
    config: NemoConfig,
    task: Task,
    table: Sensitivity | None,
    scale: np.ndarray,
    prices: Prices | None = None,
) -> tuple[Nemo, Nemo]:
    """One to start with, and one to go on with, which an earlier search may have compiled.

    Args:
        prices: of bits; default: the table's.

    An algorithm compiles anew for each instance. What a table decides (features of the nodes, prices) is in
    the state that the first one makes; all else is compared here.
    """
    workload, rules = task.network.workload, config.graph
    # One fixed order for every run: the shuffled graph is the control of an ablation.
    shuffle = jax.random.key(0) if rules.edges == "shuffled" else None
    graph = quantizer_graph(workload, rules.edges, shuffle, position=rules.position)  # type: ignore[arg-type]
    graph = with_sensitivity(graph, table)
    if prices is None and table is not None:
        prices = Prices.of(task.space, workload, table, float(scale[0]))
    units = ranking_units(task, scale)
    own = nemo(config, task.space, len(task.objectives), graph=graph, prices=prices, scale=scale, units=units)
    fixed = [graph.senders, graph.receivers, scale, units]
    if prices is not None:
        fixed += [prices.weight, prices.input]
    # Names may be registered anew: their makers count.
    makers = (SURVIVALS[config.survival], *(SPECIES[name] for name in config.species))
    key = (config, makers, task.space, task.objectives, graph.nodes.shape, digest_of(fixed))
    if key not in _BUILT and len(_BUILT) >= _MOST:
        _BUILT.pop(next(iter(_BUILT)))
    return own, _BUILT.setdefault(key, own)


def ranking_units(task: Task, scale: np.ndarray) -> np.ndarray:
    """(M,) what counts as 1 in the ranking: the worst that counts, as `reference` has it.

    The built-in errors stay as they are, KL among them: their order is 1.
    """
    units = np.array(scale, np.float64)
    if not isinstance(task.score, ErrorOfBits | ErrorOfOutputs):
        units[0] = 1.0
    return units
