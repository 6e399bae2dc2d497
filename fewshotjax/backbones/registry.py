"""The networks of this package by name, with weights drawn from a key or read from a file."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .backbone import Backbone
from .drawing import draw_plain
from .networks import Conv4, ResNet12, ResNet18Small
from .preprocess import Preprocess, sample


@dataclasses.dataclass(frozen=True)
class _Apply:
    """`module.apply`, equal to that of an equal module, so that a network that is built again is not
    compiled again; bound methods are not."""

    module: nn.Module

    def __call__(self, variables: Any, images: jax.Array, **how: Any) -> Any:
        return self.module.apply(variables, images, **how)


BACKBONES: dict[str, type[nn.Module]] = {
    "conv4": Conv4,
    "resnet12": ResNet12,
    "resnet18_small": ResNet18Small,
}


def backbone(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    key: jax.Array | None = None,
    pixels: int | None = None,
    channels: int | None = None,
    mean: float | tuple[float, ...] | None = None,
    scale: float | tuple[float, ...] | None = None,
    **options: Any,
) -> Backbone:
    """A network of `BACKBONES`.

    Args:
        name: "conv4", "resnet12", "resnet18_small", or one that you put into `BACKBONES`.
        weights: a file that `save_backbone` wrote, which also tells everything below; what is given all the
            same must agree with it. None: drawn from `key`.
        key: for weights=None only.
        pixels, channels, mean, scale: of the images, see `Preprocess`; by default 64 and 3.
        options: of the module, see its class (`width=0.25`, `output="mean"`).

    Raises:
        ValueError: an unknown name or option, weights and key both given or both missing, a file that
            cannot be read or is another network's.
    """
    fields = {"pixels": pixels, "channels": channels, "mean": mean, "scale": scale}
    given: dict[str, Any] = {field: value for field, value in fields.items() if value is not None}
    module = build(name, options)
    if weights is None:
        if key is None:
            raise ValueError("weights=None draws them: give key=jax.random.key(0), or weights='...'")
        preprocess = Preprocess(given.pop("pixels", 64), **given)
        return assembled(name, module, preprocess, _drawn(module, key, preprocess))
    if key is not None:
        raise ValueError(f"key is only for weights=None, got weights={str(weights)!r} too: leave one out")
    from .saved import load_backbone  # it reads this registry

    found = load_backbone(weights)
    if found.name != name:
        raise ValueError(f"{weights}: holds a {found.name}, not a {name}: ask for that, or give another file")
    has = {**dataclasses.asdict(found.preprocess), **found.options}
    for field, value in {**given, **options}.items():
        if has[field] != value:
            raise ValueError(
                f"{weights}: was saved with {field}={has[field]!r}, not {value!r}: leave {field} out, "
                "or give another file"
            )
    return found


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The linen module.

    Raises:
        ValueError: an unknown name or option, or a value that the module refuses.
    """
    if name not in BACKBONES:
        raise ValueError(f"name must be one of {', '.join(sorted(BACKBONES))}, got {name!r}")
    known = _fields(BACKBONES[name])
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: it has {', '.join(known)}")
    return BACKBONES[name](**options)


def assembled(name: str, module: nn.Module, preprocess: Preprocess, variables: Any) -> Backbone:
    """The parts as a Backbone, with every option written down."""
    width = jax.eval_shape(module.apply, variables, sample(preprocess)).shape[1]
    options = {option: getattr(module, option) for option in _fields(type(module))}
    return Backbone(name, _Apply(module), variables, preprocess, width, options)


def shapes(module: nn.Module, preprocess: Preprocess) -> Any:
    """Of the variables, without making them."""
    return jax.eval_shape(module.init, jax.random.key(0), sample(preprocess))


def _drawn(module: nn.Module, key: jax.Array, preprocess: Preprocess) -> Any:
    """As `module.init` has it, or all kernels in one draw where the module allows it."""
    if getattr(module, "plain_weights", False):
        return draw_plain(key, shapes(module, preprocess))
    one = sample(preprocess)
    return jax.jit(module.init)(key, jnp.zeros(one.shape, one.dtype))


def _fields(module: type[nn.Module]) -> list[str]:
    return [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
