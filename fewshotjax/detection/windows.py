"""Detection without a trained detector: sliding windows over pretrained features, no trained proposals.

Windows of the shapes that the support boxes have, and somewhat smaller and larger, slide over a photograph.
Each is compared with the support boxes and with windows of the support photographs that show none of them:

    P(n) ∝ exp(max_{k: y_k = n} cos(f, f_k) / t),   n = 1..N and the background,

f the features of a window. Ours, for a first look at one's own photographs; docs/detection.md has what it
gave on BCCD.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ..backbones import Preprocess
from ..distances import l2_normalize
from ..fields import check_fields
from ..files import digest_of
from .boxes import areas, clip, usable
from .config import DetectorConfig
from .finder import LEAST, Examples, OnChunk, Seen, is_nan
from .metrics.overlap import on_crowds, table_iou
from .pyramids import Pyramid
from .regions import RegionsChunk
from .roi import roi_align
from .score import Scoring, suppress
from .sliding import WindowConfig, shapes_of, sliding

IGNORED = DetectorConfig().ignored_overlap  # share of a window on a crowd from which on it is no background
Maps = tuple[Float[np.ndarray, "N _ _ _"], ...]


@dataclass(frozen=True, eq=False)
class Windows:
    """Stands where a detector would: a pretrained pyramid and how its windows are judged."""

    pyramid: Pyramid
    config: WindowConfig = field(default_factory=WindowConfig)

    def __post_init__(self):
        check_fields(self)
        levels = len(self.pyramid.strides)
        if max(level for level, _ in self.config.bins) >= levels:
            raise ValueError(f"bins are {self.config.bins}, but {self.pyramid.name} has {levels} levels")

    def __repr__(self) -> str:
        return f"Windows(sliding windows over features of {self.pyramid.name}, no trained proposals)"


class WindowModel(NamedTuple):
    """S support boxes, B background windows, R windows of every photograph."""

    windows: Float[np.ndarray | Array, "R 4"]
    support: Float[np.ndarray | Array, "S F"]  # of unit length
    labels: Int[np.ndarray | Array, " S"]
    keep: Bool[np.ndarray | Array, " S"]
    background: Float[np.ndarray | Array, "B F"]  # of unit length
    there: Bool[np.ndarray | Array, " B"]


@dataclass(frozen=True)
class _Pool:
    """How features of boxes are read off maps: static under jit."""

    bins: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]

    def __call__(
        self, maps: tuple[Float[Array, "_ _ _"], ...], boxes: Float[Array, "R 4"]
    ) -> Float[Array, "R F"]:
        parts = []
        for level, count in self.bins:
            found = roi_align(maps[level], boxes, count, scales=1.0 / self.strides[level])
            parts.append(l2_normalize(found.reshape(len(boxes), -1)))
        return jnp.concatenate(parts, axis=1)


class WindowFinder:
    """See `Finder`."""

    kind = "windows"
    more: tuple[str, ...] = ()

    def __init__(self, given: Windows, pixels: int):
        self.pyramid, self.config, self.pixels = given.pyramid, given.config, pixels
        self._pool = _Pool(given.config.bins, given.pyramid.strides)
        self._background: Any = None  # of the last support: the same for every fold

    def look(self, images: UInt8[np.ndarray, "N P P 3"], on_chunk: OnChunk | None = None) -> Maps:
        parts = []
        for row in range(len(images)):  # one by one: fine maps of large photographs are many numbers
            maps = _maps(
                self.pyramid.apply, self.pyramid.preprocess, self.pyramid.variables, images[row : row + 1]
            )
            parts.append(jax.device_get(maps))
            if not all(np.isfinite(level).all() for level in parts[-1]):
                raise ValueError(
                    f"{self.pyramid.name} gives NaN or infinite features for image {row}: check its weights "
                    "and its preprocess"
                )
            if on_chunk is not None:
                on_chunk(RegionsChunk(row + 1, len(images), 0.0))
        return tuple(np.concatenate(level) for level in zip(*parts, strict=True))

    def study(
        self,
        images: UInt8[np.ndarray, "N P P 3"],
        boxes: Float[np.ndarray, "N G 4"],
        shown: Bool[np.ndarray, "N G"],
        on_chunk: OnChunk | None = None,
    ) -> tuple[Maps, Float[np.ndarray, "N G F"]]:
        sights = self.look(images, on_chunk)
        return sights, np.where(shown[..., None], self._read(sights, boxes), np.float32(0))

    def _read(self, sights: Maps, boxes: Float[np.ndarray, "N G 4"]) -> Float[np.ndarray, "N G F"]:
        """Features of boxes, photograph by photograph."""
        found = [
            np.asarray(_pooled(self._pool, tuple(level[row] for level in sights), boxes[row]))
            for row in range(len(boxes))
        ]
        return np.stack(found)

    def learn(
        self, key: PRNGKeyArray, shown: Examples, keep: Bool[np.ndarray, " S"], ways: int
    ) -> WindowModel:
        # Of all boxes, kept or not: shapes alone tell little, and so every fold runs one program.
        windows = sliding(shapes_of(shown.boxes, shown.labels, self.config), self.pixels, self.config)
        if self._background is None or self._background[0] is not shown:
            self._background = shown, *self._beside(shown, windows)
        _, features, there = self._background
        rows = np.arange(len(shown.sizes))
        used = np.isin(rows, shown.image[keep]) | ~np.isin(rows, shown.image)  # nothing but background
        return WindowModel(
            windows,
            _unit(shown.features),
            shown.labels,
            keep,
            features.reshape(-1, features.shape[2]),
            (there & used[:, None]).reshape(-1),
        )

    def _beside(
        self, shown: Examples, windows: Float[np.ndarray, "R 4"]
    ) -> tuple[Float[np.ndarray, "N B F"], Bool[np.ndarray, "N B"]]:
        """Features of windows of each photograph that show no support box, evenly spread.

        Those most like a support box, as hard negatives, were worse on BCCD's validation part: they are parts
        of objects.
        """
        count = len(shown.sizes)
        quota = -(-self.config.background // count)
        boxes, there = np.zeros((count, quota, 4), np.float32), np.zeros((count, quota), bool)
        for row in range(count):
            height, width = shown.sizes[row].tolist()
            own = shown.boxes[shown.image == row]
            best = table_iou(windows, own).max(axis=1, initial=0.0)
            inside = (windows[:, 2] <= width) & (windows[:, 3] <= height)
            crowds = shown.ignored_in(row)  # no background
            clear = ~on_crowds(windows, crowds, inside=IGNORED, iou=max(self.config.apart, 1e-6))
            rows = np.flatnonzero(inside & clear & (best <= self.config.apart))
            rows = rows[np.linspace(0, len(rows) - 1, min(quota, len(rows))).astype(int)]
            boxes[row, : len(rows)], there[row, : len(rows)] = windows[rows], True
        return _unit(self._read(shown.sights, boxes)), there

    def anchors(self, model: WindowModel, shown: Examples) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(model.support), np.arange(len(shown.labels), dtype=np.int32)

    def judge(
        self,
        model: WindowModel,
        known: tuple[np.ndarray, np.ndarray],
        sight: Any,
        size: np.ndarray,
        ways: int,
    ) -> Seen:
        scoring = Scoring(self.config.nms, self.config.per_image, self.config.least_score)
        t = jnp.asarray(self.config.temperature, jnp.float32)
        given = jax.tree.map(jnp.asarray, (model, sight, size))
        return _judged(self._pool, scoring, ways, t, *given)

    def fingerprint(self) -> dict[str, Any]:
        told = {"kind": self.kind, "name": self.pyramid.name, "options": dict(self.pyramid.options)}
        bins = [list(one) for one in self.config.bins]
        told["config"] = {**asdict(self.config), "bins": bins, "scales": list(self.config.scales)}
        return {**told, "weights": digest_of(jax.tree.leaves(self.pyramid.variables))}


@partial(jax.jit, static_argnums=(0, 1))
def _maps(
    apply: Callable[..., Any],
    preprocess: Preprocess,
    variables: Any,
    images: UInt8[Array | np.ndarray, "B P P 3"],
) -> tuple[Float[Array, "B _ _ _"], ...]:
    return tuple(apply(variables, preprocess.normalize(jnp.asarray(images))))


@partial(jax.jit, static_argnums=(0,))
def _pooled(pool: _Pool, maps: tuple[Any, ...], boxes: Any) -> Float[Array, "R F"]:
    return pool(tuple(jnp.asarray(level) for level in maps), jnp.asarray(boxes))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _judged(
    pool: _Pool,
    scoring: Scoring,
    ways: int,
    temperature: Float[Array, ""],
    model: WindowModel,
    maps: tuple[Float[Array, "_ _ _"], ...],
    size: Float[Array, " 2"],
) -> Seen:
    windows = jnp.asarray(model.windows)
    f = l2_normalize(pool(maps, windows))
    cosine = jnp.where(model.keep[None], f @ model.support.T, -jnp.inf)  # (R, S)
    of_class = jnp.stack(
        [jnp.max(jnp.where(model.labels[None] == n, cosine, -jnp.inf), axis=1) for n in range(ways)], axis=1
    )
    none = jnp.max(jnp.where(model.there[None], f @ model.background.T, -1.0), axis=1)
    log_p = jax.nn.log_softmax(jnp.concatenate([of_class, none[:, None]], axis=1) / temperature, axis=1)
    boxes = clip(windows, size[0], size[1])
    # Windows that reach beyond the photograph by more than half show the filling.
    half = areas(boxes) >= 0.5 * areas(windows)
    # Without anything that is none of the classes each window would be one for certain: nothing is found.
    mask = usable(boxes, LEAST) & half & jnp.any(model.there)
    found = suppress(log_p[:, :ways], log_p[:, ways], boxes, mask, scoring)
    like = cosine[found.region]
    nearest = jnp.argmax(like, axis=1).astype(jnp.int32)
    distance = jnp.sqrt(jnp.maximum(2 - 2 * jnp.max(like, axis=1), 0.0))
    return Seen(found, nearest, distance, is_nan(log_p, mask))


def _unit(rows: Float[np.ndarray, "*n F"]) -> Float[np.ndarray, "*n F"]:
    return rows / np.sqrt(np.sum(rows**2, axis=-1, keepdims=True) + np.float32(1e-12))
