"""Episodes of few-shot detection as row numbers of photographs: drawn from a key, or from a list in a file.

The protocol is that of RepMet's authors (Karlinsky et al. 2019; read in their README): 5 classes, a few
support boxes and 10 query photographs of each, of whose boxes those of the episode's classes alone count.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..fields import check_fields
from .chosen import choose
from .data.boxed import BoxedImages
from .data.episode_files import DetectionEpisode
from .metrics.overlap import paired_iou
from .support import class_rows

# Folded into an episode's key it is the key of a method's `fit`. It must be above every number of keys that
# the episode's is split in, as key i of a split is the one that i is folded into.
FIT = 1_000
_SPLITS = 4  # keys that `draw_detection_episodes` splits an episode's in
_SAME = 0.9  # IoU of a listed support box with the true box that it is


@dataclass(frozen=True, eq=False)
class DetectionEpisodes:
    """E episodes of W classes, up to S support boxes of each and up to Q query photographs in all.

    Raises:
        ValueError: `members` that do not begin with `classes`.
    """

    classes: np.ndarray  # (E, W) int32, index into names; of merged classes the first of the parts
    support: np.ndarray  # (E, W, S) int32, rows of the photographs
    slots: np.ndarray  # (E, W, S) int32, which of the photograph's boxes
    shown: np.ndarray  # (E, W, S) bool; False: padding
    queries: np.ndarray  # (E, Q) int32, rows; of drawn episodes class by class
    asked: np.ndarray  # (E, Q) bool; False: padding
    names: tuple[str, ...]  # classes of the photographs
    excluded: tuple[str, ...] = ()  # classes with too few photographs to be drawn
    # (E, W, P) int32, index into names: classes that count as one; None: each is one by itself
    members: Any = None

    def __post_init__(self):
        check_fields(self)
        if self.members is None:
            object.__setattr__(self, "members", np.asarray(self.classes)[..., None])
        if np.ndim(self.members) != 3:
            raise ValueError(f"members must be (E, W, P), or None, got shape {np.shape(self.members)}")
        if not np.array_equal(self.members[..., 0], self.classes):
            raise ValueError("members must begin with classes: give both, or members=None")

    @property
    def parts(self) -> int:
        """P."""
        return int(self.members.shape[2])

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, rows: Any) -> "DetectionEpisodes":
        """The episodes of `rows`: indices, a mask or a slice."""
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in _ARRAYS})

    def shared(self) -> int:
        """How many queries are support of their own episode, too: none of drawn ones."""
        support = np.where(self.shown, self.support, -1).reshape(len(self), 1, -1)
        return int(((self.queries[..., None] == support).any(axis=2) & self.asked).sum())

    def same(self, other: "DetectionEpisodes") -> bool:
        """Whether these are the very same episodes."""
        return self.names == other.names and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _ARRAYS
        )


_ARRAYS = ("classes", "members", "support", "slots", "shown", "queries", "asked")


class _Table(NamedTuple):
    """Of C classes: the photographs that show them, padded to P."""

    rows: Int[Array, "C P"]
    counts: Int[Array, " C"]
    boxes: Bool[Array, "N G C"]  # which of a photograph's boxes are of the class


class _Drawn(NamedTuple):
    """W · P classes, not merged yet."""

    classes: Int[Array, "*E WP"]
    support: Int[Array, "*E WP S"]
    slots: Int[Array, "*E WP S"]
    queries: Int[Array, "*E WP Q"]


def draw_detection_episodes(
    key: PRNGKeyArray,
    photographs: BoxedImages,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 10,
    parts: int = 1,
    episodes: int = 500,
    classes: Sequence[str] | None = None,
) -> DetectionEpisodes:
    """Episodes 0 to `episodes` - 1 of a key; number i is the same however many are drawn.

    Classes are drawn uniformly, then support photographs, none of them twice, then query photographs of each
    class among those that are no support. One that shows two classes may be a query of both, and counts
    twice. Of a support photograph one box of the class is shown, drawn if there are several; difficult and
    crowd boxes are not.

    Args:
        key: decides everything.
        photographs: whose rows the episodes are.
        ways, shots, queries: W, S, and the query photographs of each class.
        parts: P, classes merged to one, at random in each episode, with `shots` and `queries` of each:
            classes with several modes. A way goes by its first one's class.
        classes: names to draw from; None: all. Those with too few photographs are left out and named
            (`excluded`); where photographs show several classes, others' support may take some from a class.

    Raises:
        ValueError: a number below 1 (ways: 2), unknown classes, fewer classes with enough photographs than
            ways.
    """
    for name, value, least in (
        ("ways", ways, 2),
        ("shots", shots, 1),
        ("queries", queries, 1),
        ("parts", parts, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    names = photographs.classes
    unknown = sorted(set(classes or ()) - set(names))
    if unknown:
        raise ValueError(f"classes: {unknown[0]!r} is none of the photographs' {len(names)}: {names[:5]}")
    easy = photographs.shown & ~np.asarray(photographs.difficult) & ~np.asarray(photographs.crowd)
    boxes = easy[..., None] & (photographs.labels[..., None] == np.arange(len(names)))
    shows = boxes.any(axis=1)
    several = (shows.sum(axis=1) > 1).any()
    needed = queries + shots * (ways * parts if several else 1)
    wanted = range(len(names)) if classes is None else sorted({names.index(name) for name in classes})
    enough = [label for label in wanted if shows[:, label].sum() >= needed]
    if len(enough) < ways * parts:
        most = max((int(shows[:, label].sum()) for label in wanted), default=0)
        of_parts = f" of {parts} parts" if parts > 1 else ""
        raise ValueError(
            f"ways is {ways}{of_parts}, but {len(enough)} of {len(wanted)} classes have {needed} photographs "
            f"({shots} shots and {queries} queries; the largest has {most}): lower ways, shots or queries, "
            "or add photographs"
        )
    index, there = class_rows(np.nonzero(shows[:, enough].T)[0], len(enough))
    rows = np.nonzero(shows[:, enough].T)[1][index]
    table = _Table(
        jnp.asarray(np.where(there, rows, 0), jnp.int32),
        jnp.asarray(there.sum(axis=1), jnp.int32),
        jnp.asarray(boxes[..., enough]),
    )
    found = jax.tree.map(np.asarray, _draw(key, table, ways * parts, shots, queries, episodes))
    asked = found.queries.reshape(episodes, -1)
    # Classes that follow each other are merged.
    members = np.asarray(enough, np.int32)[found.classes].reshape(episodes, ways, parts)
    support, slots = (one.reshape(episodes, ways, -1) for one in (found.support, found.slots))
    return DetectionEpisodes(
        members[..., 0],
        support,
        slots,
        np.ones(support.shape, bool),
        asked,
        np.ones(asked.shape, bool),
        names,
        tuple(names[label] for label in wanted if label not in enough),
        members,
    )


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _draw(key: PRNGKeyArray, table: _Table, ways: int, shots: int, queries: int, episodes: int) -> _Drawn:
    total, (count, width) = len(table.boxes), table.rows.shape

    def pick(key: PRNGKeyArray, row: Array, used: Array, many: int) -> Int[Array, " many"]:
        """Photographs of a class that are not used, by the highest of independent Gumbel numbers."""
        photographs = table.rows[row]
        free = (jnp.arange(width) < table.counts[row]) & ~used[photographs]
        chosen = choose(jax.random.gumbel(key, (width,)), free, many)
        return photographs[chosen.indices]

    def one(number: Array) -> _Drawn:
        own = jax.random.fold_in(key, number)
        k_class, k_support, k_box, k_query = jax.random.split(own, _SPLITS)
        classes = jnp.argsort(jax.random.uniform(k_class, (count,)))[:ways].astype(jnp.int32)

        def support(used: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
            rows = pick(item[0], item[1], used, shots)
            return used.at[rows].set(True), rows

        used, chosen = jax.lax.scan(
            support, jnp.zeros(total, bool), (jax.random.split(k_support, ways), classes)
        )
        asked = jax.vmap(lambda k, row: pick(k, row, used, queries))(jax.random.split(k_query, ways), classes)
        shows = table.boxes[chosen, :, classes[:, None]]  # (W, S, G)
        slots = jnp.argmax(jnp.where(shows, jax.random.uniform(k_box, shows.shape), -1.0), axis=2)
        return _Drawn(classes, chosen, slots.astype(jnp.int32), asked)

    return jax.lax.map(one, jnp.arange(episodes), batch_size=64)


def listed_episodes(
    episodes: Sequence[DetectionEpisode],
    photographs: BoxedImages,
    *,
    scales: Float[np.ndarray, "N 2"] | None = None,
) -> DetectionEpisodes:
    """Episodes of a file (`load_detection_episodes`, `repmet_episodes`) as rows of photographs.

    Args:
        photographs: with the names of their files.
        scales: of `fitted`, if the photographs were resized: boxes are listed in the originals' pixels.

    Raises:
        ValueError: no episodes, or of different numbers of classes; a file or class that is not there, a
            support box that is no true box of its photograph (IoU below 0.9); the episode is named.
    """
    if not episodes:
        raise ValueError("episodes is empty: give at least one")
    if len({len(one.classes) for one in episodes}) > 1:
        raise ValueError("episodes must have equally many classes: run those of each number by themselves")
    row_of = {file: row for row, file in enumerate(photographs.files)}
    names, ways = photographs.classes, len(episodes[0].classes)
    taken: list[list[tuple[int, int, int]]] = []  # way, row, slot
    for i, one in enumerate(episodes):
        for file in (*(box.file for box in one.support), *one.queries):
            if file not in row_of:
                raise ValueError(f"episode {i}: {file!r} is none of the photographs' files")
        for name in one.classes:
            if name not in names:
                raise ValueError(f"episode {i}: class {name!r} is none of the photographs'")
        taken.append([])
        for file, label, box in one.support:
            row = row_of[file]
            scale = np.ones(2) if scales is None else scales[row]
            scaled = np.asarray(box) * np.concatenate([scale, scale])
            own = photographs.shown[row] & (photographs.labels[row] == names.index(label))
            every = photographs.boxes[row].astype(np.float64)
            iou = np.where(own, paired_iou(every, np.broadcast_to(scaled, every.shape)), 0.0)
            slot = int(np.argmax(iou))
            if iou[slot] < _SAME:
                raise ValueError(
                    f"episode {i}: support: {file} has no true box of {label!r} at {list(box)} (best IoU "
                    f"{iou[slot]:.2f}): were the photographs resized? Then give `scales`"
                )
            taken[-1].append((one.classes.index(label), row, slot))
    padded = [class_rows(np.array([way for way, _, _ in some]), ways) for some in taken]
    most, longest = max(rows.shape[1] for rows, _ in padded), max(len(one.queries) for one in episodes)
    shape = (len(episodes), ways, most)
    support, slots, shown = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
    queries, asked = np.zeros((shape[0], longest), np.int32), np.zeros((shape[0], longest), bool)
    for i, (one, (rows, there)) in enumerate(zip(episodes, padded, strict=True)):
        numbers = np.array(taken[i])
        support[i, :, : rows.shape[1]] = np.where(there, numbers[rows, 1], 0)
        slots[i, :, : rows.shape[1]] = np.where(there, numbers[rows, 2], 0)
        shown[i, :, : rows.shape[1]] = there
        queries[i, : len(one.queries)] = [row_of[file] for file in one.queries]
        asked[i, : len(one.queries)] = True
    classes = np.array([[names.index(name) for name in one.classes] for one in episodes], np.int32)
    return DetectionEpisodes(classes, support, slots, shown, queries, asked, names)
