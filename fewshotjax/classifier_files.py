"""A classifier in one .safetensors file: examples, modes and settings, but not the backbone."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .backbones import Backbone
from .classifier import Classifier
from .classifier_checks import check_classes
from .classifier_fingerprint import check_fingerprint
from .classifier_method import Modes, calibrated, resolved
from .representatives import Representatives
from .tensor_files import TensorFile

FILE = TensorFile("classifier", "save_classifier")
_TEXT = ("classes", "files", "notes", "digests")  # tuples of names


def save_classifier(path: str | os.PathLike[str], classifier: Classifier) -> None:
    """Writes the classifier; of the backbone only its name and fingerprint, which `load_classifier` checks.

    Raises:
        ValueError: a method that is a function of the user's, which no file can bring back.
        OSError: the file cannot be written.
    """
    if classifier.method_name is None:
        raise ValueError(
            "the classifier's method has no name: register it and fit with method='its name', or save its "
            "support and fit anew"
        )
    told: dict[str, Any] = {name: list(getattr(classifier, name)) for name in _TEXT}
    told |= {name: getattr(classifier, name) for name in ("method_name", "sigma", "threshold", "key_data")}
    told["made_with"] = None if classifier.made_with is None else dict(classifier.made_with)
    tensors = {"support": classifier.support, "labels": classifier.labels}
    if isinstance(classifier.model, Modes):
        modes, mask = map(np.asarray, classifier.model.found)
        tensors |= {"modes": modes, "mode_mask": mask}
    FILE.write(path, tensors, told)


def load_classifier(path: str | os.PathLike[str], backbone: Backbone | None = None) -> Classifier:
    """The classifier that `save_classifier` wrote.

    Args:
        backbone: what it was made with. None: give it to `predict`; of features there is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged or of another version; another backbone than it was made with; a
            method that is not registered.
    """
    told, tensors = FILE.read(path)
    with FILE.understood(path):
        found = _rebuilt(told, tensors)
    if backbone is None:
        return found
    if found.made_with is None:
        raise ValueError(f"{path}: was made of features alone: leave backbone out")
    with FILE.understood(path):
        check_fingerprint(found.made_with, backbone)
    return dataclasses.replace(found, backbone=backbone)


def _rebuilt(told: dict[str, Any], tensors: dict[str, np.ndarray]) -> Classifier:
    texts = {name: tuple(told[name]) for name in _TEXT}
    support, labels = tensors["support"], tensors["labels"]
    _check(support.ndim == 2 and support.dtype == np.float32 and np.isfinite(support).all(), "support")
    fits = labels.shape == support.shape[:1] and labels.dtype == np.int32 and labels.min(initial=0) >= 0
    _check(fits, "labels")
    check_classes(labels, texts["classes"])
    _check(len(texts["files"]) == len(labels), "files")
    _check(len(texts["digests"]) in (0, len(labels)), "digests")
    _check(all(isinstance(entry, str) for name in _TEXT for entry in texts[name]), "a list of names")
    for name in ("sigma", "threshold"):
        _check(told[name] is None or 0 < float(told[name]) < np.inf, name)
    made_with = told["made_with"]
    _check(made_with is None or {"name", "weights"} <= made_with.keys(), "made_with")
    key_data = tuple(told["key_data"])
    _check(len(key_data) == 2 and all(isinstance(n, int) and 0 <= n < 2**32 for n in key_data), "key_data")
    name = str(told["method_name"])
    method, _ = resolved(name)
    if method is None:
        modes, mask = tensors["modes"], tensors["mode_mask"]
        shape = len(texts["classes"]), modes.shape[1], support.shape[1]
        _check(modes.shape == shape and modes.dtype == np.float32 and np.isfinite(modes).all(), "modes")
        _check(mask.shape == shape[:2] and mask.dtype == bool and mask.any(axis=1).all(), "mode_mask")
        sigma = float(told["sigma"])
        method = calibrated(modes.shape[1], sigma)
        found = Representatives(jnp.asarray(modes), jnp.asarray(mask))
        model: Any = Modes(found, jnp.log(jnp.asarray(sigma, jnp.float32)))
    else:
        model = method.fit(
            jax.random.wrap_key_data(jnp.asarray(key_data, jnp.uint32)),
            jnp.asarray(support),
            labels,
            len(texts["classes"]),
        )
    return Classifier(
        support=support,
        labels=labels,
        method=method,
        method_name=name,
        model=model,
        sigma=told["sigma"],
        threshold=told["threshold"],
        backbone=None,
        made_with=made_with,
        key_data=key_data,
        **texts,
    )


def _check(right: Any, what: str) -> None:
    if not right:
        raise ValueError(f"its {what} do not fit the rest: save it again")
