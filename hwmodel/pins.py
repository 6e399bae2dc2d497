"""Pins and forbidden levels: what the user has decided about single tensors."""

import difflib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from .bits import INT8, Bits
from .chip import Chip
from .problem import Problem
from .tensors import OUTPUT, WEIGHT, Tensor, tensors
from .workload import Workload


def pinned(
    problem: Problem, workload: Workload, chip: Chip, pins: Mapping[str, str], bits: Bits = INT8
) -> Problem:
    """The problem with tensors fixed to levels, {"conv1.weight": "sram", "conv1.output": "llc"}.

    Their room is taken off the capacity of each step they live at, so that every rule, search and proof
    keeps out of it without further ado.

    Raises:
        ValueError: an unknown tensor or level, a tensor pinned twice, another problem's chip or workload, or
            pins that do not fit together, with names and bytes.
    """
    by_name = _by_name(problem, workload, chip, bits)
    pin = np.array(problem.pin)
    units = np.array(jnp.stack([problem.weight_units, problem.output_units], axis=1), np.int64)
    capacity = np.array(problem.capacity_units, np.int64)
    steps = len(workload.operations)
    held: dict[int, list[Tensor]] = {}
    for name, level in pins.items():
        tensor, k = _find("pins", name, by_name), chip.level_index(level)
        if pin[tensor.operation, tensor.column] >= 0:
            raise ValueError(f"pins: {name!r} is pinned already; pin all tensors of a problem in one go")
        held.setdefault(k, []).append(tensor)
        pin[tensor.operation, tensor.column] = k
        if k:
            end = len(capacity) if tensor.column == WEIGHT else tensor.death + 1
            capacity[tensor.birth : end, k] -= units[tensor.operation, tensor.column, k]
        units[tensor.operation, tensor.column] = 0
    for k, group in held.items():
        step = int(np.argmin(capacity[:steps, k]))
        if capacity[step, k] < 0:
            alive = [t for t in group if t.birth <= step <= t.death]
            listed = ", ".join(f"{t.name} {t.bytes}" for t in sorted(alive, key=lambda t: -t.bytes)[:8])
            level_k = chip.levels[k]
            raise ValueError(
                f"pins ask level {level_k.name!r} to hold {sum(t.bytes for t in alive)} bytes at operation "
                f"{workload.operations[step].name!r}, and it has room for "
                f"{int(level_k.capacity_bytes or 0) - level_k.reserved_bytes}: {listed}"
            )
    births = {t.birth for k, group in held.items() for t in group if k and t.column == OUTPUT}
    births |= set(np.asarray(problem.checks).tolist())
    return problem._replace(
        pin=jnp.asarray(pin),
        weight_units=jnp.asarray(units[:, WEIGHT].astype(np.int32)),
        output_units=jnp.asarray(units[:, OUTPUT].astype(np.int32)),
        capacity_units=jnp.asarray(capacity.astype(np.int32)),
        checks=jnp.asarray(np.array(sorted(births), np.int32)),
    )


def forbidden(
    problem: Problem,
    workload: Workload,
    chip: Chip,
    levels: Mapping[str, Sequence[str]],
    bits: Bits = INT8,
) -> Problem:
    """The problem with levels that tensors must not lie on, {"conv1.weight": ["sram"]}.

    A forbidden tensor takes more room there than there is, so that no rule, search or proof puts it there.

    Raises:
        ValueError: an unknown tensor or level, the backing store (where every tensor must have a place), a
            level that the tensor is pinned to, or another problem's chip or workload.
    """
    by_name = _by_name(problem, workload, chip, bits)
    units = np.array(jnp.stack([problem.weight_units, problem.output_units], axis=1), np.int64)
    full = np.array(problem.capacity_units, np.int64).max(axis=0) + 1
    for name, names in levels.items():
        tensor = _find("forbidden", name, by_name)
        if isinstance(names, str):
            raise ValueError(f"forbidden: levels of {name!r} must be a list of names, got {names!r}")
        for k in map(chip.level_index, names):
            level = chip.levels[k].name
            if k == 0:
                raise ValueError(
                    f"forbidden: {name!r} must be allowed on {level!r}, which everything falls back to; "
                    "pin it to the level that it must lie on"
                )
            if int(problem.pin[tensor.operation, tensor.column]) == k:
                raise ValueError(f"forbidden: {name!r} is pinned to {level!r}; drop one of the two")
            units[tensor.operation, tensor.column, k] = full[k]
    return problem._replace(
        weight_units=jnp.asarray(units[:, WEIGHT].astype(np.int32)),
        output_units=jnp.asarray(units[:, OUTPUT].astype(np.int32)),
    )


def _by_name(problem: Problem, workload: Workload, chip: Chip, bits: Bits) -> dict[str, Tensor]:
    if problem.shape[2] != len(chip.levels) or problem.shape[0] < len(workload.operations):
        raise ValueError(
            f"the problem has {problem.shape[0]} operations and {problem.shape[2]} levels: it is not that of "
            f"workload {workload.name!r} on chip {chip.name!r}"
        )
    return {t.name: t for t in tensors(workload, bits, chip.count_bias)}


def _find(what: str, name: str, by_name: Mapping[str, Tensor]) -> Tensor:
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"{what}: there is no tensor {name!r} of any size{hint}")
