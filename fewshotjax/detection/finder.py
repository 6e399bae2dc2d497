"""What new classes are learned with and photographs are looked at with: a trained detector, or windows."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from ..distances import squared_distances
from ..files import digest_of
from ..repmet_model import RepMetConfig, embed
from .boxes import clip, usable
from .data.boxed import BoxedImages
from .detector import Detector, Net
from .methods.method import DetectionMethod
from .regions import Regions, chunk_of, find_regions, find_regions_and_boxes
from .score import Found, region_scores, scoring_of, suppress
from .support import Support, SupportBoxes, SupportConfig, class_rows, support_features

LEAST = 1.0  # pixels of a detection's sides at working size, inside its photograph
FAR = 1 << 20  # pixels
TOGETHER = 16  # photographs that are in memory at once
OnChunk = Callable[[Any], Any]


class Seen(NamedTuple):
    """Of one photograph at working size."""

    found: Found  # (K, ...)
    nearest: Int[Array, " K"]  # which support box is the nearest to each
    distance: Float[Array, " K"]  # from it, between embeddings of unit length: 0-2
    failed: Bool[Array, ""]  # probabilities are NaN, which is never a detection


class Examples(NamedTuple):
    """S support boxes, and what a finder sees of their N photographs."""

    features: np.ndarray  # (S, F)
    boxes: np.ndarray  # (S, 4) float32, pixels at working size
    labels: np.ndarray  # (S,) int32
    image: np.ndarray  # (S,) int32, which photograph
    sights: Any  # of the N photographs, a pytree of NumPy arrays (N, ...)
    sizes: np.ndarray  # (N, 2) float32, what of the square a photograph fills
    # (N, I, 4) crowds in them, which are neither examples nor background, 0: padding; None: there are none
    ignored: np.ndarray | None = None
    images: np.ndarray | None = None  # (N, P, P, 3) uint8, for methods that look at them

    def ignored_in(self, row: int) -> np.ndarray:
        """(i, 4) of a photograph."""
        if self.ignored is None:
            return np.zeros((0, 4), np.float32)
        own = self.ignored[row]
        return own[(own[:, 2:] > own[:, :2]).all(axis=1)]


@runtime_checkable
class Finder(Protocol):
    """Two of them: `RegionFinder` of a trained detector and `WindowFinder`."""

    kind: str  # "detector" or "windows", for files
    more: tuple[str, ...]  # names of classes that are found beside the new ones

    def look(self, images: UInt8[np.ndarray, "N P P 3"], on_chunk: OnChunk | None = None) -> Any:
        """Sights of photographs, a pytree of NumPy arrays (N, ...): all that does not depend on classes."""

    def study(
        self,
        images: UInt8[np.ndarray, "N P P 3"],
        boxes: Float[np.ndarray, "N G 4"],
        shown: Bool[np.ndarray, "N G"],
        on_chunk: OnChunk | None = None,
    ) -> tuple[Any, Float[np.ndarray, "N G F"]]:
        """Sights, and features of given boxes."""

    def learn(self, key: PRNGKeyArray, shown: Examples, keep: Bool[np.ndarray, " S"], ways: int) -> Any:
        """A model of W classes from the examples in `keep`; a class without any is never found."""

    def anchors(self, model: Any, shown: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (M, D) that distances are measured from, and the support box (M,) of each."""

    def judge(
        self, model: Any, known: tuple[np.ndarray, np.ndarray], sight: Any, size: np.ndarray, ways: int
    ) -> Seen:
        """Detections in one photograph, by its sight; `known` are `anchors`."""

    def fingerprint(self) -> dict[str, Any]:
        """JSON values that tell it from others."""


def examples_of(
    finder: Finder,
    photographs: BoxedImages,
    image: Int[np.ndarray, " S"],
    slot: Int[np.ndarray, " S"],
    sizes: Float[np.ndarray, "N 2"],
    on_chunk: OnChunk | None = None,
) -> Examples:
    """What a finder sees of support boxes: box `slot` of photograph `image`."""
    images = np.asarray(photographs.images)
    sights, features = finder.study(images, photographs.boxes, photographs.shown, on_chunk)
    boxes, labels = photographs.boxes[image, slot], photographs.labels[image, slot]
    crowd = np.asarray(photographs.crowd) & photographs.shown
    ignored = np.where(crowd[..., None], photographs.boxes, np.float32(0)) if crowd.any() else None
    return Examples(features[image, slot], boxes, labels, image, sights, sizes, ignored, images)


class RegionFinder:
    """A trained detector with a method of few-shot detection.

    Raises:
        ValueError: a method that tunes the whole network, or one of the classes trained on alone.
    """

    kind = "detector"

    def __init__(self, detector: Detector, method: DetectionMethod, support: SupportConfig):
        if method.regions is not None:
            raise ValueError(
                "tuning the whole network is for evaluate_detection: DetectionTuning(what='head') here"
            )
        if method.trained:
            raise ValueError(
                "method knows the classes trained on alone, and no new ones: leave it out; with "
                "SupportConfig(keep_base=True) those trained on are found beside the new ones"
            )
        self.detector, self.method, self.support = detector, method, support
        self.net, self.params = detector.net, detector.params
        self.more = detector.classes if support.keep_base else ()

    def look(self, images: UInt8[np.ndarray, "N P P 3"], on_chunk: OnChunk | None = None) -> Regions:
        return find_regions(self.detector, images, chunk=self._chunk(images), on_chunk=on_chunk)

    def study(
        self,
        images: UInt8[np.ndarray, "N P P 3"],
        boxes: Float[np.ndarray, "N G 4"],
        shown: Bool[np.ndarray, "N G"],
        on_chunk: OnChunk | None = None,
    ) -> tuple[Regions, Float[np.ndarray, "N G F"]]:
        return find_regions_and_boxes(
            self.detector, images, boxes, shown, chunk=self._chunk(images), on_chunk=on_chunk
        )

    def _chunk(self, images: UInt8[np.ndarray, "N P P 3"]) -> int:
        """Of the size of images alone, so that one program serves any number of photographs."""
        return min(TOGETHER, chunk_of(images.shape[1], images.shape[2]))

    def learn(self, key: PRNGKeyArray, shown: Examples, keep: Bool[np.ndarray, " S"], ways: int) -> Any:
        return _fitted(self.method.fit, key, self.params, self.given(shown, keep, ways), ways)

    def anchors(self, model: Any, shown: Examples) -> tuple[np.ndarray, np.ndarray]:
        taken, owner = self.taken(shown)
        mask = np.asarray(taken.mask)
        e = np.asarray(_embedded(self._own(model)["repmet"], self.net.config.head, taken.features))
        return e[mask], owner[mask]

    def taken(self, shown: Examples) -> tuple[Support, Int[np.ndarray, " E"]]:
        """All E examples, boxes and then regions on them, and the support box of each."""
        ways = int(shown.labels.max()) + 1
        owner = class_rows(shown.labels, ways)[0].reshape(-1)
        given = self.given(shown, np.ones(len(shown.labels), bool), ways)
        every = np.concatenate([owner, np.repeat(owner, self.support.regions)])
        return _taken(given, ways, self.support), every.astype(np.int32)

    def judge(
        self, model: Any, known: tuple[np.ndarray, np.ndarray], sight: Any, size: np.ndarray, ways: int
    ) -> Seen:
        return _judged(
            self.method,
            self.net,
            ways + len(self.more),
            self.params,
            model,
            self._own(model)["repmet"],
            jnp.asarray(known[0]),
            jnp.asarray(known[1]),
            jax.tree.map(jnp.asarray, sight),
            jnp.asarray(size),
        )

    def fingerprint(self) -> dict[str, Any]:
        net = self.net
        told = {"kind": self.kind, "name": self.detector.name, "options": dict(self.detector.options)}
        told |= {"config": asdict(net.config), "preprocess": asdict(net.preprocess)}
        told = json.loads(json.dumps(told))  # tuples become lists, as in files
        return {**told, "weights": digest_of(jax.tree.leaves(self.params))}

    def _own(self, model: Any) -> Mapping[str, Any]:
        """The detector's parameters, with those that the model tuned in their place."""
        return {**self.params, **getattr(model, "own", {})}

    def given(self, shown: Examples, keep: Bool[np.ndarray, " S"], ways: int) -> SupportBoxes:
        """Padded to equally many of each class; one layout whatever is kept, so one compilation."""
        rows, there = class_rows(shown.labels, ways)
        flat, there = rows.reshape(-1), (there & keep[rows]).reshape(-1)
        labels = np.where(there, np.repeat(np.arange(ways), rows.shape[1]), ways).astype(np.int32)
        image = shown.image[flat]
        return SupportBoxes(
            jnp.asarray(shown.features[flat]),
            jnp.asarray(shown.boxes[flat]),
            jnp.asarray(labels),
            jnp.asarray(image.astype(np.int32)),
            Regions(*(jnp.asarray(leaf[image]) for leaf in shown.sights)),
            jnp.full(ways, -1, jnp.int32),  # new classes, whatever their names
            None if shown.images is None or not self.method.images else jnp.asarray(shown.images[image]),
            None if shown.ignored is None else jnp.asarray(shown.ignored[image]),
        )


@partial(jax.jit, static_argnums=(0, 4))
def _fitted(fit: Any, key: PRNGKeyArray, params: Any, shown: SupportBoxes, ways: int) -> Any:
    return fit(key, params, shown, ways)


@partial(jax.jit, static_argnums=(1, 2))
def _taken(shown: SupportBoxes, ways: int, support: SupportConfig) -> Support:
    return support_features(shown, ways, support)


@partial(jax.jit, static_argnums=(1,))
def _embedded(repmet: Any, head: RepMetConfig, features: Float[Array, "E F"]) -> Float[Array, "E D"]:
    return embed(repmet, head, features)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _judged(
    method: DetectionMethod,
    net: Net,
    columns: int,
    params: Any,
    model: Any,
    repmet: Any,
    anchors: Float[Array, "M D"],
    owner: Int[Array, " M"],
    regions: Regions,
    size: Float[Array, " 2"],
) -> Seen:
    # Not cut to the photograph yet: any limit that the coordinates of working sizes never reach.
    log_p, background, boxes = region_scores(method, params, model, net, regions, (FAR, FAR))
    boxes = clip(boxes, size[0], size[1])
    mask = jnp.asarray(regions.mask) & usable(boxes, LEAST)
    log_p = log_p[:, :columns]
    found = suppress(log_p, background, boxes, mask, scoring_of(net.config))
    e = embed(repmet, net.config.head, jnp.asarray(regions.features)[found.region])
    nearest, distance = nearest_of(e, anchors)
    return Seen(found, owner[nearest], distance, is_nan(log_p, mask))


def is_nan(log_p: Float[Array, "R C"], mask: Bool[Array, " R"]) -> Bool[Array, ""]:
    """Whether a probability that counts is NaN; `suppress` passes over those."""
    return jnp.any(jnp.isnan(log_p) & mask[:, None])


def nearest_of(
    e: Float[Array, "K D"], anchors: Float[Array, "M D"]
) -> tuple[Int[Array, " K"], Float[Array, " K"]]:
    """The nearest of some embeddings to each of others, and its distance."""
    squared = squared_distances(e, anchors)
    return jnp.argmin(squared, axis=1), jnp.sqrt(jnp.maximum(jnp.min(squared, axis=1), 0.0))
