"""The networks of this package by name."""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from nemojax.networks.bert import bert_base, minilm_l6
from nemojax.networks.efficientnet_lite import efficientnet_lite0, efficientnet_lite1, efficientnet_lite2
from nemojax.networks.mobilenet import mobilenet_v2, mobilenet_v2_cifar
from nemojax.networks.network import Network
from nemojax.networks.resnet_members import resnet50, resnet101, resnet_cifar, resnext101_32x8d, resnext_cifar
from nemojax.weights import read_metadata

NETWORKS: Mapping[str, Callable[..., Network]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnext101_32x8d": resnext101_32x8d,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite1": efficientnet_lite1,
    "efficientnet_lite2": efficientnet_lite2,
    "mobilenet_v2_cifar": mobilenet_v2_cifar,
    "resnet20_cifar": resnet_cifar,
    "resnext29_cifar": resnext_cifar,
    "bert_base": bert_base,
    "minilm_l6": minilm_l6,
}


def by_name(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    key: jax.Array | None = None,
    *,
    resolution: int | None = None,
    classes: int | None = None,
    **options: Any,
) -> Network:
    """`by_name("resnet50", "resnet50.pth")`: one of `NETWORKS`.

    Args:
        name: a key of `NETWORKS`.
        weights: a file of weights, "imagenet" where they come with a package, or None: drawn from `key`.
        key: for weights=None only.
        resolution: pixels of the inputs; None: as the network was trained.
        classes: of the last layer; None: as the network was published.
        options: others of the network's own function, such as width=0.5. Those that are not given are as in
            the file, where `save_weights` wrote it.

    Raises:
        ValueError: there is no such network, or it has no such option; and as the network's own function.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(NETWORKS)}")
    make = NETWORKS[name]
    given = {"resolution": resolution, "classes": classes, **options}
    given = {option: value for option, value in given.items() if value is not None}
    known = list(inspect.signature(make).parameters)[2:]
    for option in given:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known)}")
    if weights is not None:
        given = {**_saved_options(weights, make), **given}
    return make(weights, key, **given)


def _saved_options(weights: str | os.PathLike[str], make: Callable[..., Network]) -> dict[str, int | float]:
    """Numbers of a saved network's config that its function takes; the resolution is the user's."""
    try:
        config = json.loads(read_metadata(weights).get("config", "{}"))
    except (ValueError, RecursionError):
        return {}  # said when the file is read
    if not isinstance(config, dict):
        return {}
    defaults = {name: option.default for name, option in inspect.signature(make).parameters.items()}
    defaults.pop("resolution", None)  # the user's; a text network has none
    numbers = {name: value for name, value in defaults.items() if isinstance(value, int | float)}
    return {name: config[name] for name, value in numbers.items() if type(config.get(name)) is type(value)}
