"""Checks that the configs of networks share; errors name the field and the value."""

from collections.abc import Collection
from typing import Any


def above_zero(config: Any, *fields: str) -> None:
    """ValueError unless these fields are numbers above 0 that JAX holds."""
    for name in fields:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**62:
            raise ValueError(f"{name} must be above 0, got {value!r}")


def whole(config: Any, *fields: str) -> None:
    """ValueError unless these fields are whole numbers above 0."""
    for name in fields:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be above 0 and whole, got {value!r}")


def one_of(config: Any, field: str, known: Collection[Any]) -> None:
    """ValueError unless the field has one of these values."""
    if getattr(config, field) not in known:
        raise ValueError(
            f"{field} must be one of {', '.join(map(repr, known))}, got {getattr(config, field)!r}"
        )
