"""Thousands of episodes in one call: accuracy of a method with its 95 % interval."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PRNGKeyArray

from .episodes import ClassTable, Episode, EpisodeConfig, class_table, draw_many, left_out
from .methods.method import Method
from .results import Comparison, EpisodeResult

BLOCK = 2_048  # episodes of one call of the compiled function, at most; `on_chunk` is told between
_CPU_BYTES, _DEVICE_BYTES = (
    2**21,
    2**28,
)  # of examples alive at once: what fits the caches, or keeps a device busy

OnChunk = Callable[[int, int], None]  # episodes done, of how many


def evaluate(
    key: PRNGKeyArray,
    method: Method,
    features: np.ndarray,
    labels: Int[np.ndarray, " M"],
    *,
    ways: int = 5,
    shots: int | tuple[int, int] = 1,
    queries: int = 15,
    parts: int = 1,
    episodes: int = 1_000,
    classes: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    drawn: Episode | None = None,
    chunk: int | None = None,
    on_chunk: OnChunk | None = None,
) -> EpisodeResult:
    """A method's accuracy over episodes drawn from labelled examples.

    Args:
        key: decides the episodes, which are the same for every method, and what a method draws.
        method: of `fewshotjax.methods`, or any pair of functions (fit, predict).
        features: (M, D), or whatever the method takes: (M, H, W, C) images for one that embeds them.
        labels: class of each of the M examples.
        ways, shots, queries: of every episode; `shots=(1, 10)` draws each class's number of examples.
        parts: classes merged to one, at random in each episode, with `shots` and `queries` of each.
        episodes: how many.
        classes: labels to draw from; None: all. Classes with too few examples are left out and
            named in the result.
        names: of the classes, for tables; None: the labels.
        drawn: episodes to use in place of drawing (`draw_many`, `load_episodes`); ways and so on are theirs.
        chunk: episodes alive at once; None: as many as suit the device. It changes no result beyond rounding.
        on_chunk: called with the number of episodes done and that of all.

    Raises:
        ValueError: features that are not finite or not as many as labels, labels below 0, too few classes or
            examples, episodes of other rows.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim == 2:
        features = features.astype(np.float32, copy=False)
    _check(features, labels, names, episodes, chunk, classes)
    if drawn is None:
        config = EpisodeConfig(ways, shots, queries, parts)
        table = class_table(labels, config, classes)
        k_draw, k_fit = jax.random.split(key)
        drawn = draw_many(k_draw, table, config, episodes)
        excluded = left_out(labels, table, classes)
    else:
        (config, table, drawn), excluded = _of_given(drawn, labels), []
        _, k_fit = jax.random.split(key)
    equal = config.shot_range[0] == config.most
    total = len(drawn.classes)
    size = chunk or _suited(method, features, config)
    calls = math.ceil(total / max(BLOCK, size))
    block = size * math.ceil(total / calls / size)  # a whole number of chunks, so that all calls are alike
    pool, found = jnp.asarray(features), []
    for first in range(0, total, block):
        rows = np.minimum(
            np.arange(first, first + block), total - 1
        )  # the last call repeats the last episode
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], drawn)
        keys = jax.vmap(partial(jax.random.fold_in, k_fit))(rows)
        found.append(np.asarray(_run(keys, part, pool, method, equal, size))[: total - first])
        if on_chunk is not None:
            on_chunk(min(first + block, total), total)
    label_of = np.asarray(table.classes)
    settings = {
        "ways": config.ways,
        "shots": config.shots,
        "queries": config.queries,
        "parts": config.parts,
        "episodes": total,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }
    return EpisodeResult(
        predictions=np.concatenate(found),
        episode_classes=np.asarray(drawn.classes),
        classes=tuple(str(names[i]) if names is not None else str(i) for i in label_of),
        excluded=tuple(str(names[i]) if names is not None else str(i) for i in excluded),
        settings=settings,
    )


def compare(
    key: PRNGKeyArray, methods: Mapping[str, Method], features: np.ndarray, labels: np.ndarray, **options: Any
) -> Comparison:
    """Several methods on the same episodes, with intervals of their paired differences.

    Args:
        methods: by the name that the table shows.
        options: of `evaluate`.
    """
    if not methods:
        raise ValueError("methods is empty: give at least one, such as {'prototypes': prototypes()}")
    return Comparison(
        {name: evaluate(key, method, features, labels, **options) for name, method in methods.items()}
    )


@partial(jax.jit, static_argnums=(3, 4, 5))
def _run(
    keys: Key[Array, " E"], episodes: Episode, pool: Array, method: Method, equal_shots: bool, chunk: int
) -> Int[Array, "E W Q"]:
    """The predicted class of each query within its episode; W where a method returned NaN."""
    ways, shots = episodes.support.shape[1:]
    queries = episodes.query.shape[2]
    known = np.repeat(np.arange(ways, dtype=np.int32), shots)

    def one(item: tuple[PRNGKeyArray, Episode]) -> Array:
        key, episode = item
        labels = known if equal_shots else jnp.where(episode.shown.reshape(-1), known, ways)
        support, query = (_rows(pool, index.reshape(-1)) for index in (episode.support, episode.query))
        scores = method.predict(method.fit(key, support, labels, ways), query)
        failed = jnp.any(jnp.isnan(scores), axis=1)
        best = jnp.argmax(jnp.where(failed[:, None], -jnp.inf, scores), axis=1)
        return jnp.where(failed, ways, best).astype(jnp.int16).reshape(ways, queries)

    items = keys, episodes
    return jax.lax.map(one, items) if chunk == 1 else jax.lax.map(one, items, batch_size=chunk)


def _rows(pool: Array, index: Array | np.ndarray) -> Array:
    """pool[index], whose bounds were checked on the host."""
    return pool.at[index].get(mode="promise_in_bounds")


def _suited(method: Method, features: np.ndarray, config: EpisodeConfig) -> int:
    """Episodes at once whose examples take no more than the device likes."""
    if method.sequential:
        return 1
    each = config.ways * config.parts * config.needed * features[0].size * 4
    limit = _CPU_BYTES if jax.default_backend() == "cpu" else _DEVICE_BYTES
    return int(np.clip(limit // each, 1, 256 if limit == _CPU_BYTES else BLOCK))


def _of_given(drawn: Episode, labels: np.ndarray) -> tuple[EpisodeConfig, ClassTable, Episode]:
    """Config and classes of given episodes, which are checked, and they with those classes' numbers."""
    (_, ways, most), queries = np.shape(drawn.support), np.shape(drawn.query)[2]
    rows = np.concatenate([np.asarray(drawn.support), np.asarray(drawn.query)], axis=2)
    if rows.min() < 0 or rows.max() >= len(labels):
        raise ValueError(f"drawn has rows {rows.min()} to {rows.max()}, but there are {len(labels)} examples")
    counts = np.asarray(drawn.shown).sum(axis=2)
    least = int(counts.min())
    if least == 0:
        raise ValueError("drawn has a class without support: show one example of each at least")
    label = labels[rows]
    if (label != label[:, :, :1]).any():
        raise ValueError("drawn mixes labels within a class: these episodes are not of these examples")
    found, index = np.unique(label[:, :, 0], return_inverse=True)
    index = index.reshape(counts.shape)
    if (np.diff(np.sort(index, axis=1), axis=1) == 0).any():
        raise ValueError("drawn has a class twice in one episode: these episodes are not of these examples")
    config = EpisodeConfig(ways, most if least == most else (least, most), queries)
    nothing = jnp.zeros((len(found), 0), jnp.int32), jnp.zeros(len(found), jnp.int32)
    table = ClassTable(*nothing, jnp.asarray(found, jnp.int32))
    return config, table, drawn.replace(classes=jnp.asarray(index, jnp.int32))  # type: ignore[attr-defined]


def _check(
    features: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | None,
    episodes: int,
    chunk: int | None,
    classes: Sequence[int] | None,
) -> None:
    if len(features) != len(labels):
        raise ValueError(f"features are {len(features)}, labels {len(labels)}: give one label for each")
    if len(labels) == 0 or np.min(labels) < 0:
        raise ValueError(
            f"labels must be class indices from 0, got {np.min(labels) if len(labels) else 'none'}"
        )
    if episodes < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"episodes and chunk must be at least 1, got {episodes} and {chunk}")
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).reshape(len(features), -1).all(axis=1))[0])
        raise ValueError(f"features of example {row} are not finite: leave it out, or look at what made them")
    highest = max(int(np.max(labels)), *(classes or (0,)))
    if names is not None and highest >= len(names):
        raise ValueError(f"labels reach {highest}, but there are {len(names)} names")
