"""Backbones of detectors: networks that turn images of any size into feature maps of several strides."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..backbones import BACKBONES, Backbone, Preprocess
from ..backbones.drawing import draw_plain
from ..fields import check_fields
from .resnet import STRIDES, ResNet18Pyramid, ResNet50Pyramid

PYRAMIDS: dict[str, type[ResNet18Pyramid]] = {
    "resnet18_pyramid": ResNet18Pyramid,
    "resnet50_pyramid": ResNet50Pyramid,
}
# They are classifiers, too: `backbone`, `train`, `save_backbone` know them by these names.
BACKBONES.update(PYRAMIDS)

PIXELS = 64  # of the images that a pyramid is trained on as a classifier, where nothing else is said
_LEAST = 2, 3  # times the coarsest stride: height and width of the image that a function is tried on


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A network as a function of its variables, images (B, H, W, C) to maps (B, ⌈H/stride⌉, ⌈W/stride⌉,
    width).

    Its detector is a function of `apply` and plain values, which are compared by value: a pyramid that is
    built again is not compiled again.
    """

    name: str
    apply: Callable[..., Any]  # hashable: (variables, normalised images) -> tuple of maps, the finest first
    variables: Any  # {"params": ..., "batch_stats": ...} or {"params": ...}
    preprocess: Preprocess  # channels, mean, scale; its `pixels` are advice, images may be of any size
    strides: tuple[int, ...]  # pixels per cell of each map
    widths: tuple[int, ...]  # channels of each map
    frozen: bool = False  # its parameters have no gradient
    options: Mapping[str, Any] = field(default_factory=dict)  # what it was built with, JSON values

    def __post_init__(self):
        check_fields(self)
        if not self.strides or len(self.strides) != len(self.widths):
            raise ValueError(
                f"strides and widths must have a number for each map, got {self.strides} and {self.widths}"
            )
        for name in ("strides", "widths"):
            if any(value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"strides must rise, as the finest map comes first, got {self.strides}")


@dataclass(frozen=True)
class Maps:
    """`maps` of a linen module, equal to that of an equal module."""

    module: ResNet18Pyramid

    def __call__(self, variables: Any, images: Float[Array, "B H W C"]) -> tuple[Array, ...]:
        if self.module.norm == "frozen":
            # All but kernels belongs to norms.
            variables = jax.tree_util.tree_map_with_path(
                lambda path, leaf: leaf if path[-1].key == "kernel" else jax.lax.stop_gradient(leaf),
                variables,
            )
        found: Any = self.module.apply(variables, images, method="maps")
        return found


@dataclass(frozen=True)
class _FunctionMaps:
    """Any function (params, images) -> maps; hashed by the function."""

    function: Callable[..., Any]

    def __call__(self, variables: Any, images: Float[Array, "B H W C"]) -> tuple[Array, ...]:
        return tuple(self.function(variables["params"], images))


def pyramid(
    name: str,
    *,
    key: PRNGKeyArray,
    channels: int | None = None,
    mean: float | tuple[float, ...] | None = None,
    scale: float | tuple[float, ...] | None = None,
    **options: Any,
) -> Pyramid:
    """A network of `PYRAMIDS` with weights drawn from a key, maps at strides 4, 8, 16, 32.

    Args:
        name: "resnet18_pyramid" or "resnet50_pyramid".
        key: for the weights (He et al. 2015).
        channels, mean, scale: of the images, see `Preprocess`.
        options: of the module: `width=0.5`, `norm="frozen"`.

    One that was trained as a classifier comes from `pyramid_of`::

        start = fewshotjax.backbone("resnet18_pyramid", key=key, width=0.5)
        trained = fewshotjax.train(key, start, images, objective, config)
        found = pyramid_of(trained.backbone)

    Raises:
        ValueError: an unknown name or option, or a value that the module or `Preprocess` refuses.
    """
    module = _build(name, options)
    given = {"channels": channels, "mean": mean, "scale": scale}
    preprocess = Preprocess(PIXELS, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    return _assembled(name, module, preprocess, draw_variables(key, module, preprocess))


def pyramid_of(backbone: Backbone, *, frozen: bool = False) -> Pyramid:
    """The pyramid that a backbone is, such as one that was trained as a classifier of the base classes.

    Args:
        frozen: its weights stay as they are while a detector is trained, which makes its steps quicker.

    Raises:
        ValueError: a network that is not of `PYRAMIDS`.
    """
    module = getattr(backbone.apply, "module", getattr(backbone.apply, "__self__", None))
    if not isinstance(module, ResNet18Pyramid):
        raise ValueError(
            f"{backbone.name!r} has no maps: give a backbone of {', '.join(sorted(PYRAMIDS))}, or use "
            "pyramid_from_function"
        )
    name = next(name for name, kind in PYRAMIDS.items() if kind is type(module))
    found = _assembled(name, module, backbone.preprocess, backbone.variables)
    return dataclasses.replace(found, frozen=frozen)


def pyramid_from_function(
    function: Callable[..., Any],
    preprocess: Preprocess,
    params: Any,
    *,
    strides: tuple[int, ...],
    widths: tuple[int, ...] | None = None,
    name: str = "function",
    frozen: bool = True,
) -> Pyramid:
    """Any JAX function as a pyramid, such as a pretrained network.

    Args:
        function: (params, normalised float32 images (B, H, W, C)) -> maps (B, ⌈H/stride⌉, ⌈W/stride⌉, width),
            the finest first. It is tried on an image of 2 x 3 cells of the coarsest map.
        preprocess: channels, mean and scale of the images.
        params: its weights, a pytree of arrays.
        strides: pixels per cell of each map, which must rise.
        widths: of the maps, checked; None: what the function gives.
        frozen: no gradient for its weights.

    Raises:
        ValueError: the function cannot take such images, or gives other maps.
    """
    apply, held = _FunctionMaps(function), {"params": params}
    rows, columns = (cells * max(strides, default=1) for cells in _LEAST)
    one = jax.ShapeDtypeStruct((1, rows, columns, preprocess.channels), jnp.float32)
    try:
        shapes = jax.eval_shape(apply, held, one)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} does not take images of {rows}x{columns}x{preprocess.channels}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if len(shapes) != len(strides):
        raise ValueError(f"{name} gives {len(shapes)} maps for {len(strides)} strides: they must be as many")
    for i, (shape, stride) in enumerate(zip(shapes, strides, strict=True)):
        wanted = (1, -(-rows // stride), -(-columns // stride))
        if (
            shape.shape[:3] != wanted
            or len(shape.shape) != 4
            or not jnp.issubdtype(shape.dtype, jnp.floating)
        ):
            raise ValueError(
                f"{name} gives {shape} as map {i} of an image of {rows}x{columns}: at stride {stride} it "
                f"must give floats of shape ({', '.join(map(str, wanted))}, width)"
            )
    found = tuple(int(shape.shape[3]) for shape in shapes)
    if widths is not None and tuple(widths) != found:
        raise ValueError(f"widths are {widths}, but {name} gives maps of {found} channels")
    return Pyramid(name, apply, held, preprocess, tuple(strides), found, frozen)


def draw_variables(key: PRNGKeyArray, module: nn.Module, preprocess: Preprocess) -> Any:
    """Of the module, as `draw_plain` has them."""
    return draw_plain(key, variable_shapes(module, preprocess))


def variable_shapes(module: nn.Module, preprocess: Preprocess) -> Any:
    """Of the variables, without making them."""
    one = jax.ShapeDtypeStruct((1, PIXELS, PIXELS, preprocess.channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), one)


def rebuilt(name: str, options: Mapping[str, Any], preprocess: Preprocess) -> Pyramid:
    """A pyramid of `PYRAMIDS` as its options say, its variables as shapes alone.

    Raises:
        ValueError: an unknown name or option.
    """
    module = _build(name, options)
    return _assembled(name, module, preprocess, variable_shapes(module, preprocess))


def _build(name: str, options: Mapping[str, Any]) -> ResNet18Pyramid:
    if name not in PYRAMIDS:
        raise ValueError(f"name must be one of {', '.join(sorted(PYRAMIDS))}, got {name!r}")
    known = _options(PYRAMIDS[name])
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: it has {', '.join(known)}")
    return PYRAMIDS[name](**options)


def _assembled(name: str, module: ResNet18Pyramid, preprocess: Preprocess, variables: Any) -> Pyramid:
    options = {option: getattr(module, option) for option in _options(type(module))}
    return Pyramid(name, Maps(module), variables, preprocess, STRIDES, module.widths(), options=options)


def _options(module: type[nn.Module]) -> list[str]:
    return [one.name for one in dataclasses.fields(module) if one.name not in ("parent", "name")]
