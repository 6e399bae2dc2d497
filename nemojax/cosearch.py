"""Co-search: bit-widths and placements found together, in turn, or one after the other, at equal evaluations.

An evaluation is a pair of bit-widths and placement whose costs are worked out. A rule or a policy tells one
placement for a configuration, so that is one; "best" of three rules is three, a search within the objective
as many as it looks at (`Placing.maps`). Searches of placements at given bit-widths count each placement. So a
budget means the same whatever is searched first:

- `search` of a task whose latency is placed by a rule, a policy or an inner search: bits decide all
- `searched_jointly`, which is `search` of `joint(task)`: one genome holds both
- `alternate`: bits at a fixed placement, then placements at fixed bits, and round again
- `bits_then_placement`, `placement_then_bits`: one after the other, what co-search is compared with
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import moocore
import numpy as np
from jaxtyping import Array, Float, Int

import egrljax as egrl
from egrljax import baselines

from .chip_costs import ChipCost
from .config import NemoConfig
from .first_generation import uniform_bits
from .front import Front
from .joint import chip_costs, genomes, joint, placed_by
from .joint_space import JointSpace
from .placing import RULES
from .search import search
from .subset import most_hypervolume
from .task import Task

JOINT = NemoConfig(species=("continuous", "floor", "joint_gcn", "joint_unet"))
"""Species of a joint search: genes that are bits and levels, and policies of both."""


class Pairs(NamedTuple):
    """K pairs of bit-widths and placement, and what they cost."""

    bits: Int[np.ndarray, "K n"]
    placement: Int[np.ndarray, "K N 2"]  # as it fits
    costs: Float[np.ndarray, "K M"]
    evaluations: int  # spent on them, and on others that were looked at


@dataclass(frozen=True, eq=False)
class CoFound:
    """The outcome: what is not dominated among all pairs, in the order of the costs."""

    objectives: tuple[str, ...]
    names: tuple[str, ...]  # of the points
    bits: np.ndarray  # (K, n) int32
    placement: np.ndarray  # (K, N, 2) int32, levels
    costs: np.ndarray  # (K, M) float64
    evaluations: int

    @classmethod
    def of(cls, task: Task, pairs: Sequence[Pairs]) -> "CoFound":
        """Of several parts of a search; failed pairs are left out."""
        bits, placement, costs = (
            np.concatenate(columns) for columns in zip(*(part[:3] for part in pairs), strict=True)
        )
        costs = costs.astype(np.float64)
        rows = np.flatnonzero(np.isfinite(costs).all(axis=1))
        if not len(rows):
            raise ValueError(f"none of {len(costs)} pairs of bits and placement has finite costs")
        rows = rows[np.lexsort(costs[rows].T[::-1])]
        rows = rows[moocore.is_nondominated(costs[rows], keep_weakly=False)]
        spent = sum(part.evaluations for part in pairs)
        names = task.network.workload.point_names
        return cls(task.objectives, names, bits[rows], placement[rows], costs[rows], spent)

    def front(self) -> Front:
        """A front of bit-widths, for tables, files and plots; `placement` has a row for each of its rows."""
        return Front(self.bits, self.costs, self.objectives, self.names)

    def hypervolume(self, reference: Sequence[float | int] | np.ndarray) -> float:
        """As a share of the box up to `reference`; see `nemojax.reference`."""
        corner = np.asarray(reference, np.float64)
        return float(moocore.hypervolume(self.costs / corner, np.ones(len(corner))))


def searched_bits(
    key: jax.Array,
    task: Task,
    budget: int,
    *,
    config: NemoConfig | None = None,
    seeds: Int[np.ndarray, "k n"] | None = None,
    **options: Any,
) -> Pairs:
    """Bit-widths, each placed as the task's objective on a chip has it.

    Args:
        budget: evaluations; a placing that looks at several maps leaves so many fewer configurations.
        options: of `search`.
    """
    cost = next(iter(chip_costs(task).values()))
    maps = cost.place.maps
    found = search(key, task, budget=budget // maps, config=config, seeds=seeds, **options)
    placement = _placements(cost, jnp.asarray(found.bits))
    return Pairs(found.bits, np.asarray(placement), found.costs, maps * len(found.bits))


def searched_placements(
    key: jax.Array,
    task: Task,
    bits: Int[np.ndarray, "K n"],
    costs: Float[np.ndarray, "K M"],
    budget: int,
    config: baselines.EAMarginsConfig | None = None,
) -> Pairs:
    """Placements at given bit-widths: the fastest of the rules and of an evolution from the density rule.

    Args:
        costs: of these bit-widths, of which those on a chip are replaced.
        budget: evaluations, shared evenly; at least four for each row.

    Raises:
        ValueError: too small a budget, or no row.
    """
    rows, rules = len(bits), len(RULES)
    each = budget // max(rows, 1) - rules
    if rows < 1 or each < 1:
        raise ValueError(
            f"budget must be at least {(rules + 1) * max(rows, 1)} for {rows} configurations, got {budget}"
        )
    config = config or baselines.EAMarginsConfig(population=20, children=10)
    on_chip = chip_costs(task)
    placing = next(iter(on_chip.values()))
    keys = jax.random.split(key, rows)
    wish = _evolved(placing, keys, jnp.asarray(bits, jnp.int32), each, config)
    costs = np.array(costs, np.float32)
    for name, cost in on_chip.items():
        costs[:, task.objectives.index(name)] = _costs_at(cost, jnp.asarray(bits, jnp.int32), wish)
    return Pairs(np.asarray(bits, np.int32), np.asarray(wish), costs, rows * (each + rules))


def bits_then_placement(
    key: jax.Array, task: Task, budget: int, *, share: float = 0.5, rows: int = 20, **options: Any
) -> CoFound:
    """Bits first, as if there were no chip: then placements for the front's most valuable points.

    Args:
        share: of the budget that goes to the bits, which cost no placement; each counts as one evaluation.
        rows: points of the front that are placed, at most.
        options: of `search`.
    """
    _check_share(share)
    k_bits, k_place = jax.random.split(key)
    on_chip = chip_costs(task)
    others = tuple((name, cost) for name, cost in task.costs_of_bits if name not in on_chip)
    if not others:
        raise ValueError("bits alone need a cost that is not on a chip besides the error, say model_ratio")
    blind = task.replace(costs_of_bits=others)  # type: ignore[attr-defined]
    found = search(k_bits, blind, budget=int(share * budget), **options)
    columns = [task.objectives.index(name) for name in blind.objectives]
    costs = np.zeros((len(found.front), len(task.objectives)), np.float32)
    costs[:, columns] = found.front.costs
    left = budget - len(found.bits)
    chosen = _most_valuable(found.front.costs, min(rows, left // (len(RULES) + 1)))
    placed = searched_placements(k_place, task, found.front.bits[chosen], costs[chosen], left)
    return CoFound.of(task, [placed._replace(evaluations=placed.evaluations + len(found.bits))])


def placement_then_bits(
    key: jax.Array, task: Task, budget: int, *, share: float = 0.5, **options: Any
) -> CoFound:
    """A placement first, at the highest bit-widths: then bits with that wish, which slides as it must.

    Args:
        share: of the budget that goes to the placement.
        options: of `search`.
    """
    _check_share(share)
    k_place, k_bits = jax.random.split(key)
    highest = task.space.uniform(task.space.widths[-1])[None]
    unknown = np.zeros((1, len(task.objectives)), np.float32)  # the network is not run for it
    first = searched_placements(k_place, task, highest, unknown, int(share * budget))
    there = placed_by(task, first.placement[0])
    found = searched_bits(k_bits, there, budget - first.evaluations, **options)
    return CoFound.of(task, [found._replace(evaluations=found.evaluations + first.evaluations)])


def alternate(
    key: jax.Array,
    task: Task,
    budget: int,
    *,
    rounds: int = 2,
    share: float = 0.75,
    rows: int = 8,
    on_round: Callable[[int, CoFound], Any] | None = None,
    **options: Any,
) -> CoFound:
    """In turn: bits with one placement for all, then placements for the best of them; and round again.

    The first round places by the task's own rule or policy; later ones by the placement found for the front's
    point nearest to the ideal, and start from the front's bit-widths.

    Args:
        rounds: of both.
        share: of each round's budget that goes to the bits.
        rows: configurations that are placed in a round, at most.
        on_round: told the number of the round and the outcome so far; True ends the search.
        options: of `search`.
    """
    _check_share(share)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    parts: list[Pairs] = []
    place: Any = next(iter(chip_costs(task).values())).place
    seeds = None
    for number in range(rounds):
        k_bits, k_place = jax.random.split(jax.random.fold_in(key, number))
        spent = sum(part.evaluations for part in parts)
        left = (budget - spent) // (rounds - number)
        bits = searched_bits(k_bits, placed_by(task, place), int(share * left), seeds=seeds, **options)
        parts.append(bits)
        so_far = CoFound.of(task, parts)
        room = (left - bits.evaluations) // (len(RULES) + 1)
        chosen = _most_valuable(so_far.costs, min(rows, room))
        placed = searched_placements(
            k_place, task, so_far.bits[chosen], so_far.costs[chosen], left - bits.evaluations
        )
        parts.append(placed)
        so_far = CoFound.of(task, parts)
        nearest = np.linalg.norm(_scaled(placed.costs), axis=1).argmin()
        place, seeds = placed.placement[nearest], so_far.bits[_most_valuable(so_far.costs, rows)]
        if on_round is not None and on_round(number, so_far) is True:
            break
    return CoFound.of(task, parts)


def searched_jointly(
    key: jax.Array, task: Task, budget: int, *, config: NemoConfig | None = None, **options: Any
) -> CoFound:
    """`search` of `joint(task)`, from the uniform configurations as the density rule places them.

    Args:
        config: default: both direct species and both joint graph species.
        options: of `search`.
    """
    whole = joint(task)
    seeds = genomes(whole, uniform_bits(task), "density")
    found = search(
        key, whole, budget=budget, config=config or JOINT, seeds=seeds, **{"warm_start": None, **options}
    )
    assert isinstance(whole.space, JointSpace)
    bits, wish = whole.space.split(found.bits)
    placement = _rectified(next(iter(chip_costs(task).values())), bits, wish)
    pairs = Pairs(np.asarray(bits), np.asarray(placement), found.costs, len(found.bits))
    return CoFound.of(task, [pairs])


@partial(jax.jit, static_argnums=0)
def _rectified(cost: ChipCost, bits: Int[Array, "K n"], wish: Int[Array, "K N 2"]) -> Int[Array, "K N 2"]:
    return jax.lax.map(lambda pair: cost.rectified(*pair), (bits, wish))


@partial(jax.jit, static_argnums=0)
def _placements(cost: ChipCost, bits: Int[Array, "K n"]) -> Int[Array, "K N 2"]:
    return jax.lax.map(cost.placement, bits)


@partial(jax.jit, static_argnums=0)
def _costs_at(cost: ChipCost, bits: Int[Array, "K n"], placement: Int[Array, "K N 2"]) -> Float[Array, " K"]:
    return jax.lax.map(lambda pair: cost.at(*pair), (bits, placement))


@partial(jax.jit, static_argnums=(0, 3, 4))
def _evolved(
    cost: ChipCost, keys: Array, bits: Int[Array, "K n"], budget: int, config: baselines.EAMarginsConfig
) -> Int[Array, "K N 2"]:
    """The fastest of the rules' and of the evolution's placements, for each row."""
    environment = egrl.environment_at(cost.workload, cost.chip)

    def one(item: tuple[Array, Array]) -> Array:
        key, row = item
        own, problem = cost.problem(row)
        found = baselines.ea_margins(key, environment(own), budget, config)
        placements = jnp.stack([*(rule(problem) for rule in RULES.values()), found.answer])
        seconds = jax.lax.map(lambda wish: cost.at(row, wish), placements)
        return placements[jnp.argmin(seconds)]

    return jax.lax.map(one, (keys, bits))


def _most_valuable(costs: Float[np.ndarray, "K M"], count: int) -> Int[np.ndarray, " k"]:
    """Rows that make up the most hypervolume."""
    if count < 1:
        raise ValueError("the budget leaves no evaluation for placements: raise it, or lower share")
    return np.asarray(most_hypervolume(_scaled(costs), min(count, len(costs))))


def _scaled(costs: Float[np.ndarray, "K M"]) -> Float[np.ndarray, "K M"]:
    """Each objective from 0, its lowest, to a little below 1, its highest, which would count nothing."""
    costs = np.asarray(costs, np.float64)
    span = np.ptp(costs, axis=0)
    return (costs - costs.min(axis=0)) / np.where(span > 0, 1.05 * span, 1)


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
