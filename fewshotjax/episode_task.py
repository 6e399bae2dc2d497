"""What is to be evaluated: examples and episodes, checked on the host."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .episodes import Episode, EpisodeConfig, class_table, draw_many, left_out, overlapping


class EpisodeTask(NamedTuple):
    """Episodes of examples, for any method."""

    features: np.ndarray  # (M, ...)
    episodes: Episode  # stacked, (E, ...)
    config: EpisodeConfig
    key: PRNGKeyArray  # of the run; episode i has fold_in(key, i)
    classes: tuple[str, ...]  # names of the classes that episodes count
    excluded: tuple[str, ...]  # of those with too few examples
    settings: dict[str, Any]


def episode_task(
    key: PRNGKeyArray,
    features: np.ndarray,
    labels: np.ndarray,
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
    classes = None if classes is None else np.asarray(classes).tolist()
    _check(features, labels, names, episodes, classes)
    _warn_of_copies(features)
    if drawn is None:
        config = EpisodeConfig(ways, shots, queries, parts)
        table = class_table(labels, config, classes)
        drawn, excluded = draw_many(key, table, config, episodes), left_out(labels, table, classes)
        of_class = np.asarray(table.classes)
    else:
        (config, of_class, drawn), excluded = _of_given(drawn, labels, parts), []
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

    return EpisodeTask(features, drawn, config, key, named(of_class), named(excluded), settings)


def _of_given(drawn: Episode, labels: np.ndarray, parts: int) -> tuple[EpisodeConfig, np.ndarray, Episode]:
    """Config and labels of given episodes, which are checked, and they with those labels' numbers."""
    (episodes, ways, most), queries = np.shape(drawn.support), np.shape(drawn.query)[2]
    if most % parts or queries % parts:
        raise ValueError(f"parts is {parts}, but drawn has {most} shots and {queries} queries of a class")
    blocks = [np.asarray(part).reshape(episodes, ways, parts, -1) for part in (drawn.support, drawn.query)]
    rows = np.concatenate(blocks, axis=3)
    if rows.min() < 0 or rows.max() >= len(labels):
        raise ValueError(f"drawn has rows {rows.min()} to {rows.max()}, but there are {len(labels)} examples")
    counts = np.asarray(drawn.shown).reshape(episodes, ways, parts, -1).sum(axis=3)
    least = int(counts.min())
    if least == 0:
        raise ValueError("drawn has a class without support: show one example of each at least")
    label = labels[rows]
    if (label != label[..., :1]).any():
        raise ValueError(
            "drawn mixes labels within a class: these episodes are not of these examples, or were drawn with "
            "other parts"
        )
    every = label[..., 0].reshape(episodes, -1)
    if (np.diff(np.sort(every, axis=1), axis=1) == 0).any():
        raise ValueError("drawn has a class twice in one episode: these episodes are not of these examples")
    twice = overlapping(drawn)
    if twice.any():
        raise ValueError(
            f"drawn has an example twice in episode {int(np.argmax(twice))}, in support and queries"
        )
    found, index = np.unique(label[:, :, 0, 0], return_inverse=True)
    each = most // parts
    config = EpisodeConfig(ways, each if least == each else (least, each), queries // parts, parts)
    numbers = jnp.asarray(index.reshape(episodes, ways), jnp.int32)
    return config, found, drawn.replace(classes=numbers)  # type: ignore[attr-defined]


def _warn_of_copies(features: np.ndarray) -> None:
    """By one product of each example with random numbers; those that agree are compared in full."""
    flat = features.reshape(len(features), -1)
    probe = np.random.default_rng(0).normal(size=flat.shape[1]).astype(np.float32)
    step = max(1, 2**24 // flat.shape[1])  # images in pieces, as they become floats
    sums = np.concatenate(
        [flat[i : i + step].astype(np.float32, copy=False) @ probe for i in range(0, len(flat), step)]
    )
    order = np.argsort(sums, kind="stable")
    near = np.flatnonzero(np.isclose(sums[order][1:], sums[order][:-1], rtol=1e-5, atol=0))
    pairs = [sorted((int(order[i]), int(order[i + 1]))) for i in near]
    copies = [pair for pair in pairs if np.array_equal(flat[pair[0]], flat[pair[1]])]
    if copies:
        shown = ", ".join(f"{a} = {b}" for a, b in copies[:5])
        warnings.warn(
            f"{len(copies)} examples are copies of others, so a query may be in the support: rows {shown}",
            UserWarning,
            stacklevel=4,
        )


def _check(
    features: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | None,
    episodes: int,
    classes: Sequence[int] | None,
) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be whole numbers of shape ({len(features)},), got {labels.dtype} of {labels.shape}"
        )
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
    highest = max(int(np.max(labels)), *(classes if classes else (0,)))
    if names is not None and highest >= len(names):
        raise ValueError(f"labels reach {highest}, but there are {len(names)} names")
