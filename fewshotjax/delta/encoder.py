"""A trained Delta-encoder with the codes of its seen pairs, and its .safetensors file."""

import dataclasses
import os
from functools import partial
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ..tensor_files import Like, TensorFile, check_finite, check_tensors
from .config import DeltaConfig
from .model import encode, init_delta
from .scaling import Scaling

FILE = TensorFile("delta", "save_delta")
BLOCK = 512  # rows whose hidden units are alive at once


@struct.dataclass
class DeltaEncoder:
    """A pytree: an argument of jitted functions, or its weights become constants of the program."""

    config: DeltaConfig = struct.field(pytree_node=False)
    params: Any  # see `init_delta`
    bank: Any  # (M, code) float32, z of the seen pairs
    width: int = struct.field(pytree_node=False)  # D, of the features
    scaling: Scaling  # what features go through before the networks see them
    bank_labels: Any = None  # (M,) int32, the class of each pair as it was given; None: not told


def code_bank(
    params: Any,
    config: DeltaConfig,
    features: Float[Array | np.ndarray, "N D"],
    references: Int[Array | np.ndarray, " N"],
    *,
    chunk: int = BLOCK,
) -> Float[Array, "N code"]:
    """z = E(x, reference of x) of each sample, dropout off; features scaled as in training.

    Departs from the authors' code, which pairs samples anew for each seed and encodes what it draws: a bank
    is encoded once, so that a sample has one reference in all synthesis.

    Args:
        chunk: rows at once; bounds the memory, not the result.

    Raises:
        ValueError: `chunk` below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    return _bank(params, config, jnp.asarray(features), jnp.asarray(references), min(chunk, len(features)))


@partial(jax.jit, static_argnums=(1, 4))
def _bank(
    params: Any,
    config: DeltaConfig,
    features: Float[Array, "N D"],
    references: Int[Array, " N"],
    chunk: int,
) -> Float[Array, "N code"]:
    count = len(features)
    rows = jnp.arange(-(-count // chunk) * chunk).reshape(-1, chunk) % count

    def block(own: Int[Array, " chunk"]) -> Float[Array, "chunk code"]:
        return encode(params, config, features[own], features[references[own]])

    return jax.lax.map(block, rows).reshape(-1, config.code)[:count]


def save_delta(path: str | os.PathLike[str], delta: DeltaEncoder) -> None:
    """Writes weights, bank and scaling; tensors have their paths as names, "params/encoder/layer_0/kernel".

    Raises:
        ValueError: weights or codes that are NaN or infinite.
        OSError: the file cannot be written.
    """
    tensors = flax.traverse_util.flatten_dict({"params": jax.device_get(delta.params)}, sep="/")
    tensors |= {"bank": delta.bank, "scaling/mean": delta.scaling.mean, "scaling/std": delta.scaling.std}
    if delta.bank_labels is not None:
        tensors["bank_labels"] = delta.bank_labels
    check_finite(path, tensors)
    told = {
        "config": dataclasses.asdict(delta.config),
        "width": delta.width,
        "scaling": delta.scaling.kind,
    }
    FILE.write(path, tensors, told)


def load_delta(path: str | os.PathLike[str]) -> DeltaEncoder:
    """The Delta-encoder that `save_delta` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged or of another version; settings that no config has; tensors that
            are missing, unexpected, of another shape or type, or hold NaN.
    """
    told, tensors = FILE.read(path)
    with FILE.understood(path):
        config, width, kind = DeltaConfig(**told["config"]), int(told["width"]), str(told["scaling"])
        like = jax.eval_shape(lambda key: init_delta(key, config, width), jax.random.key(0))
    _check(kind == config.scaling, path, f"is scaled by {kind!r}, its config says {config.scaling!r}")
    wanted = flax.traverse_util.flatten_dict({"params": like}, sep="/")
    wanted |= {name: Like((width,), np.float32) for name in ("scaling/mean", "scaling/std")}
    wanted["bank"] = Like((None, config.code), np.float32)
    if "bank_labels" in tensors:
        pairs = len(tensors["bank"]) if np.ndim(tensors.get("bank", 0)) else None
        wanted["bank_labels"] = Like((pairs,), np.int32)
    check_tensors(path, tensors, wanted, "its config")
    _check(len(tensors["bank"]) > 0, path, "its bank is empty: train anew")
    _check((tensors["scaling/std"] > 0).all(), path, "tensor 'scaling/std' must be above 0: train anew")
    weights = {name: jnp.asarray(array) for name, array in tensors.items() if name.startswith("params/")}
    return DeltaEncoder(
        config=config,
        params=flax.traverse_util.unflatten_dict(weights, sep="/")["params"],
        bank=jnp.asarray(tensors["bank"]),
        width=width,
        scaling=Scaling(jnp.asarray(tensors["scaling/mean"]), jnp.asarray(tensors["scaling/std"]), kind),
        bank_labels=jnp.asarray(tensors["bank_labels"]) if "bank_labels" in tensors else None,
    )


def _check(right: Any, path: str | os.PathLike[str], message: str) -> None:
    if not right:
        raise ValueError(f"{path}: {message}")
