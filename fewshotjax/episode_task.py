"""What is to be evaluated: examples and episodes, checked on the host."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray

from .episodes import Episode, EpisodeConfig, class_table, draw_many, left_out


class EpisodeTask(NamedTuple):
    """Episodes of examples, for any method."""

    features: np.ndarray  # (M, ...)
    episodes: Episode  # stacked, (E, ...)
    config: EpisodeConfig
    key: PRNGKeyArray  # of what methods draw
    classes: tuple[str, ...]  # names of the classes that episodes count
    excluded: tuple[str, ...]  # of those with too few examples
    settings: dict[str, Any]


def episode_task(
    key: PRNGKeyArray,
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
) -> EpisodeTask:
    """See `evaluate`."""
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim == 2:
        features = features.astype(np.float32, copy=False)
    _check(features, labels, names, episodes, classes)
    k_draw, k_fit = jax.random.split(key)
    if drawn is None:
        config = EpisodeConfig(ways, shots, queries, parts)
        table = class_table(labels, config, classes)
        drawn, excluded = draw_many(k_draw, table, config, episodes), left_out(labels, table, classes)
        of_class = np.asarray(table.classes)
    else:
        (config, of_class, drawn), excluded = _of_given(drawn, labels), []
    settings = {
        "ways": config.ways,
        "shots": config.shots,
        "queries": config.queries,
        "parts": config.parts,
        "episodes": len(drawn.classes),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }

    def named(labels: Any) -> tuple[str, ...]:
        return tuple(str(i if names is None else names[i]) for i in labels)

    return EpisodeTask(features, drawn, config, k_fit, named(of_class), named(excluded), settings)


def _of_given(drawn: Episode, labels: np.ndarray) -> tuple[EpisodeConfig, np.ndarray, Episode]:
    """Config and labels of given episodes, which are checked, and they with those labels' numbers."""
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
    return config, found, drawn.replace(classes=jnp.asarray(index, jnp.int32))  # type: ignore[attr-defined]


def _check(
    features: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | None,
    episodes: int,
    classes: Sequence[int] | None,
) -> None:
    if len(features) != len(labels):
        raise ValueError(f"features are {len(features)}, labels {len(labels)}: give one label for each")
    if len(labels) == 0 or np.min(labels) < 0:
        lowest = np.min(labels) if len(labels) else "none"
        raise ValueError(f"labels must be class indices from 0, got {lowest}")
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).reshape(len(features), -1).all(axis=1))[0])
        raise ValueError(f"features of example {row} are not finite: leave it out, or look at what made them")
    highest = max(int(np.max(labels)), *(classes or (0,)))
    if names is not None and highest >= len(names):
        raise ValueError(f"labels reach {highest}, but there are {len(names)} names")
