"""Methods of few-shot detection by name, for the console and for tables; users add their own."""

from collections.abc import Callable
from typing import Any

from ..detector import Net
from .fine_tuned import fine_tuned
from .linear import linear
from .means import class_mean, external, nearest, prototype_regions
from .method import DetectionMethod
from .repmet import repmet, trained

DETECTION_METHODS: dict[str, Callable[..., DetectionMethod]] = {
    "repmet": repmet,
    "class_mean": class_mean,
    "nearest": nearest,
    "linear": linear,
    "fine_tuned": fine_tuned,
    "prototype_regions": prototype_regions,
    "external": external,
    "trained": trained,
}


def register_detection_method(name: str, maker: Callable[..., DetectionMethod]) -> None:
    """Adds a method under a new name; `maker(net, **options)` returns a `DetectionMethod`.

    Raises:
        ValueError: the name is taken.
    """
    if name in DETECTION_METHODS:
        raise ValueError(f"name {name!r} is taken by {DETECTION_METHODS[name].__module__}: choose another")
    DETECTION_METHODS[name] = maker


def detection_method(name: str, net: Net, **options: Any) -> DetectionMethod:
    """The method of that name for a detector's net.

    Raises:
        ValueError: no such method, or options that it does not have.
    """
    if name not in DETECTION_METHODS:
        raise ValueError(f"method must be one of {', '.join(DETECTION_METHODS)}, got {name!r}")
    try:
        return DETECTION_METHODS[name](net, **options)
    except TypeError as error:
        raise ValueError(f"method {name}: {error}") from None
