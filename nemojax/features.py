"""Features of a trained network for other packages: a plain mapping, which few-shot learning takes.

fewshotjax finds it by the entry point of pyproject.toml; neither package imports the other.
"""

from collections.abc import Callable
from functools import cache
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from .lowered import lowered
from .networks import Network, efficientnet_lite0

CLASSIFIER = "classifier"  # the last layer, whose inputs are the features


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


def features_of(network: Network) -> Callable[[Any, jax.Array], jax.Array]:
    """(params, images) -> what the network's dense layer `classifier` is given."""

    def run(params: Any, images: jax.Array) -> jax.Array:
        def skip(call: Any, inputs: Any, named: Any, context: nn.module.InterceptorContext) -> Any:
            last = context.module.name == CLASSIFIER and context.method_name == "__call__"
            return inputs[0] if last else call(*inputs, **named)

        with nn.intercept_methods(skip):
            return network.apply(params, images)

    return run
