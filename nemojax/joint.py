"""Joint search: a task whose configurations hold bit-widths and memories together.

`search` runs it as it runs any task: same evaluator, same budget, checkpoint and front. The network reads the
first n numbers of a genome, and so do the costs of size and bit-operations; latency and energy read all.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .chip_costs import ChipCost
from .custom_error import HostCost
from .front import Front
from .joint_space import JointSpace
from .task import CostOfBits, Task, costs_by_name


@dataclass(frozen=True)
class JointCost:
    """Seconds or joules of a genome: of its bit-widths, with its tensors where it wants them."""

    space: JointSpace
    cost: ChipCost

    def __call__(self, genome: Int[Array, " G"]) -> Float[Array, ""]:
        return self.cost.at(*self.space.split(genome))


@dataclass(frozen=True)
class _OfBits:
    """Somebody's cost of bit-widths, which does not see the memories behind them."""

    cost: CostOfBits
    points: int

    def __call__(self, genome: Int[Array, " G"]) -> Any:
        return self.cost(genome[: self.points])


def joint(task: Task) -> Task:
    """The task with memories as further decisions, in place of what placed its tensors so far.

    `search` takes it with `warm_start=None`, for a table of sensitivities knows nothing of memories; species
    are the direct ones and "joint_gcn", "joint_unet" and "joint_mlp".

    Args:
        task: with at least one objective made by `latency` or `energy`, all of one chip.

    Raises:
        ValueError: no such objective, or of several chips; an objective that runs on the host.
    """
    costs = dict(task.costs_of_bits)
    for name, cost in costs.items():
        if isinstance(cost, HostCost):
            raise ValueError(
                f"objective {name!r} runs on the host, which a joint task cannot ask: leave it out, or give "
                "it as a JAX function of bits"
            )
    on_chip = chip_costs(task)
    space = JointSpace.of(task.space, task.network.workload, next(iter(on_chip.values())).chip)
    built_in = costs_by_name(task.network)  # these read a genome's points by themselves
    wrapped: dict[str, CostOfBits] = {}
    for name, cost in costs.items():
        if isinstance(cost, ChipCost):
            wrapped[name] = JointCost(space, cost)
        else:
            wrapped[name] = cost if built_in.get(name) == cost else _OfBits(cost, space.points)
    return task.replace(space=space, costs_of_bits=tuple(wrapped.items()))  # type: ignore[attr-defined]


def chip_costs(task: Task) -> dict[str, ChipCost]:
    """The objectives made by `latency` and `energy`.

    Raises:
        ValueError: none, or of several chips: one network lies on one chip.
    """
    found = {name: cost for name, cost in task.costs_of_bits if isinstance(cost, ChipCost)}
    if not found:
        raise ValueError(
            f"the task's objectives are {list(task.objectives)}, none of them on a chip: give "
            'costs={..., "latency": latency(network, chip)}'
        )
    chips = {cost.chip.name for cost in found.values()}
    if len({cost.chip for cost in found.values()}) > 1:
        raise ValueError(f"the task has objectives on chips {sorted(chips)}: place for one of them at a time")
    return found


def placed_by(task: Task, place: Any) -> Task:
    """The task with tensors placed otherwise for all objectives on its chip; see `latency`."""
    there = {name: cost.placed_by(place) for name, cost in chip_costs(task).items()}
    costs = tuple({**dict(task.costs_of_bits), **there}.items())
    return task.replace(costs_of_bits=costs)  # type: ignore[attr-defined]


def genomes(task: Task, bits: Int[np.ndarray, "K n"], place: Any = "best") -> Int[np.ndarray, "K G"]:
    """Genomes of a joint task that place given bit-widths by a rule, say as `seeds` of a search."""
    space = task.space
    joined = [cost for _, cost in task.costs_of_bits if isinstance(cost, JointCost)]
    if not isinstance(space, JointSpace) or not joined:
        raise ValueError("the task is not joint: make it with joint(task)")
    cost: ChipCost = joined[0].cost.placed_by(place)
    rows = jnp.asarray(bits, jnp.int32)
    placements = jax.jit(lambda rows: jax.lax.map(cost.placement, rows))(rows)
    return np.asarray(space.join(rows, placements))


def separated(front: Front, space: JointSpace) -> tuple[Front, Int[np.ndarray, "K N 2"]]:
    """A joint search's front as one of bit-widths, with the same costs, and the levels that it wished for.

    Files, tables and exports read the former; rectify the latter at the point's bits before use.
    """
    bits, placement = space.split(front.bits)
    names = space.names[: space.points]
    return replace(front, bits=np.asarray(bits), names=names), np.asarray(placement, np.int32)
