"""A front trained point by point: what the bit-widths of a search are worth after training."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from ..batches import Inputs
from ..evaluator import Evaluator
from ..front import Front
from ..quantized import QuantizedNetwork
from ..task import Task
from .config import QATConfig
from .training import Augment, qat


class TrainedFront(NamedTuple):
    """The front of trained networks, kept apart from the one it was trained from."""

    front: Front  # costs after training; `held_out` has those before as ``ptq_`` and the objective
    networks: tuple[QuantizedNetwork, ...]  # one a row of `front`


def qat_front(
    key: PRNGKeyArray,
    front: Front,
    rows: Int[np.ndarray, " K"] | list[int] | None,
    task: Task,
    inputs: Inputs,
    labels: Int[np.ndarray, " N"] | None = None,
    config: QATConfig | None = None,
    *,
    augment: Augment | None = None,
    on_point: Callable[[int, QuantizedNetwork], None] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> TrainedFront:
    """Trains points of a front, each from the full-precision network, and evaluates them on `task`.

    The bit-widths are data, so all points share one compilation. Points that training leaves dominated by
    others drop out.

    Args:
        rows: of `front`; None: all.
        task: on inputs that neither search nor training saw (`Task.on`).
        inputs, labels: to train on, see `qat`.
        on_point: called with the row and its trained network after each.
        folder: of the points' checkpoints, `<row>.ckpt`: a stopped run goes on from there.
    """
    if task.space.names != front.names:
        raise ValueError("task is of another network: its quantizers have other names than the front's")
    chosen = list(range(len(front))) if rows is None else [int(row) for row in rows]
    if not chosen or not all(0 <= row < len(front) for row in chosen):
        raise ValueError(f"rows must be some of 0-{len(front) - 1}, got {chosen}")
    bits = front.bits[chosen]
    before = Evaluator(task)(bits)
    networks, after = [], []
    for row, b in zip(chosen, bits, strict=True):
        checkpoint = None if folder is None else Path(folder) / f"{row}.ckpt"
        k_point = jax.random.fold_in(key, row)
        trained = qat(
            k_point, task.network, b, inputs, labels, config, augment=augment, checkpoint=checkpoint
        )
        networks.append(trained)
        after.append(Evaluator(retargeted(task, trained))(b[None])[0])
        if on_point is not None:
            on_point(row, trained)
    name = task.objectives[0]
    found = Front.of(
        bits, np.array(after), task.objectives, front.names, front.settings, {f"ptq_{name}": before[:, 0]}
    )
    place = {b.tobytes(): i for i, b in enumerate(bits)}
    return TrainedFront(found, tuple(networks[place[b.astype(bits.dtype).tobytes()]] for b in found.bits))


def retargeted(task: Task, network: QuantizedNetwork) -> Task:
    """The task with another network's weights; its target (labels, or the first network's logits) stays."""
    return task.replace(network=jax.tree.map(jnp.asarray, network))  # type: ignore[attr-defined]
