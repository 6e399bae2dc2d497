"""Weights of a network in a .safetensors file, under the names that its own parameters have."""

import json
import os
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nemojax.networks.network import Network
from nemojax.weights import listed, read_file, write_safetensors


def save_weights(path: str | os.PathLike[str], network: Network) -> None:
    """Writes the parameters of any network; `by_name` and the networks' own functions read the file back.

    Names are the paths inside `network.params`, "params/blocks_0/expand/kernel". A network of this package
    keeps its config beside them. For any other network, `load_weights` reads them back.

    Raises:
        ValueError: a parameter is no array of real numbers, or the file cannot be written.
    """
    tensors = {name: _plain(leaf) for name, leaf in _named(network.params).items()}
    metadata = {"network": network.name}
    if is_dataclass(network.config) and not isinstance(network.config, type):
        metadata["config"] = json.dumps(asdict(network.config))
    write_safetensors(path, tensors, metadata)


def load_weights(path: str | os.PathLike[str], network: Network) -> Network:
    """`network` with the parameters of a file that `save_weights` wrote of it, or of one alike.

    Raises:
        ValueError: the file cannot be read; tensors are missing or unexpected, of another shape, or hold NaN.
    """
    file, wanted = read_file(path), _named(network.params)
    for label, names in (
        ("missing", wanted.keys() - file.tensors.keys()),
        ("unexpected", file.tensors.keys() - wanted.keys()),
    ):
        if names:
            raise ValueError(
                f"{path}: {len(names)} tensors are {label}: {listed(names)}: save this network first"
            )
    for name, leaf in wanted.items():
        found = file.tensors[name]
        if found.shape != np.shape(leaf):
            raise ValueError(f"{path}: tensor {name!r} has shape {found.shape}, expected {np.shape(leaf)}")
        if not np.isfinite(found.astype(np.float64)).all():
            raise ValueError(f"{path}: tensor {name!r} holds NaN or infinite values: use other weights")
    leaves = [jnp.asarray(file.tensors[name].astype(jnp.result_type(leaf))) for name, leaf in wanted.items()]
    params = jax.tree.unflatten(jax.tree.structure(network.params), leaves)
    source = f"{Path(path).name} (SHA-256 {file.digest[:16]})"
    return replace(network, params=params, weights_source=source)


def _named(params: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _plain(leaf: Any) -> np.ndarray:
    """As NumPy; bfloat16, which NumPy does not have, in float32, which holds it exactly."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array
