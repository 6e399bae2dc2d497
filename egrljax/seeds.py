"""Several seeds of one run, on one device or on several: the same numbers either way."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import PRNGKeyArray, Shaped

from .egrl import EGRL
from .environment import Environment
from .loop import stacked, step_once
from .state import EGRLState, Metrics


def run_seeds(
    keys: Shaped[PRNGKeyArray, " S"],
    algo: EGRL,
    env: Environment,
    *,
    devices: Sequence[Any] | None = None,
) -> list[tuple[EGRLState, Metrics]]:
    """Whole runs, one for each key, as `run` has them to the bit, whatever the number of devices.

    Seeds go to the devices in turn, and devices work at the same time: generations are sent off without
    waiting. `vmap` over `run_chunk` is faster where one device is wide, and equal up to rounding only: its
    sums, and those of a program that is sharded, are in another order.

    Args:
        devices: default: the first one.

    Returns:
        State and metrics (NumPy, generations along the first axis) of each seed.

    Raises:
        ValueError: no devices.
    """
    places = list(jax.devices()[:1] if devices is None else devices)
    if not places:
        raise ValueError("devices must name at least one, got none")
    homes = [places[i % len(places)] for i in range(len(keys))]
    worlds = {place: jax.device_put(env, place) for place in set(homes)}
    start = jax.jit(algo.init)
    states = [start(jax.device_put(key, home), worlds[home]) for key, home in zip(keys, homes, strict=True)]
    rows: list[list[Metrics]] = [[] for _ in homes]
    for _ in range(algo.config.generations):
        for i, home in enumerate(homes):
            states[i], metrics = step_once(algo, worlds[home], states[i])
            rows[i].append(metrics)
    return [(state, stacked(each)) for state, each in zip(states, rows, strict=True)]
