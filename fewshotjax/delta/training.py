"""Training of a Delta-encoder on features of seen classes: epochs in chunks, checkpoints, what is kept."""

import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..files import digest_of
from ..training.loop import CHUNK_S, Checkpoint, checked_error
from .config import DeltaConfig, DeltaTrainConfig
from .encoder import DeltaEncoder, code_bank
from .model import init_delta
from .pairs import make_pairs, nearest_pairs
from .scaling import fit_scaling
from .step import begin, run

# Adam moves a weight by about the rate a step at most. Steps times rate of the authors' first epoch: 300
# steps (64 classes of 600 images, 128 a step) at 1e-5. Below it a Delta-encoder is all but untrained.
LEAST_MOVE = 300 * 1e-5


@dataclass(frozen=True)
class DeltaChunk:
    """What `on_chunk` is told."""

    done: int  # steps
    total: int
    epoch: int  # the one it belongs to, from 1
    loss: float  # mean over the pairs of the epoch so far
    seconds: float  # of this chunk

    @property
    def note(self) -> str:
        """For a progress line."""
        return f"epoch {self.epoch}, loss {self.loss:.4g}"


@dataclass(frozen=True)
class DeltaEpoch:
    """A line of the history."""

    number: int  # from 1
    loss: float  # mean over the pairs, as they were trained on, with dropout
    learning_rate: float  # of its steps
    validation_error: float | None  # what `validation` said after it
    seconds: float  # of its steps


@dataclass(frozen=True, eq=False)
class TrainedDelta:
    """What a training gives."""

    delta: DeltaEncoder
    history: tuple[DeltaEpoch, ...]  # of the epochs that were finished
    settings: dict[str, Any]  # both configs, the key, a digest of the data, of validation: JSON values
    finished: bool  # False: the time limit came first


def train_delta(
    key: PRNGKeyArray,
    features: Float[np.ndarray | Array, "N D"],
    labels: Int[np.ndarray | Array, " N"],
    config: DeltaConfig | None = None,
    train_config: DeltaTrainConfig | None = None,
    *,
    validation: Callable[[DeltaEncoder], float] | None = None,
    validation_settings: Mapping[str, Any] | None = None,
    on_epoch: Callable[[DeltaEpoch], Any] | None = None,
    on_chunk: Callable[[DeltaChunk], Any] | None = None,
    every: int = 1000,
    checkpoint: str | os.PathLike[str] | None = None,
    time_limit_s: float | None = None,
) -> TrainedDelta:
    """A Delta-encoder of the classes that these features are of, and the bank of their codes.

    Args:
        key: decides the start, pairs, order and dropout.
        features: float32, of the base classes alone. They are scaled as the config says, by their own
            statistics.
        labels: whole numbers, any that int32 holds.
        validation: error of the Delta-encoder as it is after an epoch, on validation classes, never on those
            of a report; `keep="best"` chooses by it. The bank it sees is encoded for it.
        validation_settings: what that error depends on, such as a digest of its data, as JSON values; a
            checkpoint of others is refused.
        on_epoch, on_chunk: progress, logs, limits (by raising; the checkpoint is written first).
        every: steps of a chunk at most; slow ones are shorter, about two seconds. Results do not depend on
            it.
        checkpoint: file that is written now and then and at the end; if it exists, the run goes on from
            there, bit for bit.
        time_limit_s: seconds of this call after which it stops and gives what there is, `finished=False`;
            with a checkpoint, the same call goes on.

    Raises:
        ValueError: features that are not float32 (N, D), hold NaN, or are all alike; labels that do not fit;
            a class with a single sample (named); keep="best" without validation; training that diverged;
            another run's checkpoint.

    Warns:
        UserWarning: steps times learning rate are fewer than in the authors' first epoch, 300 at 1e-5, so
            that the networks hardly leave their first weights: the defaults on fewer than some 6,000 samples.
    """
    config, train_config = config or DeltaConfig(), train_config or DeltaTrainConfig()
    features, labels = np.asarray(features), np.asarray(labels)
    _check(features, labels, train_config, validation is not None, every)
    began = time.monotonic()
    k_init, k_run, k_bank = jax.random.split(key, 3)
    scaling = fit_scaling(config.scaling, features)
    x, classes = scaling(jnp.asarray(features)), np.unique(labels, return_inverse=True)[1]
    nearest = jnp.asarray(nearest_pairs(x, classes)) if config.pairs == "nearest" else None
    # The pairs of the bank stay the same, so that the one given back is the one that validation saw. Departs
    # from the authors' code, which pairs the seen samples anew for each seed: here a synthesis draws codes of
    # one pairing, which are encoded once.
    kept_labels, of_class = jnp.asarray(labels, jnp.int32), jnp.asarray(classes, jnp.int32)
    references = jax.jit(make_pairs, static_argnums=2)(k_bank, of_class, config.pairs, nearest)

    def delta(params: Any) -> DeltaEncoder:
        bank = code_bank(params, config, x, references)
        return DeltaEncoder(config, params, bank, features.shape[1], scaling, kept_labels)

    decay = jnp.asarray(train_config.decay, jnp.float32)
    per_epoch = -(-len(labels) // train_config.batch)
    total = per_epoch * train_config.epochs
    if total * train_config.learning_rate < LEAST_MOVE:
        warnings.warn(
            f"{total} steps at a learning_rate of {train_config.learning_rate:g} leave the networks all but "
            "untrained; the authors' first epoch alone has 300 at 1e-05: begin with learning_rate=1e-3, or "
            "train for more epochs",
            stacklevel=2,
        )
    state = begin(init_delta(k_init, config, features.shape[1]), train_config)
    settings = {
        "config": asdict(config),
        "train_config": asdict(train_config),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "data": digest_of([features, labels]),
        "validation": None if validation_settings is None else dict(validation_settings),
    }
    rows = np.full((train_config.epochs, 4), np.nan)  # loss, learning rate, validation error, seconds
    best = _copied(state.params) if train_config.keep == "best" else {}
    files = Checkpoint(checkpoint, settings)
    state, best, rows = files.read((state, best, rows))
    rows, pace, warm = rows.copy(), 0.0, False  # steps a second; whether a chunk was run: the first compiles
    while (before := int(state.step)) < total:
        start, (number, done) = time.monotonic(), divmod(before, per_epoch)
        if done == 0:
            rows[number, 1], rows[number, 3] = float(state.rate), 0.0
        count = min(every, per_epoch - done, max(1, int(CHUNK_S * pace)))
        steps = jnp.asarray(count, jnp.int32)
        state = run(k_run, state, x, of_class, nearest, steps, decay, config, train_config.batch)
        done += count
        loss = float(state.loss) / min(done * train_config.batch, len(labels))
        _check_finite(loss, state.params if done == per_epoch else None, number, train_config)
        seconds = time.monotonic() - start
        pace, warm = count / seconds if warm else 0.0, True
        rows[number, 3] += seconds
        line = None
        if done == per_epoch:
            wrong = _validated(validation, delta, state.params)
            if train_config.keep == "best" and not wrong >= np.nanmin([*rows[:number, 2], np.inf]):
                best = _copied(state.params)
            rows[number, 0], rows[number, 2] = loss, wrong
            line = _epoch(number, rows)
        over = time_limit_s is not None and time.monotonic() - began >= time_limit_s
        try:
            if line is not None and on_epoch is not None:
                on_epoch(line)
            if on_chunk is not None:
                on_chunk(DeltaChunk(before + count, total, number + 1, loss, seconds))
        except BaseException:
            files.write((state, best, rows), now=True)
            raise
        files.write((state, best, rows), now=before + count == total or over)
        if over:
            break
    ended = int(state.step) // per_epoch
    params = best if train_config.keep == "best" and ended else state.params
    history = tuple(_epoch(i, rows) for i in range(ended))
    return TrainedDelta(delta(params), history, settings, int(state.step) == total)


@jax.jit
def _copied(params: Any) -> Any:
    """A step uses up the arrays that it is given."""
    return jax.tree.map(jnp.copy, params)


@jax.jit
def _finite(params: Any) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def _validated(
    validation: Callable[[DeltaEncoder], float] | None, delta: Callable[[Any], DeltaEncoder], params: Any
) -> float:
    if validation is None:
        return float("nan")
    # A copy: what validation keeps must outlive the next step.
    return checked_error(validation(delta(_copied(params))))


def _check(
    features: np.ndarray, labels: np.ndarray, config: DeltaTrainConfig, validated: bool, every: int
) -> None:
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if config.keep == "best" and not validated:
        raise ValueError("keep='best' needs validation: give it, or set keep='last'")
    if features.ndim != 2 or features.dtype != np.float32 or not features.size:
        raise ValueError(f"features are {features.dtype} of shape {features.shape}: give float32 (N, D)")
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        raise ValueError(f"features: row {wrong[0]} holds NaN or infinite values: leave such examples out")
    if labels.shape != features.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}, features of {features.shape}: give a whole "
            "number for each row"
        )
    if abs(labels.astype(np.int64)).max() >= 2**31:
        raise ValueError(
            f"labels must be below 2^31, got {labels.max()} and {labels.min()}: number them anew"
        )
    names, counts = np.unique(labels, return_counts=True)
    single = names[counts == 1]
    if len(single):
        named = ", ".join(map(str, single[:5])) + (", ..." if len(single) > 5 else "")
        raise ValueError(
            f"labels: {len(single)} classes have a single sample, and so no pairs: {named}: leave them out, "
            "or give more samples of them"
        )
    if (features == features[:1]).all():
        raise ValueError("features are the same in all rows: there is nothing to learn from them")


def _check_finite(loss: float, params: Any, number: int, config: DeltaTrainConfig) -> None:
    if np.isfinite(loss) and (params is None or bool(_finite(params))):
        return
    raise ValueError(
        f"training diverged in epoch {number + 1}: lower learning_rate, {config.learning_rate}, or scale the "
        "features: DeltaConfig(scaling='standard')"
    )


def _epoch(number: int, rows: np.ndarray) -> DeltaEpoch:
    loss, rate, wrong, seconds = rows[number].tolist()
    return DeltaEpoch(number + 1, loss, rate, None if np.isnan(wrong) else wrong, seconds)
