"""A detector in one .safetensors file: its weights, and in the metadata all that is needed to build it."""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ..backbones import Preprocess
from ..files import digest_of, write_bytes
from ..repmet_model import RepMetConfig
from .anchors import AnchorConfig
from .config import DetectorConfig
from .detector import Detector, checked_net, draw_params
from .pyramid_plugins import plugin_pyramid
from .pyramids import PYRAMIDS, Pyramid, rebuilt

FORMAT, SCHEMA = "fewshotjax detector", 1


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
    tensors = {"/".join(place): np.ascontiguousarray(leaf) for place, leaf in _flat(params).items()}
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise ValueError(f"tensor {name!r} is {array.dtype}: a detector is saved as float32")
        _check_finite(path, name, array)
    metadata = {"format": FORMAT, "schema": str(SCHEMA), "detector": json.dumps(told)}
    write_bytes(path, safetensors.numpy.save(tensors, metadata))


def load_detector(path: str | os.PathLike[str]) -> Detector:
    """The detector that `save_detector` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, of another version, of a network that is not in `PYRAMIDS` or of
            a plugin that is not installed or has other weights; tensors are missing, unexpected, of another
            shape or type, or hold NaN.
    """
    metadata, tensors = _read(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: is not a detector's file: give one that save_detector wrote")
    if metadata.get("schema") != str(SCHEMA):
        raise ValueError(
            f"{path}: has schema version {metadata.get('schema')}, this library reads {SCHEMA}: load it "
            "with the library that wrote it"
        )
    try:
        told = json.loads(metadata["detector"])
        classes = tuple(map(str, told["classes"]))
        config, pyramid = _config(told["config"]), _pyramid(told)
        net = checked_net(pyramid, config, classes)
        key = jax.random.key(0)
        wanted = jax.eval_shape(lambda: draw_params(key, config, pyramid.widths, len(classes)))
        wanted["pyramid"] = pyramid.variables
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, json.JSONDecodeError):
        raise ValueError(f"{path}: its metadata are damaged: save it again with save_detector") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    stored = "digest" not in told
    if not stored:
        wanted.pop("pyramid")
        if digest_of(jax.tree.leaves(pyramid.variables)) != told["digest"]:
            raise ValueError(
                f"{path}: was trained on other weights of plugin {pyramid.options['plugin']}: install the "
                "version that it was trained with"
            )
    params = flax.traverse_util.unflatten_dict(_checked(path, tensors, _flat(wanted)))
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


def _checked(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], places: Mapping[tuple[str, ...], Any]
) -> dict[tuple[str, ...], Any]:
    wanted = {"/".join(place): leaf for place, leaf in places.items()}
    for label, names in (
        ("missing", wanted.keys() - tensors.keys()),
        ("unexpected", tensors.keys() - wanted.keys()),
    ):
        if names:
            raise ValueError(f"{path}: {len(names)} tensors are {label} for its config: {_listed(names)}")
    for name, leaf in wanted.items():
        array = tensors[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(
                f"{path}: tensor {name!r} is {array.dtype} of shape {array.shape}, its config needs "
                f"{leaf.dtype} of shape {leaf.shape}"
            )
        _check_finite(path, name, array)
    return {place: jnp.asarray(tensors["/".join(place)]) for place in places}


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata, and tensors of the one type that a detector has."""
    try:
        with safetensors.safe_open(path, "np") as file:
            names: list[Any] = list(file.keys())
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            if any(kind != "F32" for kind in kinds.values()):
                name, kind = next(item for item in kinds.items() if item[1] != "F32")
                raise ValueError(f"{path}: tensor {name!r} is of type {kind}: save it as F32")
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: is no .safetensors file, or damaged ({reason}): save it again") from None


def _flat(params: Any) -> dict[tuple[str, ...], Any]:
    found = flax.traverse_util.flatten_dict(params)
    if not all(hasattr(leaf, "dtype") for leaf in found.values()):
        raise ValueError("params must be nested dicts of arrays to be saved by name")
    return found


def _check_finite(path: str | os.PathLike[str], name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: tensor {name!r} holds NaN or infinite values: train anew")


def _listed(names: Collection[str]) -> str:
    """The first five, for messages."""
    first = sorted(names)[:5]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")
