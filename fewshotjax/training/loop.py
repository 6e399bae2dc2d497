"""The loop around the compiled steps: chunks, epochs, checkpoints, what is kept."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ..backbones import Preprocess
from ..files import digest_of, load_state, save_state
from ..objectives import Objective
from .batches import class_table
from .config import TrainConfig
from .describe import describe
from .step import Apply, Data, TrainState, begin, run

State = TypeVar("State")

CHUNK_S = 2.0  # seconds that a chunk should take at most, so that progress moves and limits hold
CHECKPOINT_S = 5.0  # seconds between two checkpoints at least


@dataclass(frozen=True)
class Chunk:
    """What `on_chunk` is told."""

    done: int  # steps
    total: int
    epoch: int  # the one it belongs to, from 1
    loss: float  # mean over the epoch so far
    error: float  # likewise, in training
    seconds: float  # of this chunk

    @property
    def note(self) -> str:
        """For a progress line."""
        return f"epoch {self.epoch}, loss {self.loss:.3f}, training error {self.error:.1%}"


@dataclass(frozen=True)
class Epoch:
    """A line of the history."""

    number: int  # from 1
    loss: float  # mean over the batches, as they were trained on
    error: float  # likewise: share of wrong likeliest classes
    validation_error: float | None  # what `validation` said of the kept weights
    seconds: float  # of its steps


class Trunk(NamedTuple):
    """What is trained below the objective."""

    apply: Apply
    variables: Any
    preprocess: Preprocess | None  # None: inputs are features
    width: int


class Fitted(NamedTuple):
    """What the loop gives back."""

    kept: Any  # {"params", "batch_stats", "head"}
    history: tuple[Epoch, ...]
    settings: dict[str, Any]
    finished: bool


@dataclass(frozen=True)
class Calls:
    """Functions that the loop calls, and limits; none of them changes the steps, but `refresh`."""

    validation: Callable[[Any, Any], float] | None = None  # (variables, head) -> error
    on_epoch: Callable[[Epoch], Any] | None = None
    on_chunk: Callable[[Chunk], Any] | None = None
    refresh: Callable[[int, Any, Any], Any] | None = None  # (epoch, variables, head) -> head
    every: int = 100
    checkpoint: str | os.PathLike[str] | None = None
    time_limit_s: float | None = None


def fit(
    key: PRNGKeyArray,
    trunk: Trunk,
    inputs: np.ndarray,
    labels: np.ndarray,
    classes: int,
    objective: Objective,
    config: TrainConfig,
    calls: Calls,
    settings: Mapping[str, Any],
) -> Fitted:
    """Trains trunk and head; see `train` for what the arguments mean, and for the errors."""
    began = time.monotonic()
    k_head, k_run = jax.random.split(key)
    data = _data(inputs, labels, classes, config)
    per_epoch = config.steps(len(labels))
    steps = per_epoch * config.epochs
    state = begin(trunk.variables, objective.init(k_head, trunk.width, classes), config, steps)
    settings = {
        **settings,
        "config": asdict(config),
        "objective": describe(objective),
        "refresh": None if calls.refresh is None else describe(calls.refresh),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "start": digest_of(jax.tree.leaves(state.kept)),
        "data": digest_of([inputs, labels]),
    }
    rows = np.full((config.epochs, 4), np.nan)  # loss, error, validation error, seconds
    files = Checkpoint(calls.checkpoint, settings)
    state, best, rows = files.read((state, state.kept if config.keep == "best" else {}, rows))
    rate, warm = 0.0, False  # steps a second; whether a chunk was run, as the first compiles
    rows = rows.copy()
    while (before := int(state.step)) < steps:
        start, (number, done) = time.monotonic(), divmod(before, per_epoch)
        if done == 0:
            rows[number, 3] = 0.0
            if number and calls.refresh is not None:
                state = _refreshed(state, calls.refresh, number)
        room = max(1, int(CHUNK_S * rate))
        count = min(calls.every, per_epoch - done, room)
        next_state = run(
            k_run,
            state,
            data,
            jnp.asarray(count, jnp.int32),
            trunk.apply,
            trunk.preprocess,
            objective,
            config,
        )
        done += count
        loss, error = float(next_state.loss) / done, float(next_state.error) / done
        _check_finite(loss, None, number, config)
        seconds = time.monotonic() - start
        rate, warm = count / seconds if warm else 0.0, True
        rows[number, 3] += seconds
        line = None
        if done == per_epoch:
            _check_finite(loss, next_state.kept, number, config)
            wrong = _validated(calls, next_state)
            if config.keep == "best" and not wrong >= np.nanmin([*rows[:number, 2], np.inf]):
                best = next_state.kept
            rows[number, :3] = loss, error, wrong
            line = _epoch(number, rows)
        state = next_state
        last = before + count == steps
        over = calls.time_limit_s is not None and time.monotonic() - began >= calls.time_limit_s
        try:
            if line is not None and calls.on_epoch is not None:
                calls.on_epoch(line)
            if calls.on_chunk is not None:
                calls.on_chunk(Chunk(before + count, steps, number + 1, loss, error, seconds))
        except BaseException:
            files.write((state, best, rows), now=True)
            raise
        files.write((state, best, rows), now=last or over)
        if over:
            break
    finished = int(state.step) == steps
    ended = int(state.step) // per_epoch
    kept = best if config.keep == "best" and ended else state.kept
    return Fitted(kept, tuple(_epoch(i, rows) for i in range(ended)), settings, finished)


class Checkpoint:
    """A file that is written now and then: at most every `CHECKPOINT_S` seconds, which takes a twentieth of
    the time at most, and where it must be."""

    def __init__(self, path: str | os.PathLike[str] | None, settings: Mapping[str, Any]):
        self._path, self._settings = path, settings
        self._written, self._wait = time.monotonic(), CHECKPOINT_S

    def read(self, start: State) -> State:
        """What the file holds; `start` where there is none yet."""
        if self._path is None or not Path(self._path).exists():
            return start
        return load_state(self._path, start, self._settings)

    def write(self, state: Any, *, now: bool) -> None:
        began = time.monotonic()
        if self._path is None or not (now or began - self._written >= self._wait):
            return
        save_state(self._path, state, self._settings)
        self._written = time.monotonic()
        self._wait = max(CHECKPOINT_S, 20 * (self._written - began))


def checked_error(wrong: float) -> float:
    """What a validation gave, if it is an error."""
    if not np.isfinite(wrong):
        raise ValueError(f"validation gave {wrong}: it must be an error, a finite number, such as 1 - AP")
    return float(wrong)


def _data(inputs: np.ndarray, labels: np.ndarray, classes: int, config: TrainConfig) -> Data:
    if config.ways is None:
        table, counts = np.zeros((0, 1), np.int32), np.zeros(0, np.int32)
    else:
        table, counts = class_table(labels, classes)
    return Data(*(jnp.asarray(array) for array in (inputs, labels, table, counts)))


def _refreshed(state: TrainState, refresh: Callable[[int, Any, Any], Any], number: int) -> TrainState:
    """The head replaced; also the kept one, whose mean would mix old and new."""
    variables = {"params": state.params["backbone"], "batch_stats": state.statistics}
    old = state.params["head"]
    new = jax.tree.map(lambda was, now: jnp.asarray(now, was.dtype), old, refresh(number, variables, old))
    if jax.tree.map(jnp.shape, new) != jax.tree.map(jnp.shape, old):
        raise ValueError("refresh gave a head of other shapes: give one like the head that it was given")
    return state.replace(  # type: ignore[attr-defined]
        params={**state.params, "head": new}, kept={**state.kept, "head": new}
    )


def _validated(calls: Calls, state: TrainState) -> float:
    if calls.validation is None:
        return float("nan")
    return checked_error(calls.validation(without_empty(state.kept), state.kept["head"]))


def without_empty(kept: Any) -> Any:
    """{"params"} and, where there are any, {"batch_stats"}."""
    return {"params": kept["params"]} | ({"batch_stats": kept["batch_stats"]} if kept["batch_stats"] else {})


def _check_finite(loss: float, weights: Any, number: int, config: TrainConfig) -> None:
    if np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights)):
        return
    raise ValueError(
        f"training diverged in epoch {number + 1}: lower learning_rate, {config.learning_rate}, or raise "
        f"warmup_epochs, {config.warmup_epochs}"
    )


def _epoch(number: int, rows: np.ndarray) -> Epoch:
    loss, error, wrong, seconds = rows[number].tolist()
    return Epoch(number + 1, loss, error, None if np.isnan(wrong) else wrong, seconds)
