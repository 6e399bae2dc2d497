"""Heads that were trained with a backbone: kept in a file, and put behind it."""

import os
from dataclasses import dataclass, replace
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ..backbones import Backbone
from ..files import write_bytes
from ..objectives import Objective

FORMAT, SCHEMA = "fewshotjax head", "1"


def save_head(path: str | os.PathLike[str], head: Any) -> None:
    """Writes an objective's parameters, a tree of dictionaries; tensors have their paths as names.

    Raises:
        ValueError: NaN or infinite numbers.
    """
    tensors = {
        "/".join(place): np.asarray(leaf, order="C")
        for place, leaf in flax.traverse_util.flatten_dict(jax.device_get(head)).items()
    }
    wrong = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if wrong:
        raise ValueError(f"head holds numbers that are not finite in {', '.join(wrong)}: train it again")
    write_bytes(path, safetensors.numpy.save(tensors, {"format": FORMAT, "schema": SCHEMA}))


def load_head(path: str | os.PathLike[str], objective: Objective, width: int, classes: int) -> Any:
    """What `save_head` wrote of this objective, for features of `width` and so many classes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or tensors that are missing, unexpected, of another shape or not finite.
    """
    try:
        with safetensors.safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except safetensors.SafetensorError:
        raise ValueError(
            f"{path}: is no .safetensors file, or damaged: give one that save_head wrote"
        ) from None
    if metadata.get("format") != FORMAT or metadata.get("schema") != SCHEMA:
        raise ValueError(f"{path}: is not a head's file of this version: give one that save_head wrote")
    like = jax.eval_shape(lambda key: objective.init(key, width, classes), jax.random.key(0))
    wanted = {"/".join(place): leaf for place, leaf in flax.traverse_util.flatten_dict(like).items()}
    for what, names in (
        ("misses", wanted.keys() - tensors.keys()),
        ("also has", tensors.keys() - wanted.keys()),
    ):
        if names:
            raise ValueError(f"{path}: {what} {', '.join(sorted(names))}: it is of another objective")
    for name, leaf in wanted.items():
        found = tensors[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype or not np.isfinite(found).all():
            raise ValueError(
                f"{path}: {name} is {found.dtype} of shape {found.shape}, perhaps not finite, where the "
                f"objective has {leaf.dtype} of {leaf.shape}: give the width and classes it was trained with"
            )
    tree = {tuple(name.split("/")): jnp.asarray(array) for name, array in tensors.items()}
    return flax.traverse_util.unflatten_dict(tree)


def with_head(backbone: Backbone, objective: Objective, head: Any) -> Backbone:
    """A backbone whose features are the objective's embeddings, for episodes and `fit`.

    Keep the two parts in their own files: `save_backbone` and `save_head`.
    """
    apply = _Embedded(backbone.apply, objective)
    variables = {**backbone.variables, "head": head}
    sample = jnp.zeros((1, backbone.width))
    width = jax.eval_shape(objective.embed, head, sample).shape[1]
    return replace(backbone, name=f"{backbone.name} with head", apply=apply, variables=variables, width=width)


@dataclass(frozen=True)
class _Embedded:
    """Compared by its parts, so that equal ones compile once."""

    apply: Any
    objective: Objective

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        inner = {name: tree for name, tree in variables.items() if name != "head"}
        return self.objective.embed(variables["head"], self.apply(inner, images))
