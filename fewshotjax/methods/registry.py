"""Methods by name, for the console and for tables; users add their own."""

from collections.abc import Callable
from typing import Any

from .linear import linear_head, logistic, ridge
from .means import prototypes, simpleshot
from .method import Method
from .neighbours import matching, nearest_neighbour
from .representatives import repmet

METHODS: dict[str, Callable[..., Method]] = {
    "repmet": repmet,
    "prototypes": prototypes,
    "simpleshot": simpleshot,
    "nearest_neighbour": nearest_neighbour,
    "matching": matching,
    "logistic": logistic,
    "ridge": ridge,
    "linear_head": linear_head,
}


def register(name: str, maker: Callable[..., Method]) -> None:
    """Adds a method under a new name; `maker(**options)` returns a `Method`.

    Raises:
        ValueError: the name is taken.
    """
    if name in METHODS:
        raise ValueError(f"name {name!r} is taken by {METHODS[name].__module__}: choose another")
    METHODS[name] = maker


def by_name(name: str, **options: Any) -> Method:
    """The method of that name.

    Raises:
        ValueError: no such method, or options that it does not have.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    try:
        return METHODS[name](**options)
    except TypeError as error:
        raise ValueError(f"method {name}: {error}") from None
