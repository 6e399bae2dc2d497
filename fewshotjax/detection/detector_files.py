"""A detector in one .safetensors file: its weights, and in the metadata all that is needed to build it."""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ..backbones import Preprocess
from ..files import digest_of
from ..repmet_model import RepMetConfig
from ..tensor_files import TensorFile, check_finite, check_tensors
from .anchors import AnchorConfig
from .config import DetectorConfig
from .detector import Detector, checked_net, draw_params
from .pyramid_plugins import plugin_pyramid
from .pyramids import PYRAMIDS, Pyramid, rebuilt

FILE = TensorFile("detector", "save_detector")


def save_detector(path: str | os.PathLike[str], detector: Detector) -> None:
    """Writes a detector; tensors have their paths as names, "fpn/lateral_0/kernel".

    A frozen pyramid of a plugin is written as its name and a checksum of its weights, without them.

    Raises:
        ValueError: a pyramid that is neither of `PYRAMIDS` nor of a plugin, so that no file could bring it
            back; weights that are no float32, NaN or infinite.
        OSError: the file cannot be written.
    """
    net, plugin = detector.net, detector.options.get("plugin")
    if plugin is None and detector.name not in PYRAMIDS:
        raise ValueError(
            f"{detector.name!r} is none of {', '.join(sorted(PYRAMIDS))}, and no plugin: bring it by an "
            "entry point of fewshotjax.pyramids, or save the detector's params yourself"
        )
    params = dict(detector.params)
    told: dict[str, Any] = {
        "name": detector.name,
        "options": dict(detector.options),
        "preprocess": asdict(net.preprocess),
        "frozen": net.frozen,
        "config": asdict(net.config),
        "classes": list(detector.classes),
    }
    if plugin is not None and net.frozen:
        told["digest"] = digest_of(jax.tree.leaves(params.pop("pyramid")))
    tensors = _flat(jax.device_get(params))
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise ValueError(f"tensor {name!r} is {array.dtype}: a detector is saved as float32")
    check_finite(path, tensors)
    FILE.write(path, tensors, told)


def load_detector(path: str | os.PathLike[str]) -> Detector:
    """The detector that `save_detector` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, of another version, of a network that is not in `PYRAMIDS` or of
            a plugin that is not installed or has other weights; tensors are missing, unexpected, of another
            shape or type, or hold NaN.
    """
    told, tensors = FILE.read(path)
    with FILE.understood(path):
        classes = tuple(map(str, told["classes"]))
        config, pyramid = _config(told["config"]), _pyramid(told)
        net = checked_net(pyramid, config, classes)
        key = jax.random.key(0)
        wanted = jax.eval_shape(lambda: draw_params(key, config, pyramid.widths, len(classes)))
        wanted["pyramid"] = pyramid.variables
    stored = "digest" not in told
    if not stored:
        wanted.pop("pyramid")
        if digest_of(jax.tree.leaves(pyramid.variables)) != told["digest"]:
            raise ValueError(
                f"{path}: was trained on other weights of plugin {pyramid.options['plugin']}: install the "
                "version that it was trained with"
            )
    check_tensors(path, tensors, _flat(wanted), "its config")
    arrays = {name: jnp.asarray(array) for name, array in tensors.items()}
    params = flax.traverse_util.unflatten_dict(arrays, sep="/")
    if not stored:
        params["pyramid"] = pyramid.variables
    return Detector(net, params, classes, pyramid.name, dict(pyramid.options))


def _config(told: Mapping[str, Any]) -> DetectorConfig:
    fields: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in told.items()}
    for name, kind in (("anchors", AnchorConfig), ("head", RepMetConfig)):
        inner: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in fields[name].items()}
        fields[name] = kind(**inner)
    return DetectorConfig(**fields)


def _pyramid(told: Mapping[str, Any]) -> Pyramid:
    options, frozen = dict(told["options"]), bool(told["frozen"])
    fields: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in told["preprocess"].items()}
    preprocess = Preprocess(**fields)  # not the plugin's own: it has the size that was trained on
    if "plugin" in options:
        return replace(plugin_pyramid(options["plugin"], frozen=frozen), preprocess=preprocess)
    return replace(rebuilt(told["name"], options, preprocess), frozen=frozen)


def _flat(params: Any) -> dict[str, Any]:
    found = flax.traverse_util.flatten_dict(params, sep="/")
    if not all(hasattr(leaf, "dtype") for leaf in found.values()):
        raise ValueError("params must be nested dicts of arrays to be saved by name")
    return found
