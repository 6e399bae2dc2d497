"""A classifier of a user's own classes, from a few examples of each: RepMet's head on frozen features."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .backbones import Backbone, features as features_of
from .classifier_calibration import SIGMA, choose_sigma, choose_threshold, leave_one_out
from .classifier_checks import NAMED, check_classes, checked_features, warn_of_copies
from .classifier_fingerprint import fingerprint, image_digests
from .classifier_method import MODES, Modes, calibrated, resolved
from .data import LabelledFeatures, LabelledImages, folder
from .distances import l2_normalize
from .methods import Method
from .representatives import Representatives

BATCH = 32  # images at once: 17 examples or more are then compiled for once, with the queries


@dataclass(frozen=True, eq=False)
class Classifier:
    """What `fit` made of S examples of N classes; `predict` uses it, `save_classifier` writes it."""

    classes: tuple[str, ...]  # N names
    support: np.ndarray  # (S, F) float32 features, as the backbone gives them
    labels: np.ndarray  # (S,) int32
    files: tuple[str, ...]  # S names of the examples
    method: Method
    method_name: str | None  # None: a function of the user's, which no file can bring back
    model: Any  # what `method.fit` gave; `Modes` of the default method
    sigma: float | None  # of the default method, else None
    threshold: float | None  # distance from the nearest example above which a query is none of the classes
    notes: tuple[str, ...]  # what was assumed, for people
    backbone: Backbone | None  # None: of features
    made_with: Mapping[str, Any] | None  # `fingerprint` of the backbone
    digests: tuple[str, ...] = ()  # SHA-256 of the images, to find them among queries
    key_data: tuple[int, ...] = ()  # of the key that `method.fit` was given

    @property
    def representatives(self) -> Representatives | None:
        """Of the default method, (N, K, F) of unit length."""
        return self.model.found if isinstance(self.model, Modes) else None

    def __repr__(self) -> str:
        name = self.made_with["name"] if self.made_with else "features"
        how = self.method_name or "a method of yours"
        return f"Classifier({len(self.classes)} classes, {len(self.labels)} examples, {how} on {name})"


def fit(
    backbone: Backbone,
    support: LabelledImages | str | os.PathLike[str],
    *,
    method: Method | str | None = None,
    modes: int | None = None,
    sigma: float | None = None,
    reject: float | str | None = "auto",
    key: PRNGKeyArray | None = None,
    batch: int = BATCH,
    on_chunk: Callable[[Any], Any] | None = None,
) -> Classifier:
    """A classifier from labelled images; nothing is trained but what the method fits to their features.

    The default is RepMet (Karlinsky et al. 2019) on features of unit length: the examples of a class are
    its modes, or k-means centres of more than `modes` of them, and the posterior is the mixture's.

    Args:
        support: images of the size that the backbone takes, or a folder, zip or tar file with one subfolder
            per class, which is read at that size.
        method: a name of `METHODS`, or any `Method`; its own posterior is then the confidence. None or
            "repmet": the default.
        modes: of a class at most, of the default method. None: 5, as in the authors' detector.
        sigma: of the Gaussian around a mode, of the default method. None: what says most of each example
            when it is left out (see classifier_calibration.py), or 0.5 where each class has but one.
        reject: distance, between features of unit length (0-2), from the nearest example above which a query
            is "none of these". "auto": 95 % of the examples have another one that near. None:
            nothing is rejected, as with "auto" where each class has one example; `notes` tells.
        key: of k-means; None: `jax.random.key(0)`.
        batch, on_chunk: of `features`.

    Raises:
        ValueError: fewer than two classes, a class without images, images of another size or number of
            channels, features that are not finite, settings out of range.

    Warns:
        UserWarning: the same image twice in the support.
    """
    if not isinstance(support, LabelledImages):
        support = folder(support, backbone.preprocess.pixels, backbone.preprocess.channels)
    check_classes(support.labels, support.classes)
    found = features_of(backbone, support, batch=batch, on_chunk=on_chunk)
    warn_of_copies(support)
    return _fitted(
        LabelledFeatures(found, support.labels, support.classes),
        support.files,
        method,
        modes,
        sigma,
        reject,
        key,
        backbone,
        image_digests(support.images),
    )


def fit_features(
    features: LabelledFeatures | np.ndarray | jax.Array,
    labels: Sequence[int] | np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    *,
    files: Sequence[str] = (),
    method: Method | str | None = None,
    modes: int | None = None,
    sigma: float | None = None,
    reject: float | str | None = "auto",
    key: PRNGKeyArray | None = None,
) -> Classifier:
    """`fit` on features that are there already; `predict_features` then takes such.

    Args:
        features: `LabelledFeatures` (of `feature_table`, say), or an array (S, F) with `labels`.
        labels: S indices into `classes`.
        classes: names; None: the numbers from 0 to the largest label.
        files: S names of the examples, for the results.

    Raises:
        ValueError: as `fit`; arrays that do not fit each other, labels outside the classes.
    """
    if isinstance(features, LabelledFeatures):
        if labels is not None or classes is not None:
            raise ValueError("labels and classes are in the LabelledFeatures already: leave them out")
        features, labels, classes = features
    if labels is None:
        raise ValueError("labels is None: give one for each row of features")
    of_class, rows = np.asarray(labels), checked_features(features, tuple(files))
    if of_class.shape != (len(rows),) or of_class.dtype.kind not in "iu":
        shape = f"{of_class.dtype} of shape {of_class.shape}"
        raise ValueError(f"labels are {shape}: give {len(rows)} whole numbers, one for each row of features")
    if len(of_class) and of_class.min() < 0:
        raise ValueError(f"labels must be class indices from 0, got {of_class.min()}")
    names = tuple(map(str, range(int(of_class.max(initial=-1)) + 1))) if classes is None else tuple(classes)
    if len(set(names)) != len(names):
        raise ValueError("classes has a name twice: rename one, or merge them")
    check_classes(of_class, names)
    if files and len(files) != len(rows):
        raise ValueError(f"files are {len(files)}, features {len(rows)}: give one each or none")
    data = LabelledFeatures(rows, of_class.astype(np.int32), names)
    return _fitted(data, tuple(files), method, modes, sigma, reject, key, None, ())


def _fitted(
    data: LabelledFeatures,
    files: tuple[str, ...],
    method: Method | str | None,
    modes: int | None,
    sigma: float | None,
    reject: float | str | None,
    key: PRNGKeyArray | None,
    backbone: Backbone | None,
    digests: tuple[str, ...],
) -> Classifier:
    chosen, name = resolved(method)
    if chosen is not None and (modes is not None or sigma is not None):
        raise ValueError("modes and sigma are of method 'repmet': leave them out, or give the method its own")
    most = MODES if modes is None else modes
    if most < 1:
        raise ValueError(f"modes must be at least 1, got {modes}")
    if sigma is not None and not 0 < sigma < np.inf:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if isinstance(reject, str) and reject != "auto":
        raise ValueError(f"reject must be 'auto', a distance or None, got {reject!r}")
    if reject is not None and reject != "auto" and not 0 < float(reject) <= 2:
        raise ValueError(
            f"reject must be a distance of 0-2, above 0, or None to reject nothing, got {reject}"
        )
    ways, notes = len(data.classes), []
    unit = np.asarray(l2_normalize(jnp.asarray(data.features)))
    seen = leave_one_out(unit, data.labels)
    if chosen is None:
        if sigma is None:
            sigma = choose_sigma(seen, ways)
        if sigma is None:
            sigma = SIGMA
            notes.append(
                f"each class has one example, which cannot tell how sure to be: sigma is {SIGMA}, and "
                "confidences are no more than an order"
            )
        chosen = calibrated(most, float(sigma))
    threshold = choose_threshold(seen) if reject == "auto" else None if reject is None else float(reject)
    if reject == "auto" and threshold is None:
        notes.append(
            "each class has one example, so that nothing tells how far is too far: nothing is rejected as "
            "none of these"
        )
    single = [data.classes[i] for i in np.flatnonzero(np.bincount(data.labels, minlength=ways) == 1)]
    if len(seen.own) and single:
        more = ", ..." if len(single) > NAMED else ""
        notes.append(f"classes of one example told nothing of distances: {', '.join(single[:NAMED])}{more}")
    key = jax.random.key(0) if key is None else key
    model = chosen.fit(key, jnp.asarray(data.features), data.labels, ways)
    names = files or tuple(f"example {row}" for row in range(len(data.labels)))
    return Classifier(
        data.classes,
        data.features,
        data.labels,
        names,
        chosen,
        name,
        model,
        None if sigma is None else float(sigma),
        threshold,
        tuple(notes),
        backbone,
        None if backbone is None else fingerprint(backbone),
        digests,
        tuple(np.asarray(jax.random.key_data(key)).tolist()),
    )
