"""A trained Delta-encoder with the codes of its seen pairs, and its .safetensors file."""

import dataclasses
import json
import os
from functools import partial
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import struct
from jaxtyping import Array, Float, Int

from ..files import write_bytes
from .config import DeltaConfig
from .model import encode, init_delta
from .scaling import Scaling

FORMAT, SCHEMA = "fewshotjax delta", 1
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
    tensors = {
        "/".join(("params", *place)): np.ascontiguousarray(leaf)
        for place, leaf in flax.traverse_util.flatten_dict(jax.device_get(delta.params)).items()
    }
    tensors |= {
        "bank": np.ascontiguousarray(delta.bank),
        "scaling/mean": np.ascontiguousarray(delta.scaling.mean),
        "scaling/std": np.ascontiguousarray(delta.scaling.std),
    }
    if delta.bank_labels is not None:
        tensors["bank_labels"] = np.ascontiguousarray(delta.bank_labels)
    for name, array in tensors.items():
        _check(np.isfinite(array).all(), path, f"tensor {name!r} holds NaN or infinite values: train anew")
    told = {
        "config": dataclasses.asdict(delta.config),
        "width": delta.width,
        "scaling": delta.scaling.kind,
    }
    metadata = {"format": FORMAT, "schema": str(SCHEMA), "delta": json.dumps(told)}
    write_bytes(path, safetensors.numpy.save(tensors, metadata))


def load_delta(path: str | os.PathLike[str]) -> DeltaEncoder:
    """The Delta-encoder that `save_delta` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged or of another version; settings that no config has; tensors that
            are missing, unexpected, of another shape or type, or hold NaN.
    """
    metadata, tensors = _read(path)
    _check(metadata.get("format") == FORMAT, path, "is no Delta-encoder's file: give one of save_delta")
    _check(
        metadata.get("schema") == str(SCHEMA),
        path,
        f"has schema version {metadata.get('schema')}, this library reads {SCHEMA}: load it with the library "
        "that wrote it",
    )
    try:
        told = json.loads(metadata["delta"])
        config, width, kind = DeltaConfig(**told["config"]), int(told["width"]), str(told["scaling"])
        like = jax.eval_shape(lambda key: init_delta(key, config, width), jax.random.key(0))
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError, json.JSONDecodeError):
        raise ValueError(f"{path}: its metadata are damaged: save it again with save_delta") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _check(kind == config.scaling, path, f"is scaled by {kind!r}, its config says {config.scaling!r}")
    shapes: dict[str, tuple[int | None, ...]] = {
        "/".join(("params", *place)): leaf.shape
        for place, leaf in flax.traverse_util.flatten_dict(like).items()
    }
    shapes |= {"bank": (None, config.code), "scaling/mean": (width,), "scaling/std": (width,)}
    if "bank_labels" in tensors:
        shapes["bank_labels"] = (len(tensors["bank"]) if "bank" in tensors else None,)
    for what, names in (
        ("misses", shapes.keys() - tensors.keys()),
        ("also has", tensors.keys() - shapes.keys()),
    ):
        _check(not names, path, f"{what} {', '.join(sorted(names)[:5])}: save it again with save_delta")
    for name, shape in shapes.items():
        array, kept = tensors[name], np.int32 if name == "bank_labels" else np.float32
        fits = array.ndim == len(shape) and all(
            b in (None, a) for a, b in zip(array.shape, shape, strict=True)
        )
        _check(
            fits and array.dtype == kept,
            path,
            f"tensor {name!r} is {array.dtype} of shape {array.shape}, its config needs {kept.__name__} of "
            f"{tuple('any' if n is None else n for n in shape)}",
        )
        _check(np.isfinite(array).all(), path, f"tensor {name!r} holds NaN or infinite values: train anew")
    _check(len(tensors["bank"]) > 0, path, "its bank is empty: train anew")
    _check((tensors["scaling/std"] > 0).all(), path, "tensor 'scaling/std' must be above 0: train anew")
    weights = {tuple(n.split("/")[1:]): jnp.asarray(a) for n, a in tensors.items() if n.startswith("params/")}
    return DeltaEncoder(
        config=config,
        params=flax.traverse_util.unflatten_dict(weights),
        bank=jnp.asarray(tensors["bank"]),
        width=width,
        scaling=Scaling(jnp.asarray(tensors["scaling/mean"]), jnp.asarray(tensors["scaling/std"]), kind),
        bank_labels=jnp.asarray(tensors["bank_labels"]) if "bank_labels" in tensors else None,
    )


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safetensors.safe_open(path, "np") as file:
            names: list[Any] = list(file.keys())
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, TypeError) as error:  # TypeError: a type that NumPy lacks
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: is no .safetensors file, or damaged ({reason}): save it again") from None


def _check(right: Any, path: str | os.PathLike[str], message: str) -> None:
    if not right:
        raise ValueError(f"{path}: {message}")
