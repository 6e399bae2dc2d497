"""What a classifier says of new images: class, confidence, nearest example, "none of these"."""

import csv
import io
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .backbones import Backbone, features as features_of
from .classifier import BATCH, Classifier
from .classifier_checks import NAMED, checked_features
from .classifier_fingerprint import check_fingerprint, image_digests
from .data import LabelledImages, Pictures, pictures
from .distances import l2_normalize, squared_distances
from .files import write_bytes

SCHEMA = "frugaljax.fewshot.predictions/1"
NONE = "none of these"
CHUNK = 256  # queries judged at once: one compilation whatever their number
COLUMNS = ("file", "label", "confidence", "likeliest", "nearest", "distance")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of N queries among C classes."""

    classes: tuple[str, ...]  # C names
    files: tuple[str, ...]  # N names of the queries
    log_probabilities: np.ndarray  # (N, C) float32: the posterior of the classifier's method
    nearest: np.ndarray  # (N,) int32: row of the nearest example of the support, of whatever class
    nearest_files: tuple[str, ...]  # N names of those
    distance: np.ndarray  # (N,) float32 to them, between features of unit length: 0-2
    threshold: float | None  # distance above which a query is none of the classes; None: never
    features: np.ndarray  # (N, F) float32

    @property
    def outsider(self) -> Float[np.ndarray, " N"]:
        """How little each belongs to the classes, for a ROC curve: its distance from the nearest example."""
        return self.distance

    @cached_property
    def likeliest(self) -> Int[np.ndarray, " N"]:
        """The likeliest class, whether rejected or not."""
        return np.argmax(self.log_probabilities, axis=1)

    @cached_property
    def labels(self) -> Int[np.ndarray, " N"]:
        """The class; -1: none of these."""
        rejected = np.zeros(len(self.files), bool)
        if self.threshold is not None:
            rejected = self.distance > self.threshold
        return np.where(rejected, -1, self.likeliest)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each query's class, or "none of these"."""
        return tuple(self.classes[label] if label >= 0 else NONE for label in self.labels)

    @property
    def confidence(self) -> Float[np.ndarray, " N"]:
        """Probability of the likeliest class, given that it is one of the classes."""
        return np.exp(self.log_probabilities.max(axis=1))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary of `COLUMNS` for each query."""
        cells = zip(
            self.files,
            self.names,
            self.confidence.tolist(),
            [self.classes[i] for i in self.likeliest],
            self.nearest_files,
            self.distance.tolist(),
            strict=True,
        )
        return [dict(zip(COLUMNS, row, strict=True)) for row in cells]

    def table(self, limit: int | None = None) -> str:
        """File, label, confidence, nearest example and its distance, of the first `limit` queries."""
        lines = [("file", "label", "confidence", "nearest example", "distance")]
        for row in self.rows()[:limit]:
            sure = "" if row["label"] == NONE else f"{row['confidence']:.1%}"
            lines.append((row["file"], row["label"], sure, row["nearest"], f"{row['distance']:.3f}"))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        hidden = len(self.files) + 1 - len(lines)
        return "\n".join([*text, f"... and {hidden} more"] if hidden else text)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes `rows` with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.rows():
            rounded = {name: f"{row[name]:.6g}" for name in ("confidence", "distance")}
            writer.writerow({**row, **rounded})
        write_bytes(Path(path), text.getvalue().encode())

    def as_dict(self) -> dict[str, Any]:
        """Rows and settings, as JSON values."""
        settings = {"classes": list(self.classes), "threshold": self.threshold}
        return {"schema": SCHEMA, **settings, "queries": self.rows()}


def predict(
    classifier: Classifier,
    queries: LabelledImages | Pictures | np.ndarray | str | os.PathLike[str],
    *,
    backbone: Backbone | None = None,
    batch: int = BATCH,
    on_chunk: Callable[[Any], Any] | None = None,
) -> Predictions:
    """Class, confidence and nearest example of each image.

    Args:
        queries: a picture file, a folder or archive of pictures (read at the backbone's size), images of
            that size with or without labels, or an array (N, H, W, C) or (H, W, C) of uint8.
        backbone: None: the one that the classifier has.
        batch, on_chunk: of `features`.

    Raises:
        ValueError: a classifier without backbone, or another backbone than it was made with; no images, or
            images of another size or number of channels; features or probabilities that are not finite.

    Warns:
        UserWarning: an image that is byte for byte one of the support's, where it is no test.
    """
    if backbone is not None and classifier.made_with is not None:
        check_fingerprint(classifier.made_with, backbone)
    backbone = classifier.backbone if backbone is None else backbone
    if classifier.made_with is None or backbone is None:
        raise ValueError(
            "the classifier was made of features alone: give features to predict_features"
            if classifier.made_with is None
            else f"the classifier has no backbone: give backbone=, the {classifier.made_with['name']} it was "
            "made with"
        )
    if isinstance(queries, str | os.PathLike):
        queries = pictures(queries, backbone.preprocess.pixels, backbone.preprocess.channels)
    images = np.asarray(getattr(queries, "images", queries))
    images = images[None] if images.ndim == 3 else images
    given = tuple(getattr(queries, "files", ()))
    files = given or tuple(f"image {row}" for row in range(len(images)))
    backbone.preprocess.check(images)
    _warn_of_known(classifier, images, files)
    found = features_of(backbone, Pictures(images, files), batch=batch, on_chunk=on_chunk)
    return predict_features(classifier, found, files=files)


def predict_features(
    classifier: Classifier, features: np.ndarray, *, files: Sequence[str] = ()
) -> Predictions:
    """`predict` on features (N, F) of the kind that the classifier was made of.

    Raises:
        ValueError: none, features of another width, not finite, or that the method has no answer to (NaN).
    """
    rows = checked_features(features, files)
    width, names = classifier.support.shape[1], tuple(files)
    if not len(rows) or rows.shape[1] != width:
        raise ValueError(f"features are {rows.shape}: give (N, {width}) with one row at least")
    if names and len(names) != len(rows):
        raise ValueError(f"files are {len(names)}, features {len(rows)}: give one each or none")
    names = names or tuple(f"query {row}" for row in range(len(rows)))
    support = l2_normalize(jnp.asarray(classifier.support))
    parts = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        full = jnp.asarray(np.pad(part, ((0, CHUNK - len(part)), (0, 0))))
        judged = _judge(classifier.method.predict, classifier.model, support, full)
        parts.append([np.asarray(one)[: len(part)] for one in judged])
    log_p, nearest, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    failed = np.flatnonzero(np.isnan(log_p).any(axis=1))
    if len(failed):
        raise ValueError(f"the method gives NaN for {names[failed[0]]}: use another, such as repmet")
    known = tuple(classifier.files[i] for i in nearest.tolist())
    return Predictions(classifier.classes, names, log_p, nearest, known, distance, classifier.threshold, rows)


@partial(jax.jit, static_argnums=0)
def _judge(
    method: Callable[[Any, Array], Array],
    model: Any,
    support: Float[Array, "S F"],
    queries: Float[Array, "Q F"],
) -> tuple[Float[Array, "Q N"], Int[Array, " Q"], Float[Array, " Q"]]:
    """Log-probabilities, and the nearest example with its distance."""
    unit = l2_normalize(queries)
    nearest = jnp.argmin(squared_distances(unit, support), axis=1).astype(jnp.int32)
    log_p = jax.nn.log_softmax(method(model, queries), axis=1)  # some posteriors do not sum to 1
    return log_p, nearest, jnp.linalg.norm(unit - support[nearest], axis=1)


def _warn_of_known(classifier: Classifier, images: np.ndarray, files: Sequence[str]) -> None:
    known = dict(zip(classifier.digests, classifier.files, strict=True)) if classifier.digests else {}
    if not known:
        return
    pairs = [(f, known[d]) for f, d in zip(files, image_digests(images), strict=True) if d in known]
    if pairs:
        named = ", ".join(f"{query} = {example}" for query, example in pairs[:NAMED])
        more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
        warnings.warn(
            f"{len(pairs)} queries are images of the support, where they are no test: {named}{more}",
            UserWarning,
            stacklevel=3,
        )
