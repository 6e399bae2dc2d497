"""Each point of a front on a chip: seconds, and for some points memory, time and placement by operation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import hwmodel as hw

from ..chip_bits import tensor_bits
from ..chip_costs import ChipCost, latency
from ..front import Front
from ..front_table import spread
from ..joint import JointCost
from ..placing import Evolved, Fixed, Rule
from ..quantized import QuantizedNetwork
from ..task import Task

Network = QuantizedNetwork | hw.Workload | Task
Chips = hw.Chip | ChipCost | Sequence[hw.Chip | ChipCost]


@dataclass(frozen=True, eq=False)
class ChipView:
    """K points on one chip."""

    label: str
    placed_by: str  # in words
    cost: ChipCost
    seconds: Float[np.ndarray, " K"]  # +inf: the chip cannot compute or hold the network at these bit-widths
    explained: Mapping[int, hw.Explanation]  # rows that have one


def chip_costs_of(chip: Chips | None, network: Network | None) -> list[ChipCost]:
    """What is asked for, as costs in seconds; without `chip` the chips of a task's own objectives.

    Raises:
        ValueError: a chip without a network.
    """
    if chip is None:
        own = [] if not isinstance(network, Task) else [cost for _, cost in network.costs_of_bits]
        own = [cost.cost if isinstance(cost, JointCost) else cost for cost in own]
        costs = [replace(cost, measure="latency") for cost in own if isinstance(cost, ChipCost)]
        return list(dict.fromkeys(costs))
    found = []
    for one in [chip] if isinstance(chip, hw.Chip | ChipCost) else chip:
        if isinstance(one, ChipCost):
            found.append(replace(one, measure="latency"))
        elif network is None:
            raise ValueError(
                f"chip {one.name!r} is given without network: give network=, or nemo.latency(net, chip)"
            )
        else:
            found.append(latency(network.network if isinstance(network, Task) else network, one))
    return found


def chip_views(
    front: Front,
    costs: Sequence[ChipCost],
    placements: Sequence[Int[np.ndarray, "K N 2"] | None],
    rows: Sequence[int],
) -> list[ChipView]:
    """A view for each cost; `rows` are the points that get an explanation.

    Args:
        placements: for each cost levels of every point, or None for the cost's own.

    Raises:
        ValueError: a network with other quantizers than the front's, placements of another shape, or on
            levels that the chip lacks.
    """
    names = [cost.chip.name for cost in costs]
    views = []
    for i, (cost, wish) in enumerate(zip(costs, placements, strict=True)):
        work, name = cost.workload, cost.chip.name
        if work.point_names != front.names:
            raise ValueError(
                f"the front has {len(front.names)} quantizers, workload {work.name!r} has {len(work.points)} "
                "or others: give the network of the search"
            )
        bits = jnp.asarray(front.bits)
        if wish is None:
            seconds, levels = _by_itself(cost, bits)
        else:
            shape = (len(front), len(work.operations), 2)
            if np.shape(wish) != shape or np.asarray(wish).dtype.kind not in "iu":
                raise ValueError(
                    f"placements of {name!r} must be whole numbers {shape}, got {np.shape(wish)}"
                )
            if not 0 <= np.min(wish) <= np.max(wish) < len(cost.chip.levels):
                raise ValueError(
                    f"placements of {name!r} must be its levels, 0-{len(cost.chip.levels) - 1}, got "
                    f"{np.min(wish)} to {np.max(wish)}"
                )
            seconds, levels = _as_wished(cost, bits, jnp.asarray(wish, jnp.int32))
        shown = [row for row in rows if np.isfinite(seconds[row])]
        label = name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})"
        placed_by = "as given" if wish is not None else _words(cost)
        explained = _explained(cost, bits, np.asarray(levels), shown)
        views.append(ChipView(label, placed_by, cost, np.asarray(seconds, np.float64), explained))
    return views


def detailed_rows(front: Front, count: int, *first: int) -> list[int]:
    """So many rows, or all: `first`, the lowest of each objective, the most exact at each step of size, and
    of the others some at even distances.

    Raises:
        ValueError: `count` below 1.
    """
    if count < 1:
        raise ValueError(f"detailed must be at least 1 point, got {count}")
    lowest = front.costs.argmin(axis=0).tolist()
    rows = list(dict.fromkeys([*first, *lowest]))[:count]
    left = count - len(rows)
    if left >= 2:
        along = "model_ratio" if "model_ratio" in front.objectives else front.objectives[-1]
        rows += spread(front.costs, front.objectives.index(along), left, rows[0])
    others = np.setdiff1d(np.arange(len(front)), rows)
    left = min(count - len(set(rows)), len(others))
    return sorted({*rows, *others[np.linspace(0, len(others) - 1, left).astype(int)].tolist()})


@partial(jax.jit, static_argnums=0)
def _by_itself(cost: ChipCost, bits: Int[Array, "K n"]) -> tuple[Float[Array, " K"], Int[Array, "K N 2"]]:
    def one(row: Array) -> tuple[Array, Array]:
        levels = cost.placement(row)
        return cost.at(row, levels), levels  # a placement that fits stays as it is

    return jax.lax.map(one, bits)


@partial(jax.jit, static_argnums=0)
def _as_wished(
    cost: ChipCost, bits: Int[Array, "K n"], wish: Int[Array, "K N 2"]
) -> tuple[Float[Array, " K"], Int[Array, "K N 2"]]:
    return jax.lax.map(lambda pair: (cost.at(*pair), cost.rectified(*pair)), (bits, wish))


def _explained(
    cost: ChipCost, bits: Array, levels: Int[np.ndarray, "K N 2"], rows: Sequence[int]
) -> dict[int, hw.Explanation]:
    if not rows:
        return {}
    some = bits[np.array(rows)]
    of_tensors = jax.jit(jax.vmap(lambda row: tensor_bits(cost.workload, cost.chip, row, cost.widths)))(some)
    weights, outputs, inputs = (np.asarray(width, np.int64) for width in of_tensors)
    found: dict[int, hw.Explanation] = {}
    for i, row in enumerate(rows):
        own = hw.Bits(weights[i], outputs[i], int(inputs[i]))
        found[row] = hw.explain(cost.workload, cost.chip, levels[row], own, cost.schedule)
    return found


def _words(cost: ChipCost) -> str:
    place: Any = cost.place
    if isinstance(place, Rule):
        return "the fastest of the compilers' rules" if place.name == "best" else f"the rule {place.name}"
    if isinstance(place, Fixed):
        return "one wish for all bit-widths"
    return "an inner evolution" if isinstance(place, Evolved) else type(place).__name__
