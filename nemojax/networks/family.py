"""What the networks of this package have in common: a config makes a module, a file or a key its weights."""

import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from nemojax.networks.network import Network
from nemojax.preprocess import Preprocess
from nemojax.weights import OURS, Layout, WeightFile, convert, read_file

Shapes = dict[tuple[str, ...], tuple[int, ...]]
Weights = str | os.PathLike[str] | None


@dataclass(frozen=True, eq=False)
class Family:
    """Networks that differ in their config alone."""

    module: Callable[[Any], nn.Module]  # of a config
    layouts: tuple[Layout, ...]  # names of its tensors in other programs; the first one is PyTorch's
    preprocess: Callable[[Any], Preprocess]  # of a config, at the resolution it was trained at
    example: Any  # shapes of inputs, one sample; variables do not depend on the size of images
    deviation: float | None = None  # of drawn weights; None: the root of 2/fan-in

    @property
    def free(self) -> set[str]:
        """Fields of the config that a file decides."""
        return {name for layout in self.layouts for name in layout.config}

    def shapes(self, config: Any) -> Shapes:
        """Path and shape of every variable."""
        return dict(_shapes(self, config))

    def convert(
        self, tensors: Mapping[str, np.ndarray], config: Any, network: str = "the network"
    ) -> tuple[Any, dict[str, Any]]:
        """The config, completed by the layout of the tensors, and Flax variables; see `weights.convert`."""
        config, found = convert(tensors, config, self.shapes, (*self.layouts, OURS), network)
        arrays = {path: jnp.asarray(values) for path, values in found.items()}
        return config, flax.traverse_util.unflatten_dict(arrays)

    def draw(self, key: jax.Array, config: Any) -> dict[str, Any]:
        """Flax variables: normal weights of variance 2/fan-in (He et al. 2015) or of `deviation`, batch and
        layer norms at the identity, biases at zero."""
        shapes = self.shapes(config)
        sizes = [math.prod(shape) for shape in shapes.values()]
        # One long draw instead of `module.init`, whose compilation takes seconds: a program of 50 draws.
        normal = np.split(np.asarray(jax.random.normal(key, (sum(sizes),))), np.cumsum(sizes)[:-1])
        out = {}
        for (path, shape), values in zip(shapes.items(), normal, strict=True):
            if path[-1] in ("kernel", "embedding"):
                deviation = self.deviation or math.sqrt(2 / math.prod(shape[:-1]))
                out[path] = jnp.asarray(values.reshape(shape) * np.float32(deviation))
            else:
                out[path] = jnp.full(shape, float(path[-1] in ("scale", "var")))
        return flax.traverse_util.unflatten_dict(out)

    def build(
        self,
        config: Any,
        weights: Weights = None,
        key: jax.Array | None = None,
        *,
        name: str,
        resolution: int | None = None,
    ) -> Network:
        """The network of `config` with the weights of a file, or drawn from `key`.

        Args:
            config: of this family. A file of another program decides its fields of `free`.
            weights: path of a file (see `read_weights`), or None: drawn from `key`.
            key: for weights=None only.
            name: of the network.
            resolution: pixels of the inputs that `preprocess` makes; the network takes any size.

        Raises:
            ValueError: weights and key are both given or both missing; the file cannot be read, its tensors
                are not this network's, or it was saved from another config.
        """
        if weights is None:
            if key is None:
                raise ValueError("weights=None draws them: give key=jax.random.key(0), or weights='...'")
            params, source = self.draw(key, config), "drawn from a key"
        else:
            if key is not None:
                raise ValueError(
                    f"key is only for weights=None, got weights={str(weights)!r} too: leave one out"
                )
            if weights == "imagenet":
                raise ValueError(
                    f"weights='imagenet' come with efficientnet_lite0 only: give a file of {name}'s weights"
                )
            file = read_file(weights)
            try:
                config, params = self.convert(file.tensors, self._as_saved(config, file), name)
            except ValueError as error:
                raise ValueError(f"{weights}: {error}") from None
            source = f"{FilePath(weights).name} (SHA-256 {file.digest[:16]})"
        preprocess = self.preprocess(config)
        if resolution is not None:
            preprocess = replace(preprocess, resolution=resolution)
        return Network(name, self.module(config).apply, params, preprocess, source, config)

    def _as_saved(self, config: Any, file: WeightFile) -> Any:
        """`config` with the fields of `free` that one of our own files holds, if all others agree."""
        if "config" not in file.metadata:
            return config
        try:
            saved = json.loads(file.metadata["config"])
        except (ValueError, RecursionError):
            raise ValueError("its metadata are damaged: save it again with save_weights") from None
        asked = json.loads(json.dumps(asdict(config)))
        if not isinstance(saved, dict) or saved.keys() != asked.keys():
            raise ValueError("its config is not one of this network's: load it as what it was saved from")
        fixed = [name for name in asked if name not in self.free | {"resolution"}]
        for name in sorted(fixed, key=lambda name: isinstance(asked[name], list)):  # tables are told last
            if saved[name] != asked[name]:
                table = isinstance(asked[name], list)
                told = f"other {name}" if table else f"{name}={saved[name]!r:.60}, not {asked[name]!r}"
                raise ValueError(
                    f"it was saved from a network with {told}: ask for the one it was saved from"
                )
        return replace(config, **{name: saved[name] for name in self.free})


@functools.lru_cache(maxsize=64)
def _shapes(family: Family, config: Any) -> tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]:
    tree = jax.eval_shape(family.module(config).init, jax.random.key(0), family.example)
    return tuple((path, leaf.shape) for path, leaf in flax.traverse_util.flatten_dict(tree).items())


IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
