"""The loop around the compiled steps: draws, chunks, epochs, checkpoints, what is kept."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ...files import digest_of
from ...training import loop as shared
from ...training.describe import describe
from ..detector import Net
from ..losses import Losses, Truth
from .ahead import Ahead
from .config import DetectorTrainConfig
from .history import COLUMNS, DetectorChunk, DetectorEpoch, epoch_of, rows_of
from .sources import Source
from .step import DetectorTrainState, Images, begin, joined, run, split

_WRONG, _SECONDS = COLUMNS.index("validation_error"), COLUMNS.index("seconds")


@dataclass(frozen=True)
class Calls:
    """Functions that the loop calls, and limits; none of them changes the steps."""

    validation: Callable[[Any], float] | None = None  # parameters of a detector -> error
    on_epoch: Callable[[DetectorEpoch], Any] | None = None
    on_chunk: Callable[[DetectorChunk], Any] | None = None
    every: int = 100
    checkpoint: str | os.PathLike[str] | None = None
    time_limit_s: float | None = None


class Fitted(NamedTuple):
    """What the loop gives back."""

    params: Any  # of a detector
    history: tuple[DetectorEpoch, ...]
    settings: dict[str, Any]
    finished: bool


def fit(
    key: PRNGKeyArray,
    net: Net,
    params: Any,
    source: Source,
    config: DetectorTrainConfig,
    calls: Calls,
    told: Mapping[str, Any],
) -> Fitted:
    """Trains a detector's parameters; see `train_detector` for the arguments and the errors."""
    began = time.monotonic()
    k_source, k_run = jax.random.split(key)
    per_epoch = config.steps(source.photographs, source.per_image)
    steps, size = per_epoch * config.epochs, config.draw_steps
    state = begin(net, params, config, steps)
    _, fixed = split(net, params)
    settings = {
        **told,
        "config": {
            name: list(one) if isinstance(one, tuple) else one for name, one in asdict(config).items()
        },
        "precision": config.dtype.name,
        "detector": describe(net.config),
        "steps": steps,
        "source": dict(source.told),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "start": digest_of(jax.tree.leaves(params)),
    }
    files = shared.Checkpoint(calls.checkpoint, settings)
    rows = rows_of(config.epochs)
    state, best, rows = files.read((state, state.kept if config.keep == "best" else {}, rows))
    rows, rate, warm = rows.copy(), 0.0, False  # steps a second; whether any was run, as the first compiles
    seed = np.asarray(jax.random.key_data(k_source)).tolist()
    drawn, held = None, -1
    with Ahead(lambda number: source.draw(seed, number, size * config.batch), -(-steps // size)) as ahead:
        while (before := int(state.step)) < steps:
            start, (number, done) = time.monotonic(), divmod(before, per_epoch)
            if held != before // size:
                held = before // size
                drawn = _on_device(ahead[held])
            waited = time.monotonic() - start
            if done == 0:
                rows[number, _SECONDS] = 0.0
            room = max(1, int(shared.CHUNK_S * rate))
            count = min(calls.every, per_epoch - done, size - before % size, room)
            many = jnp.asarray(count, jnp.int32)
            following = run(k_run, state, fixed, drawn, many, net, config, steps)
            done += count
            losses = np.array(jax.device_get(following.losses), np.float64) / done
            ended = done == per_epoch
            _check_finite(losses, following if ended else None, number, config)
            seconds = time.monotonic() - start
            rate, warm = count / (seconds - waited) if warm else 0.0, True
            rows[number, _SECONDS] += seconds
            line = None
            if ended:
                wrong = _validated(calls, joined(net, following.kept, fixed))
                if config.keep == "best" and not wrong >= np.nanmin([*rows[:number, _WRONG], np.inf]):
                    best = following.kept
                rows[number, : len(losses)], rows[number, _WRONG] = losses, wrong
                line = epoch_of(number, rows)
            state = following
            last = before + count == steps
            over = calls.time_limit_s is not None and time.monotonic() - began >= calls.time_limit_s
            try:
                if line is not None and calls.on_epoch is not None:
                    calls.on_epoch(line)
                if calls.on_chunk is not None:
                    named = dict(zip(Losses._fields, losses.tolist(), strict=True))
                    calls.on_chunk(DetectorChunk(before + count, steps, number + 1, named, seconds, waited))
            except BaseException:
                files.write((state, best, rows), now=True)
                raise
            files.write((state, best, rows), now=last or over)
            if over:
                break
    finished = int(state.step) == steps
    ended_epochs = int(state.step) // per_epoch
    kept = best if config.keep == "best" and ended_epochs else state.kept
    history = tuple(epoch_of(i, rows) for i in range(ended_epochs))
    return Fitted(joined(net, kept, fixed), history, settings, finished)


def _on_device(found: Any) -> Images:
    given = found.boxes, found.labels, found.shown, found.ignored
    truth = Truth(*jax.tree.map(jnp.asarray, given))
    return Images(jnp.asarray(found.images), truth)


def _validated(calls: Calls, params: Any) -> float:
    if calls.validation is None:
        return float("nan")
    return shared.checked_error(calls.validation(params))


def _check_finite(
    losses: np.ndarray, state: DetectorTrainState | None, number: int, config: DetectorTrainConfig
) -> None:
    weights = [] if state is None else jax.tree.leaves((state.params, state.kept))
    if np.isfinite(losses).all() and all(np.isfinite(leaf).all() for leaf in weights):
        return
    raise ValueError(
        f"training diverged in epoch {number + 1}: lower learning_rate, {config.learning_rate}, or clip, "
        f"{config.clip}, or raise warmup_epochs, {config.warmup_epochs}"
    )
