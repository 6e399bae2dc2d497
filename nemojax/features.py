"""Features of a trained network for other packages: a plain mapping, which few-shot learning takes.

fewshotjax finds it by the entry point of pyproject.toml; neither package imports the other.
"""

from collections.abc import Callable
from functools import cache
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .lowered import lowered
from .networks import Network, efficientnet_lite0

CLASSIFIER = "classifier"  # the last layer, whose inputs are the features
STRIDES = (4, 8, 16, 32)  # pixels per cell of the maps
BLOCKS = "blocks_"  # what blocks are called, with their numbers


@cache  # one function, so that a program which asks twice compiles it once
def efficientnet_lite0_features() -> MappingProxyType[str, Any]:
    """EfficientNet-Lite0's 1,280 features before its classifier, with ImageNet weights.

    Returns:
        name, function (params, normalised float32 images (N, 224, 224, 3)) -> (N, 1280), params, pixels,
        channels, mean and scale of pixel values 0-255, width, trained_on. On a CPU the function runs its
        convolutions as `lowered` does: the network's own numbers to rounding, some times faster.

    Raises:
        ValueError: the package of the weights is not installed (extra `pretrained`), or is damaged.
    """
    network = efficientnet_lite0()
    preprocess = network.preprocess
    return MappingProxyType(
        {
            "name": network.name,
            "function": lowered(features_of(network)),
            "params": network.params,
            "pixels": preprocess.resolution,
            "channels": 3,
            "mean": preprocess.mean,
            "scale": preprocess.scale,
            "width": network.params["params"][CLASSIFIER]["kernel"].shape[0],
            "trained_on": "ImageNet",
        }
    )


@cache
def efficientnet_lite0_pyramid() -> MappingProxyType[str, Any]:
    """EfficientNet-Lite0's maps of four strides, for detectors, with ImageNet weights.

    Returns:
        name, function (params, normalised float32 images (N, H, W, 3), H and W multiples of 32) -> maps
        (N, H/stride, W/stride, width) before each halving, params, pixels (as it was trained), channels, mean
        and scale of pixel values 0-255, strides (4, 8, 16, 32), widths (24, 40, 112, 320), trained_on. The
        function is lowered as that of `efficientnet_lite0_features`, and raises ValueError for other sizes.

    Raises:
        ValueError: the package of the weights is not installed (extra `pretrained`), or is damaged.
    """
    network = efficientnet_lite0()
    preprocess = network.preprocess
    function = lowered(maps_of(network))
    one = jax.ShapeDtypeStruct((1, STRIDES[-1], STRIDES[-1], 3), jnp.float32)
    return MappingProxyType(
        {
            "name": network.name,
            "function": function,
            "params": network.params,
            "pixels": preprocess.resolution,
            "channels": 3,
            "mean": preprocess.mean,
            "scale": preprocess.scale,
            "strides": STRIDES,
            "widths": tuple(m.shape[3] for m in jax.eval_shape(function, network.params, one)),
            "trained_on": "ImageNet",
        }
    )


def maps_of(network: Network) -> Callable[[Any, jax.Array], tuple[jax.Array, ...]]:
    """(params, images) -> what the last of the network's blocks at each of `STRIDES` gives."""

    def run(params: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        height, width = images.shape[1:3]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(
                f"images are {height}x{width}: both sides must be multiples of {STRIDES[-1]}, "
                "pad or resize them"
            )
        found: dict[int, jax.Array] = {}

        def note(call: Any, inputs: Any, named: Any, context: nn.module.InterceptorContext) -> Any:
            out = call(*inputs, **named)
            if (context.module.name or "").startswith(BLOCKS) and context.method_name == "__call__":
                found[height // out.shape[1]] = out  # a later block of the same stride takes its place
            return out

        with nn.intercept_methods(note):
            network.apply(params, images)
        return tuple(found[stride] for stride in STRIDES)

    return run


def features_of(network: Network) -> Callable[[Any, jax.Array], jax.Array]:
    """(params, images) -> what the network's dense layer `classifier` is given."""

    def run(params: Any, images: jax.Array) -> jax.Array:
        def skip(call: Any, inputs: Any, named: Any, context: nn.module.InterceptorContext) -> Any:
            last = context.module.name == CLASSIFIER and context.method_name == "__call__"
            return inputs[0] if last else call(*inputs, **named)

        with nn.intercept_methods(skip):
            return network.apply(params, images)

    return run
