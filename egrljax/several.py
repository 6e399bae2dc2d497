"""Several workloads and chips as one stacked environment: what a policy for all of them is trained on."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

import hwmodel as hw

from .environment import Environment, environment


def environments(
    cases: Sequence[tuple[hw.Workload, hw.Chip]],
    *,
    bits: hw.Bits = hw.INT8,
    noise: float = 0.0,
    contention: float | None = None,
    nodes: int | None = None,
    features: Literal["paper19", "onehot", "plus"] = "plus",
) -> Environment:
    """One environment per workload and chip, stacked along a new first axis E, for `vmap`.

    Args:
        cases: chips of one number of levels.
        nodes: operations that all are padded to; None: as many as the largest workload has.
        bits, noise, contention, features: of `environment`, the same for all.

    Raises:
        ValueError: no cases; what `environment` refuses; chips of different numbers of levels; a workload
            whose tables are larger than those of `nodes` operations (an operation with many inputs).
    """
    if not cases:
        raise ValueError("cases must hold at least one workload and chip, got none")
    levels = [len(chip.levels) for _, chip in cases]
    if len(set(levels)) > 1:
        names = ", ".join(f"{chip.name} {len(chip.levels)}" for _, chip in cases)
        raise ValueError(f"cases must have chips of one number of levels, got {names}")
    size = max(len(workload.operations) for workload, _ in cases) if nodes is None else nodes
    made = [
        environment(
            workload, chip, bits=bits, noise=noise, contention=contention, nodes=size, features=features
        )
        for workload, chip in cases
    ]
    shapes, structure = zip(*[_shapes(env) for env in made], strict=True)
    for number, (workload, chip) in enumerate(cases):
        if structure[number] != structure[0]:
            raise ValueError(
                f"cases: chip {chip.name!r} states what {cases[0][1].name!r} leaves out, such as energy or "
                "the cost of moves; give all of them, or none"
            )
        if shapes[number] != shapes[0]:
            raise ValueError(
                f"cases: workload {workload.name!r} needs larger tables than {cases[0][0].name!r} at "
                f"{size} nodes: an operation of it has many inputs, or many tensors die at once; "
                "train it apart, or with workloads like it"
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def _shapes(env: Environment) -> tuple[list[tuple[int, ...]], str]:
    """Of the leaves, and what distinguishes the fields that are there."""
    leaves, structure = jax.tree.flatten(env)
    return [leaf.shape for leaf in leaves], str(structure)


def one_of(envs: Environment, number: int) -> Environment:
    """One of stacked environments."""
    return jax.tree.map(lambda x: x[number], envs)
