"""Any function of images as a backbone: a frozen pretrained network, handmade features, raw pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .backbone import Backbone
from .preprocess import Preprocess, sample


def from_function(
    function: Callable[..., Any],
    preprocess: Preprocess,
    variables: Any = None,
    *,
    width: int | None = None,
    name: str = "function",
) -> Backbone:
    """A JAX function as a `Backbone`.

    A frozen EfficientNet-Lite0 (extra `pretrained`), 1,280 features of images of 224x224 pixels::

        import nemojax
        network = nemojax.efficientnet_lite0()
        pixels = network.preprocess
        embed = fewshotjax.from_function(
            fewshotjax.without_layer(network.apply, "classifier"),
            fewshotjax.Preprocess(pixels.resolution, mean=pixels.mean, scale=pixels.scale),
            network.params,
            name=network.name,
        )

    Raw pixels: `from_function(lambda x: x.reshape(len(x), -1), raw(16))`.

    Args:
        function: normalised images (N, H, W, C) float32 -> features (N, width), a row for each image alone;
            with `variables`, (variables, images) -> features.
        preprocess: size, channels and normalisation of the images; `raw(pixels)` leaves values 0-255.
        variables: its weights as a pytree. Large ones belong here, not in a closure: they are then no part
            of the compiled program, and `train` can train them.
        width: of the features, checked; None: what the function gives.
        name: for messages.

    Raises:
        ValueError: the function cannot take such images, or gives something else than (N, width) numbers.
    """
    apply = _Function(function, variables is not None)
    held = {"params": {} if variables is None else variables}
    try:
        shape = jax.eval_shape(apply, held, sample(preprocess))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} does not take images of {preprocess.pixels}x{preprocess.pixels}x{preprocess.channels}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    numbers = isinstance(shape, jax.ShapeDtypeStruct) and jnp.issubdtype(shape.dtype, jnp.floating)
    if not numbers or len(shape.shape) != 2 or shape.shape[0] != 1:
        raise ValueError(f"{name} gives {shape} for one image: it must give floats of shape (N, width)")
    if width is not None and shape.shape[1] != width:
        raise ValueError(f"width is {width}, but {name} gives {shape.shape[1]} features")
    return Backbone(name, apply, held, preprocess, shape.shape[1])


def without_layer(apply: Callable[..., Any], layer: str) -> Callable[..., Any]:
    """A linen module's `apply` with one layer left out, which hands on its input.

    With the last one left out, the network gives the features that it classifies by.

    Args:
        apply: bound method of a linen module, (variables, ...) -> output.
        layer: name of the submodule, as in the paths of the variables ("classifier").
    """
    return _Without(apply, layer)


@dataclass(frozen=True)
class _Function:
    """A function called as a linen module's `apply`; hashed by the function."""

    function: Callable[..., Any]
    takes_variables: bool

    def __call__(self, variables: Any, images: jax.Array, train: bool = False, mutable: Any = ()) -> Any:
        given = (variables["params"], images) if self.takes_variables else (images,)
        found = self.function(*given)
        return (found, {}) if mutable else found


@dataclass(frozen=True)
class _Without:
    apply: Callable[..., Any]
    layer: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seen = []

        def skip(call: Any, inputs: Any, named: Any, context: Any) -> Any:
            if context.module.name != self.layer or context.method_name != "__call__":
                return call(*inputs, **named)
            seen.append(self.layer)
            return inputs[0]

        with nn.intercept_methods(skip):
            found = self.apply(*args, **kwargs)
        if not seen:
            raise ValueError(f"layer {self.layer!r} is not in this network: name one of its variables' paths")
        return found
