"""Short digests that tell one task, or one set of arrays, from another."""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from egrljax import External

from .custom_error import ErrorOfBits, ErrorOfOutputs, HostCost
from .quantized import compiled_logits
from .quantizers import FULL_BITS
from .task import Task

_DRAWN, _DRAWN_OF_ERRORS = 32, 3


def fingerprint(task: Task) -> str:
    """Start of a SHA-256 over what decides a task's costs; equal tasks have equal ones.

    Objectives that are functions of the bits are told apart by their values at every width and at some
    configurations drawn once. So is an error of one's own, whose function is called for it: one of bits at
    every width and at three drawn configurations; one of outputs, for which the network is run, at full
    precision, the lowest and the highest width and those three. Such a function must give the same number for
    the same configuration. A cost of the host's is told apart as an error of bits is.

    An `external` is not called, for that may take long and fail: its `identity` tells it apart.

    Raises:
        ValueError: an external function without an identity.
    """
    digest = hashlib.sha256()
    rng = np.random.default_rng(0)
    drawn = [[rng.choice(bits) for bits in task.space.allowed] for _ in range(_DRAWN)]
    uniform = np.array([*map(task.space.uniform, task.space.widths)], np.int32)
    rows = np.concatenate([uniform, np.array(drawn, np.int32)])
    digest.update(np.asarray(jax.jit(jax.vmap(task.costs_by_bits))(jnp.asarray(rows))).tobytes())
    score = task.score
    if isinstance(score, ErrorOfBits | ErrorOfOutputs):
        few = rows[len(uniform) : len(uniform) + _DRAWN_OF_ERRORS]
        full = np.full_like(few[:1], FULL_BITS)
        some = [uniform] if isinstance(score, ErrorOfBits) else [full, uniform[:1], uniform[-1:]]
        at = np.concatenate([*some, few])[:, : len(task.network.workload.points)]
        own = score.function
        errors = _identity(own) if isinstance(own, External) else _errors(task, at).tobytes()
        digest.update(errors + repr((float(score.worst), score.host)).encode())
    few = np.concatenate([uniform, rows[len(uniform) :][:_DRAWN_OF_ERRORS]])
    for _, cost in task.costs_of_bits:
        if isinstance(cost, HostCost):
            own = cost.function
            digest.update(_identity(own) if isinstance(own, External) else cost.errors(few).tobytes())
    for leaf in jax.tree.leaves(task):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    network = task.network
    names = (task.objectives, task.space)
    text = (*names, network.config, network.name, network.traced.lowering)
    digest.update(repr(text).encode())
    return digest.hexdigest()[:16]


def _identity(function: External) -> bytes:
    if function.identity is None:
        raise ValueError(
            f"external function {function.name} has no name by which checkpoints and caches could tell it "
            "from others: give external(..., identity='board A, firmware 3')"
        )
    return b"external " + function.identity.encode()


def _errors(task: Task, rows: Int[np.ndarray, "K n"]) -> Float[np.ndarray, " K"]:
    """Of an error of one's own, as an Evaluator has them."""
    score = task.score
    if isinstance(score, ErrorOfBits):
        return score.errors(rows) if score.host else np.asarray(_of_bits(score, jnp.asarray(rows)))
    assert isinstance(score, ErrorOfOutputs)
    found = []
    for row in rows:
        outputs = compiled_logits(task.network, jnp.asarray(row)[None], task.inputs)
        found.append(
            score.errors(np.asarray(outputs), task.target)[0]
            if score.host
            else _of_outputs(score, outputs[0], task.target)
        )
    return np.array(found, np.float32)


@partial(jax.jit, static_argnums=0)
def _of_bits(score: ErrorOfBits, rows: Int[Array, "K n"]) -> Float[Array, " K"]:
    return jax.lax.map(score.traced, rows)


@partial(jax.jit, static_argnums=0)
def _of_outputs(score: ErrorOfOutputs, outputs: Array, target: Any) -> Float[Array, ""]:
    return score(outputs, target)


def digest_of(arrays: Sequence[Any]) -> str:
    """Start of a SHA-256 over the shapes and bytes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(np.shape(array)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
