"""Short digests that tell one task, or one set of arrays, from another."""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .task import Task

_DRAWN = 32


def fingerprint(task: Task) -> str:
    """Start of a SHA-256 over what decides a task's costs; equal tasks have equal ones.

    Objectives that are functions of the bits are told apart by their values at every width and at some
    configurations drawn once.
    """
    digest = hashlib.sha256()
    rng = np.random.default_rng(0)
    drawn = [[rng.choice(bits) for bits in task.space.allowed] for _ in range(_DRAWN)]
    rows = np.array([*map(task.space.uniform, task.space.widths), *drawn], np.int32)
    digest.update(np.asarray(jax.jit(jax.vmap(task.costs_by_bits))(jnp.asarray(rows))).tobytes())
    for leaf in jax.tree.leaves(task):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    network = task.network
    names = (task.objectives, task.space)
    text = (*names, network.config, network.name, network.traced.lowering)
    digest.update(repr(text).encode())
    return digest.hexdigest()[:16]


def digest_of(arrays: Sequence[Any]) -> str:
    """Start of a SHA-256 over the shapes and bytes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(np.shape(array)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
