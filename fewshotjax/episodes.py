"""Episodes: few-shot tasks drawn from labelled examples, of static shapes, all under jit.

An episode draws N classes ("ways"), and of each some examples to learn from ("support", K "shots") and others
to be tested on ("queries"). Episode i of a key is the same for every method and whatever number is drawn at
once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt32

from .fields import check_fields

FIT = 2  # folded into an episode's key it is the key of a method's `fit`; draw splits it in two


@dataclass(frozen=True)
class EpisodeConfig:
    """Shapes of an episode."""

    ways: int = 5
    shots: int | tuple[int, int] = (
        1  # (least, most): each class's number is drawn uniformly, the rest is masked
    )
    queries: int = 15  # of each class
    parts: int = (
        1  # classes drawn for each way, whose examples count as one class: classes with several modes
    )

    def __post_init__(self):
        check_fields(self)
        if isinstance(self.shots, list):
            raise ValueError(f"shots must be a whole number or a tuple (least, most), got {self.shots}")
        if self.ways < 2:
            raise ValueError(f"ways must be at least 2, got {self.ways}")
        least, most = self.shot_range
        if not 1 <= least <= most:
            raise ValueError(f"shots must be at least 1, or (least, most), got {self.shots}")
        for name in ("queries", "parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def shot_range(self) -> tuple[int, int]:
        return self.shots if isinstance(self.shots, tuple) else (self.shots, self.shots)

    @property
    def most(self) -> int:
        """Shots that an episode has room for, of each class."""
        return self.shot_range[1]

    @property
    def needed(self) -> int:
        """Examples that a class must have."""
        return self.most + self.queries


@struct.dataclass
class ClassTable:
    """The examples of each of C classes, padded to P."""

    rows: jax.Array | np.ndarray  # (C, P) int32, of the examples; past a class's count: 0
    counts: jax.Array | np.ndarray  # (C,) int32
    classes: jax.Array | np.ndarray  # (C,) int32, their labels


@struct.dataclass
class Episode:
    """Rows of the examples. Within the episode the classes are 0 to W - 1, in this order."""

    classes: jax.Array | np.ndarray  # (W,) int32, rows of the class table
    support: jax.Array | np.ndarray  # (W, S) int32, S shots of each part
    shown: jax.Array | np.ndarray  # (W, S) bool; False: no example of the support, where shots are unequal
    query: jax.Array | np.ndarray  # (W, Q) int32


def class_table(
    labels: Int[np.ndarray, " M"],
    config: EpisodeConfig,
    classes: Sequence[int] | None = None,
) -> ClassTable:
    """The classes that have enough examples for an episode of the config.

    Args:
        labels: of M examples, at least 0.
        classes: labels to draw from; None: all. Those with fewer than `config.needed` examples are left out;
            `left_out` names them.

    Raises:
        ValueError: negative labels, or fewer classes with enough examples than ways.
    """
    labels = np.asarray(labels)
    if labels.size == 0 or labels.min() < 0:
        raise ValueError(
            f"labels must be class indices from 0, got {labels.min() if labels.size else 'none'}"
        )
    wanted = np.unique(labels) if classes is None else np.unique(np.asarray(classes, np.int64))
    rows = [np.flatnonzero(labels == label) for label in wanted]
    kept = [(label, found) for label, found in zip(wanted, rows, strict=True) if len(found) >= config.needed]
    if len(kept) < config.ways * config.parts:
        most = max((len(found) for found in rows), default=0)
        parts = f" of {config.parts} parts" if config.parts > 1 else ""
        raise ValueError(
            f"ways is {config.ways}{parts}, but {len(kept)} of {len(wanted)} classes have {config.needed} "
            f"examples ({config.most} shots and {config.queries} queries; the largest has {most}): lower "
            "ways, shots or queries, or add examples"
        )
    counts = np.array([len(found) for _, found in kept], np.int32)
    padded = np.zeros((len(kept), counts.max()), np.int32)
    for row, (_, found) in zip(padded, kept, strict=True):
        row[: len(found)] = found
    classes_kept = np.array([label for label, _ in kept], np.int32)
    return ClassTable(*map(jnp.asarray, (padded, counts, classes_kept)))


def left_out(
    labels: Int[np.ndarray, " M"], table: ClassTable, classes: Sequence[int] | None = None
) -> list[int]:
    """Of the labels that were to be drawn from (None: all), those with too few examples for the table."""
    wanted = np.unique(labels).tolist() if classes is None else classes
    return sorted(set(wanted) - set(np.asarray(table.classes).tolist()))


def draw(key: PRNGKeyArray, table: ClassTable, config: EpisodeConfig) -> Episode:
    """One episode, uniformly: classes without repetition, of each its examples without repetition.

    Support and queries are the first and the last of one draw, so that they have no example in common. With
    several parts a way has the support and the queries of each of them, and goes by its first one's class.
    """
    ways, needed = config.ways * config.parts, config.needed
    k_bits, k_shots = jax.random.split(key)
    bits = jax.random.bits(k_bits, (ways * (needed + 1),), jnp.uint32)
    classes = distinct(bits[:ways], jnp.asarray(len(table.counts), jnp.int32))
    places = jax.vmap(distinct)(bits[ways:].reshape(ways, needed), table.counts[classes])
    rows = table.rows[classes[:, None], places]
    least, most = config.shot_range
    shots = jax.random.randint(k_shots, (ways,), least, most + 1) if least < most else jnp.full(ways, most)
    shown = jnp.arange(most)[None] < shots[:, None]
    support, query = rows[:, :most], rows[:, most:]
    support, shown, query = (part.reshape(config.ways, -1) for part in (support, shown, query))
    return Episode(classes[:: config.parts], support, shown, query)


def draw_many(key: PRNGKeyArray, table: ClassTable, config: EpisodeConfig, count: int) -> Episode:
    """Episodes 0 to count - 1 of a key, stacked: number i is `draw(fold_in(key, i), ...)`."""
    return _draw_many(key, table, config, count)


def overlapping(episodes: Episode) -> Bool[np.ndarray, " E"]:
    """Which of the stacked episodes have an example twice: in support and queries, or within one of them."""
    support, query = (np.asarray(part).reshape(len(part), -1) for part in (episodes.support, episodes.query))
    shown = np.asarray(episodes.shown).reshape(support.shape)
    hidden = -1 - np.arange(support.shape[1])  # each of its own, so that none is there twice
    rows = np.sort(np.concatenate([np.where(shown, support, hidden[None]), query], axis=1), axis=1)
    return (np.diff(rows, axis=1) == 0).any(axis=1)


@partial(jax.jit, static_argnums=(2, 3))
def _draw_many(key: PRNGKeyArray, table: ClassTable, config: EpisodeConfig, count: int) -> Episode:
    one = partial(draw, table=table, config=config)
    return jax.vmap(lambda i: one(jax.random.fold_in(key, i)))(jnp.arange(count))


def distinct(bits: UInt32[Array, " k"], n: Int[Array, ""]) -> Int[Array, " k"]:
    """k different numbers of 0 to n - 1, in random order, all such sequences equally likely; k ≤ n.

    Number i is the r_i-th of those that are left, with r_i uniform in 0 to n - 1 - i. Decoded from the last
    backwards, each number moves all later ones that are not below it up by one. It takes k steps on k
    numbers, where a permutation of n would sort n; probabilities are exact but for 2⁻³² · n.
    """
    k = len(bits)
    place = jnp.arange(k)
    ranks = _below(bits, n - place)

    def decode(step: Array, numbers: Array) -> Array:
        i = k - 2 - step
        return numbers + ((place > i) & (numbers >= numbers[i])).astype(numbers.dtype)

    return jax.lax.fori_loop(0, k - 1, decode, ranks)


def _below(bits: UInt32[Array, " k"], n: Int[Array, " k"]) -> Int[Array, " k"]:
    """⌊bits · n / 2³²⌋, the upper half of a product of 64 bits, by halves of 16 bits."""
    n = n.astype(jnp.uint32)
    (high, low), (n_high, n_low) = ((x >> 16, x & 0xFFFF) for x in (bits, n))
    cross = high * n_low + ((low * n_low) >> 16)
    return (high * n_high + (cross >> 16) + ((low * n_high + (cross & 0xFFFF)) >> 16)).astype(jnp.int32)
