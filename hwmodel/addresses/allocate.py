"""Addresses for a placement: the levels one by one, from the last to the backing store."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Array, Int

from ..bits import INT8, Bits
from ..checks import checked_placement
from ..chip import Chip
from ..problem import problem, tensor_seconds
from ..tensors import WEIGHT, Tensor, tensors
from ..workload import Workload
from .allocation import Address, Allocation, Demotion, LevelUse
from .levels import check_live, copies, free_bytes, live_bytes, on_level, pack_level, taken
from .pack import Packing

Levels = Int[np.ndarray, "N 2"] | Int[Array, "N 2"]


def allocate(
    workload: Workload,
    chip: Chip,
    placement: Levels,
    bits: Bits = INT8,
    *,
    pins: Mapping[str, str] | None = None,
    forbidden: Mapping[str, Sequence[str]] | None = None,
    time_limit_s: float = 30.0,
    seed: int = 0,
) -> Allocation:
    """The address of every tensor of a placement that respects the capacities.

    Weights stay, so they are stacked without loss from the bottom of their level; outputs are packed above
    them while they live. Where that fails although the bytes alive never exceed the level, tensors go to the
    next slower level with room, one by one, those first that lose the least time per byte, until it packs.
    Only weights and outputs alive together with one that stood out may go.

    Args:
        placement: (N, 2) levels of weights and outputs, as `rectify` and the baselines give them.
        pins: tensors and their levels, {"conv1.weight": "sram"}; they are never demoted.
        forbidden: tensors and levels that they are never demoted to.
        time_limit_s: of each attempt to pack a level.
        seed: of the solvers.

    Raises:
        ValueError: a placement of another shape, with levels that the chip does not have, against a pin, or
            with more bytes alive than a level holds (`rectify` it first); a level that packs only without
            its pinned tensors, or a backing store that cannot be packed.
        ImportError: the extra `addresses` is not installed.
    """
    placed = checked_placement(workload, chip, placement)
    fixed = dict(pins or {})
    levels_of = chip.level_names
    held = tensors(workload, bits, chip.count_bias)
    _check_pins(chip, held, placed, fixed)
    for k in range(len(levels_of)):
        check_live(workload, chip, k, on_level(held, placed, k))
    seconds = np.asarray(tensor_seconds(problem(workload, chip, bits)), np.float64)
    addresses: list[Address] = []
    uses: list[LevelUse] = []
    demoted: list[Demotion] = []
    for k in reversed(range(len(levels_of))):
        while True:
            here = on_level(held, placed, k)
            base, packing = pack_level(chip, k, here, time_limit_s, seed)
            if packing.status != "failed":
                break
            victim = _victim(chip, k, here, packing, base, seconds, fixed)
            not_to = dict(forbidden or {}).get(victim.name, ())
            to = _next_level(workload, chip, held, placed, victim, k, not_to)
            cell = victim.operation, victim.column
            placed[cell] = to
            saved = float(seconds[cell][to] - seconds[cell][k])
            demoted.append(Demotion(victim.name, levels_of[k], levels_of[to], victim.bytes, saved))
        addresses += _addresses(chip, k, here, packing, base, fixed)
        uses.append(_use(chip, k, base, packing))
    order = {t.name: i for i, t in enumerate(held)}
    return Allocation(
        workload=workload.name,
        chip=chip.name,
        addresses=tuple(sorted(addresses, key=lambda a: order[a.name])),
        levels=tuple(reversed(uses)),
        demoted=tuple(demoted),
        placement=placed,
    )


def _check_pins(chip: Chip, held: tuple[Tensor, ...], placed: np.ndarray, pins: Mapping[str, str]) -> None:
    by_name = {t.name: t for t in held}
    for name, level in pins.items():
        if name not in by_name:
            raise ValueError(f"pins: there is no tensor {name!r} of any size")
        tensor = by_name[name]
        at = int(placed[tensor.operation, tensor.column])
        if at != chip.level_index(level):
            raise ValueError(
                f"pins: {name!r} is pinned to {level!r}, but placed on {chip.level_names[at]!r}: rectify the "
                "placement with the same pins"
            )


def _victim(
    chip: Chip,
    level: int,
    here: list[Tensor],
    packing: Packing,
    base: int,
    seconds: np.ndarray,
    pins: Mapping[str, str],
) -> Tensor:
    """Who leaves: the least time saved against the next slower level per byte taken; ties by name."""
    free = free_bytes(chip, level) or 0
    outputs = [t for t in here if t.column != WEIGHT]
    out = [
        t for t, at in zip(outputs, packing.offsets, strict=True) if base + at + taken(chip, level, t) > free
    ]
    first, last = min(t.birth for t in out), max(t.death for t in out)
    movable = [t for t in here if t.birth <= last and first <= t.death and t.name not in pins]
    name = chip.levels[level].name
    if level == 0 or not movable:
        why = "is the last resort" if level == 0 else "holds only pinned tensors there"
        raise ValueError(
            f"level {name!r} cannot be packed into {free} bytes (reached {base + packing.height}; bound "
            f"{base + packing.bound}) and {why}: enlarge it or give the solvers more time"
        )

    def loss(t: Tensor) -> tuple[float, str]:
        cell = seconds[t.operation, t.column]
        return float(cell[level - 1] - cell[level]) / taken(chip, level, t), t.name

    return min(movable, key=loss)


def _next_level(
    workload: Workload,
    chip: Chip,
    held: tuple[Tensor, ...],
    placed: np.ndarray,
    t: Tensor,
    level: int,
    not_to: Sequence[str],
) -> int:
    """The first slower level whose bytes alive leave room for the tensor; at last the backing store."""
    for k in range(level - 1, -1, -1):
        if chip.levels[k].name in not_to:
            continue
        free = free_bytes(chip, k)
        used = live_bytes(workload, chip, k, on_level(held, placed, k))
        if free is None or used[t.birth : t.death + 1].max() + taken(chip, k, t) <= free:
            return k
    raise ValueError(
        f"tensor {t.name!r} of {t.bytes} bytes must leave level {chip.levels[level].name!r} and fits no "
        "slower one: enlarge the backing store"
    )


def _addresses(
    chip: Chip, level: int, here: list[Tensor], packing: Packing, base: int, pins: Mapping[str, str]
) -> list[Address]:
    found, bottom, offsets = [], 0, iter(packing.offsets)
    for t in here:
        if t.column == WEIGHT:
            at, bottom = bottom, bottom + taken(chip, level, t)
        else:
            at = base + next(offsets)
        name = chip.levels[level].name
        found.append(Address(t.name, name, at, t.bytes, copies(chip, t), t.birth, t.death, t.name in pins))
    return found


def _use(chip: Chip, level: int, base: int, packing: Packing) -> LevelUse:
    return LevelUse(
        name=chip.levels[level].name,
        height_bytes=base + packing.height,
        weight_bytes=base,
        capacity_bytes=free_bytes(chip, level),
        bound_bytes=base + packing.bound,
        status=packing.status,
        solver=packing.solver,
    )
