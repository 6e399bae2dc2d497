"""Co-search: bit-widths and placements found together, in turn, or one after the other, at equal evaluations.

An evaluation is a configuration whose error is worked out, with or without a placement, or one more placement
at given bit-widths whose latency is. A rule or a policy tells one placement for a configuration, so that is
one evaluation; "best" of three rules is three, a search within the objective as many as it looks at
(`Placing.maps`). So a budget means the same whatever is searched first. It is no measure of time: a placement
costs much less than a run of the network, and `runs` tells how many of those there were.

- `search` of a task whose latency is placed by a rule, a policy or an inner search: bits decide all
- `searched_jointly`, which is `search` of `joint(task)`: one genome holds both
- `alternate`: bits at a fixed placement, then placements at fixed bits, and round again
- `bits_then_placement`, `placement_then_bits`: one after the other, what co-search is compared with

All take some options of `search`, those of `OPTIONS`. A time limit holds for the whole.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from egrljax import baselines
from hwmodel import wants_stop

from .chip_costs import ChipCost
from .config import NemoConfig
from .cosearch_options import OPTIONS as OPTIONS, Clock, check_budget, check_options, of_round, plain
from .cosearch_outcome import CoFound as CoFound, Pairs as Pairs, settings_of
from .first_generation import uniform_bits
from .joint import chip_costs, genomes, joint, placed_by
from .joint_space import JointSpace
from .limits import limits as checked_limits
from .placing import RULES, evolved, small_evolution
from .search import search
from .subset import most_hypervolume
from .task import Task

JOINT = NemoConfig(species=("continuous", "floor", "joint_gcn", "joint_unet"))
"""Species of a joint search: genes that are bits and levels, and policies of both."""

EVOLUTION = 30
"""Evaluations that an evolution of placements at given bit-widths has at least, where there is a choice."""


def searched_bits(key: jax.Array, task: Task, budget: int, **options: Any) -> Pairs:
    """Bit-widths, each placed as the task's objective on a chip has it.

    Args:
        budget: evaluations; a placing that looks at several maps leaves so many fewer configurations.
        options: see `OPTIONS`.

    Raises:
        ValueError: an option that co-searches do not take, objectives that place tensors differently, or what
            `search` refuses.
    """
    check_options(options)
    cost = _one_placing(task)
    maps = cost.place.maps
    check_budget(budget, options, maps=maps)
    found = search(key, task, budget=budget // maps, **options)
    placement = np.asarray(_placements(cost, jnp.asarray(found.bits)))
    return Pairs(
        found.bits, placement, found.costs, maps * found.evaluations, found.evaluations, found.finished
    )


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
        config: default: `small_evolution`, whose population is at most a third of a row's evaluations.

    Raises:
        ValueError: too small a budget, or no row.
    """
    rows, rules = len(bits), len(RULES)
    each = budget // max(rows, 1) - rules
    if rows < 1 or each < 1:
        raise ValueError(
            f"budget must be at least {(rules + 1) * max(rows, 1)} for {rows} configurations, got {budget}"
        )
    config = config or small_evolution(each)
    placing = next(iter(chip_costs(task).values()))
    wish = _evolved(placing, jax.random.split(key, rows), jnp.asarray(bits, jnp.int32), each, config)
    return _pairs_at(task, bits, costs, wish, rows * (each + rules))


def bits_then_placement(
    key: jax.Array, task: Task, budget: int, *, share: float = 0.5, rows: int = 20, **options: Any
) -> CoFound:
    """Bits first, as if there were no chip: then placements for the front.

    Every point of that front is placed by the density rule. What is left of the budget goes to evolutions of
    placements at the most valuable of them.

    Args:
        share: of the budget that goes to the bits, which cost no placement; each counts as one evaluation.
        rows: points whose placements are evolved, at most; fewer where each had less than `EVOLUTION`
            evaluations.
        options: see `OPTIONS`; limits of objectives on the chip hold for the outcome.
    """
    _check_parts(share, rows)
    check_options(options)
    check_budget(budget, options, share)
    settings = settings_of("bits_then_placement", key, budget, share=share, rows=rows, options=plain(options))
    k_bits, k_place = jax.random.split(key)
    clock = Clock(options)
    limits = options.pop("limits", None)
    checked_limits(task, limits or {})
    on_chip = chip_costs(task)
    others = tuple((name, cost) for name, cost in task.costs_of_bits if name not in on_chip)
    if not others:
        raise ValueError("bits alone need a cost that is not on a chip besides the error, say model_ratio")
    blind = task.replace(costs_of_bits=others)  # type: ignore[attr-defined]
    blind_limits = {name: limit for name, limit in (limits or {}).items() if name not in on_chip}
    found = search(k_bits, blind, budget=int(share * budget), limits=blind_limits, **options)
    left = budget - found.evaluations
    front = found.front
    chosen = _most_valuable(front.costs, left) if len(front) > left else np.arange(len(front))
    columns = [task.objectives.index(name) for name in blind.objectives]
    costs = np.zeros((len(chosen), len(task.objectives)), np.float32)
    costs[:, columns] = front.costs[chosen]
    placed = _by_density(task, front.bits[chosen], costs)
    in_time = found.finished and not clock.over()
    runs = found.evaluations
    parts = [placed._replace(evaluations=placed.evaluations + runs, runs=runs, finished=in_time)]
    left -= placed.evaluations
    finite = np.flatnonzero(np.isfinite(placed.costs).all(axis=1))
    if in_time and len(finite) and _affordable(left, rows):
        best = finite[_most_valuable(placed.costs[finite], _affordable(left, rows))]
        parts.append(searched_placements(k_place, task, placed.bits[best], placed.costs[best], left))
    return CoFound.of(task, parts, limits, settings)


def placement_then_bits(
    key: jax.Array, task: Task, budget: int, *, share: float = 0.5, width: int | None = None, **options: Any
) -> CoFound:
    """A placement first, at one bit-width everywhere: then bits with that wish, which slides as it must.

    Args:
        share: of the budget that goes to the placement.
        width: at which it is placed, or the nearest that the space allows; default: the highest. Where
            memories are narrow, fewer bits show more of what a chip can hold.
        options: see `OPTIONS`.
    """
    _check_parts(share)
    check_options(options)
    check_budget(budget, options, 1 - share)
    if int(share * budget) <= len(RULES):
        raise ValueError(
            f"budget must leave the placement more than {len(RULES)} evaluations, got {budget} with a share "
            f"of {share}: raise either"
        )
    settings = settings_of(
        "placement_then_bits", key, budget, share=share, width=width, options=plain(options)
    )
    k_place, k_bits = jax.random.split(key)
    clock = Clock(options)
    uniform = task.space.uniform(task.space.widths[-1] if width is None else width)[None]
    unknown = np.zeros((1, len(task.objectives)), np.float32)  # the network is not run for it
    first = searched_placements(k_place, task, uniform, unknown, int(share * budget))
    there = placed_by(task, first.placement[0])
    found = searched_bits(k_bits, there, budget - first.evaluations, **clock.rest(options))
    parts = [found._replace(evaluations=found.evaluations + first.evaluations)]
    return CoFound.of(task, parts, options.get("limits"), settings)


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
        rows: configurations that are placed in a round, at most; fewer where each had less than `EVOLUTION`
            evaluations.
        on_round: told the number of the round and the outcome so far; True or "stop" ends the search.
        options: see `OPTIONS`. A checkpoint or a cache is a file for each round, NAME.round0 and so on, for
            each round is of a task of its own. Seeds are of the first round, and a table that is given counts
            its evaluations there.
    """
    _check_parts(share, rows)
    check_options(options)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    place: Any = _one_placing(task).place
    check_budget(budget, options, share, place.maps, rounds)
    settings = settings_of(
        "alternate", key, budget, rounds=rounds, share=share, rows=rows, options=plain(options)
    )
    clock, limits = Clock(options), options.get("limits")
    parts: list[Pairs] = []
    seeds = options.pop("seeds", None)
    for number in range(rounds):
        k_bits, k_place = jax.random.split(jax.random.fold_in(key, number))
        spent = sum(part.evaluations for part in parts)
        left = (budget - spent) // (rounds - number)
        own = of_round(clock.rest(options), number)
        bits = searched_bits(k_bits, placed_by(task, place), int(share * left), seeds=seeds, **own)
        parts.append(bits)
        so_far, left = CoFound.of(task, parts, limits, settings), left - bits.evaluations
        over = not bits.finished or clock.over()
        if not over:
            chosen = _most_valuable(so_far.costs, _affordable(left, rows))
            placed = searched_placements(k_place, task, so_far.bits[chosen], so_far.costs[chosen], left)
            parts.append(placed)
            so_far = CoFound.of(task, parts, limits, settings)
            nearest = np.linalg.norm(_scaled(placed.costs), axis=1).argmin()
            place, seeds = placed.placement[nearest], so_far.bits[_most_valuable(so_far.costs, rows)]
            over = clock.over() and number + 1 < rounds
        stop = on_round is not None and wants_stop(on_round(number, so_far))
        if over or stop:
            parts[-1] = parts[-1]._replace(finished=parts[-1].finished and number + 1 == rounds and not over)
            break
    return CoFound.of(task, parts, limits, settings)


def searched_jointly(key: jax.Array, task: Task, budget: int, **options: Any) -> CoFound:
    """`search` of `joint(task)`, from the uniform configurations as the density rule places them.

    Args:
        options: see `OPTIONS`; config: default: both direct species and both joint graph species; seeds:
            genomes, see `genomes`.
    """
    check_options(options)
    whole = joint(task)
    defaults = {"config": JOINT, "warm_start": None, "seeds": genomes(whole, uniform_bits(task), "density")}
    own = {**defaults, **options}
    found = search(key, whole, budget=budget, **own)
    assert isinstance(whole.space, JointSpace)
    bits, wish = whole.space.split(found.bits)
    placement = np.asarray(_rectified(next(iter(chip_costs(task).values())), bits, wish))
    spent = found.evaluations
    pairs = Pairs(np.asarray(bits), placement, found.costs, spent, spent, found.finished)
    settings = settings_of("searched_jointly", key, budget, options=plain(own))
    return CoFound.of(task, [pairs], options.get("limits"), settings)


def _one_placing(task: Task) -> ChipCost:
    """An objective whose placement is that of all on the chip."""
    costs = chip_costs(task)
    if len({cost.place for cost in costs.values()}) > 1:
        raise ValueError(f"objectives {sorted(costs)} place tensors differently: give all the same placement")
    return next(iter(costs.values()))


def _by_density(task: Task, bits: Int[np.ndarray, "K n"], costs: Float[np.ndarray, "K M"]) -> Pairs:
    """Given bit-widths, each placed by the density rule: one evaluation each."""
    cost = next(iter(chip_costs(task).values())).placed_by("density")
    return _pairs_at(task, bits, costs, _placements(cost, jnp.asarray(bits, jnp.int32)), len(bits))


def _pairs_at(
    task: Task,
    bits: Int[np.ndarray, "K n"],
    costs: Float[np.ndarray, "K M"],
    placement: Int[Array, "K N 2"],
    evaluations: int,
) -> Pairs:
    """With the costs on the chip as the placement has them."""
    costs = np.array(costs, np.float32)
    for name, cost in chip_costs(task).items():
        costs[:, task.objectives.index(name)] = _costs_at(cost, jnp.asarray(bits, jnp.int32), placement)
    return Pairs(np.asarray(bits, np.int32), np.asarray(placement), costs, evaluations)


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
    """By the cost itself the best of the rules' and of the evolution's placements, for each row."""

    def one(item: tuple[Array, Array]) -> Array:
        key, row = item
        placements = evolved(key, cost.workload, cost.chip, *cost.problem(row), budget, config)
        return placements[jnp.argmin(jax.lax.map(lambda wish: cost.at(row, wish), placements))]

    return jax.lax.map(one, (keys, bits))


def _affordable(budget: int, rows: int) -> int:
    """Configurations whose placements so many evaluations can evolve; 0: not even one."""
    if budget < len(RULES) + 1:
        return 0
    return max(1, min(rows, budget // EVOLUTION))


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


def _check_parts(share: float, rows: int = 1) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
