"""Any model as a `Network`: Flax linen and NNX, Equinox, or a plain function. Nothing in it is rewritten.

The libraries differ in where parameters live and in what a call takes; the tracer reads the function that
comes out, so this file is all that it has to know of them.
"""

import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from .networks.network import Network
from .preprocess import Preprocess

Apply = Callable[[Any, Any], Any]


def quantizable(
    model: Any,
    params: Any = None,
    *,
    name: str | None = None,
    preprocess: Preprocess | None = None,
    weights_source: str = "given as arrays",
) -> Network:
    """A model and its parameters as `quantize` takes them.

    Args:
        model: a Flax linen module (set up for inference: `train=False`, running averages), with `params` the
            variables that `init` or training gave; an NNX module, which holds its parameters and is switched
            to `eval()` on a copy; an Equinox module for one sample, which holds its parameters too and is
            vmapped, in inference mode (one that carries state is wrapped by the user into a function); or any
            function of (params, inputs), with `params` a pytree of arrays.
        params: for linen modules and functions alone.
        name: in files and reports; default: the model's own.
        preprocess: how pictures become inputs, for what reads pictures.
        weights_source: where the weights come from, for files and reports.

    Returns:
        A network whose `apply(params, inputs)` takes inputs with a leading axis of samples: an array, or a
        pytree of arrays. It must give one array, the logits (N, classes) for tasks.

    Raises:
        ValueError: params are missing, superfluous or no arrays, or the model is none of these.
    """
    own = name or getattr(model, "__name__", None) or type(model).__name__
    apply, arrays, holds = _split(model, params)
    if holds and params is not None:
        raise ValueError(f"{own} holds its parameters itself: leave params out")
    for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, no array: give arrays alone"
            )
    return Network(own, apply, arrays, preprocess or Preprocess(), weights_source)


def _split(model: Any, params: Any) -> tuple[Apply, Any, bool]:
    """The function, its parameters, and whether the model held them."""
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")  # loaded, if the model is theirs
    if nnx is not None and isinstance(model, nnx.Module):
        copy = nnx.clone(model)
        copy.eval()
        graph, state = nnx.split(copy)
        return lambda state, inputs: nnx.merge(graph, state)(inputs), state, True
    if equinox is not None and isinstance(model, equinox.Module):
        arrays, rest = equinox.partition(equinox.nn.inference_mode(model), equinox.is_array)
        return lambda arrays, x: jax.vmap(equinox.combine(arrays, rest))(x), arrays, True
    if not callable(model) and not isinstance(model, nn.Module):
        raise ValueError(
            f"model is a {type(model).__name__}: give a module or a function of (params, inputs)"
        )
    if params is None:
        raise ValueError(f"{type(model).__name__} needs its params: quantizable(model, params)")
    return model.apply if isinstance(model, nn.Module) else model, params, False
