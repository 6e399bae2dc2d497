"""A backbone in one .safetensors file: its weights, and in the metadata all that is needed to build it."""

import os
from dataclasses import asdict
from typing import Any

import flax.traverse_util
import jax.numpy as jnp

from ..tensor_files import TensorFile, check_finite, check_tensors
from .backbone import Backbone
from .preprocess import Preprocess
from .registry import BACKBONES, assembled, build, shapes

FILE = TensorFile("backbone", "save_backbone")


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
    tensors = flax.traverse_util.flatten_dict(backbone.variables, sep="/")
    check_finite(path, tensors)
    FILE.write(path, tensors, told)


def load_backbone(path: str | os.PathLike[str]) -> Backbone:
    """The backbone that `save_backbone` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, of another version or of a network that is not in `BACKBONES`;
            tensors are missing, unexpected, of another shape or type, or hold NaN.
    """
    told, tensors = FILE.read(path)
    with FILE.understood(path):
        name, options = told["name"], dict(told["options"])
        fields: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in told["preprocess"].items()}
        preprocess = Preprocess(**fields)
        module = build(name, options)
        wanted = shapes(module, preprocess)
    wanted = flax.traverse_util.flatten_dict(wanted, sep="/")
    check_tensors(path, tensors, wanted, f"a {name} with {options}")
    variables = flax.traverse_util.unflatten_dict({k: jnp.asarray(v) for k, v in tensors.items()}, sep="/")
    return assembled(name, module, preprocess, variables)
