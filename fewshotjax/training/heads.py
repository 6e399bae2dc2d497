"""Heads that were trained with a backbone: kept in a file, and put behind it."""

import os
from dataclasses import dataclass, replace
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from ..backbones import Backbone
from ..objectives import Objective
from ..tensor_files import TensorFile, check_finite, check_tensors

FILE = TensorFile("head", "save_head")


def save_head(path: str | os.PathLike[str], head: Any) -> None:
    """Writes an objective's parameters, a tree of dictionaries; tensors have their paths as names.

    Raises:
        ValueError: NaN or infinite numbers.
    """
    tensors = flax.traverse_util.flatten_dict(jax.device_get(head), sep="/")
    check_finite(path, tensors)
    FILE.write(path, tensors)


def load_head(path: str | os.PathLike[str], objective: Objective, width: int, classes: int) -> Any:
    """What `save_head` wrote of this objective, for features of `width` and so many classes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or tensors that are missing, unexpected, of another shape or not finite.
    """
    _, tensors = FILE.read(path)
    like = jax.eval_shape(lambda key: objective.init(key, width, classes), jax.random.key(0))
    wanted = flax.traverse_util.flatten_dict(like, sep="/")
    check_tensors(path, tensors, wanted, f"this objective of {width} features and {classes} classes")
    return flax.traverse_util.unflatten_dict({k: jnp.asarray(v) for k, v in tensors.items()}, sep="/")


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
