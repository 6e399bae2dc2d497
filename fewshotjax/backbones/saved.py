"""A backbone in one .safetensors file: its weights, and in the metadata all that is needed to build it."""

import json
import os
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ..files import write_bytes
from .backbone import Backbone
from .preprocess import Preprocess
from .registry import BACKBONES, assembled, build, shapes

FORMAT, SCHEMA = "fewshotjax backbone", 1


def save_backbone(path: str | os.PathLike[str], backbone: Backbone) -> None:
    """Writes a network of `BACKBONES`; tensors have their paths as names, "params/conv_0/kernel".

    Raises:
        ValueError: a backbone that is not of `BACKBONES`, so that no file could bring it back; weights that
            are NaN or infinite.
        OSError: the file cannot be written.
    """
    if backbone.name not in BACKBONES:
        raise ValueError(
            f"{backbone.name!r} is none of {', '.join(sorted(BACKBONES))}: save the variables of such a "
            "backbone yourself, or put its module into BACKBONES"
        )
    told = {
        "name": backbone.name,
        "options": dict(backbone.options),
        "preprocess": asdict(backbone.preprocess),
    }
    tensors = {
        "/".join(place): np.ascontiguousarray(leaf)
        for place, leaf in flax.traverse_util.flatten_dict(backbone.variables).items()
    }
    for name, array in tensors.items():
        _check_finite(path, name, array)
    metadata = {"format": FORMAT, "schema": str(SCHEMA), "backbone": json.dumps(told)}
    write_bytes(path, safetensors.numpy.save(tensors, metadata))


def load_backbone(path: str | os.PathLike[str]) -> Backbone:
    """The backbone that `save_backbone` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, of another version or of a network that is not in `BACKBONES`;
            tensors are missing, unexpected, of another shape or type, or hold NaN.
    """
    metadata, tensors = _read(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: is not a backbone's file: give one that save_backbone wrote")
    if metadata.get("schema") != str(SCHEMA):
        raise ValueError(
            f"{path}: has schema version {metadata.get('schema')}, this library reads {SCHEMA}: load it "
            "with the library that wrote it"
        )
    try:
        told = json.loads(metadata["backbone"])
        name, options = told["name"], dict(told["options"])
        fields: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in told["preprocess"].items()}
        preprocess = Preprocess(**fields)
        module = build(name, options)
        wanted = flax.traverse_util.flatten_dict(shapes(module, preprocess))
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, json.JSONDecodeError):
        raise ValueError(f"{path}: its metadata are damaged: save it again with save_backbone") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    wanted = {"/".join(place): leaf for place, leaf in wanted.items()}
    for label, names in (
        ("missing", wanted.keys() - tensors.keys()),
        ("unexpected", tensors.keys() - wanted.keys()),
    ):
        if names:
            raise ValueError(f"{path}: {len(names)} tensors are {label} for a {name}: {_listed(names)}")
    for place, leaf in wanted.items():
        array = tensors[place]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(
                f"{path}: tensor {place!r} is {array.dtype} of shape {array.shape}, a {name} with {options} "
                f"needs {leaf.dtype} of shape {leaf.shape}"
            )
        _check_finite(path, place, array)
    variables = {tuple(k.split("/")): jnp.asarray(v) for k, v in tensors.items()}
    return assembled(name, module, preprocess, flax.traverse_util.unflatten_dict(variables))


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata, and tensors of the types that NumPy has."""
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


def _check_finite(path: str | os.PathLike[str], name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: tensor {name!r} holds NaN or infinite values: train anew")


def _listed(names: Collection[str]) -> str:
    """The first five, for messages."""
    first = sorted(names)[:5]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")
