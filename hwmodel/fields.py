"""The fields of a dataclass against their annotations, before its own checks compare them with numbers.

Without, `Config(steps="many")` leaves as Python's TypeError about '<', which names no field.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np


def check_fields(settings: Any, above: str = "") -> None:
    """For the first line of `__post_init__`; messages name fields with `above` in front, such as "graph.".

    A list passes for a tuple, since some classes convert it, and any array for any other; what a class must
    know beyond that it checks itself. NaN is no number.

    Raises:
        ValueError: a value that is not of its field's type; the field and the value are named.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not _fits(value, field.type):
            raise ValueError(f"{above}{field.name} must be {_told(field.type)}, got {_short(value)}")


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, tuple({type(one) for one in inner}))
    if origin is tuple:
        several = isinstance(value, tuple | list)
        if not several or not inner:
            return several
        if inner[-1] is Ellipsis:
            return all(_fits(one, inner[0]) for one in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is Sequence:
        row = getattr(value, "tolist", lambda: value)()  # of an array
        return _fits(row, Sequence) and all(_fits(one, inner[0]) for one in row)
    if origin is not None:  # Mapping[str, int], Callable[...]: what is inside is the class's
        return _fits(value, origin)
    if isinstance(value, bool) and kind in (int, float):
        return False
    if kind is int:
        return isinstance(value, Integral)
    if kind is float:
        return isinstance(value, Real) and _is_number(value)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is Callable:
        return callable(value)
    if kind is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)
    array = getattr(kind, "array_type", kind)  # of jaxtyping
    if array is np.ndarray:
        return hasattr(value, "dtype") and getattr(value, "shape", ()) != ()
    if hasattr(kind, "_fields"):  # a named tuple, or a plain one in its place
        inner = tuple(kind.__annotations__.values())
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if kind in (str, bytes, Mapping, dict, types.NoneType) or dataclasses.is_dataclass(kind):
        return isinstance(value, kind)
    return True


def _is_number(value: Any) -> bool:
    """Not NaN, and no whole number that NumPy would take for an object."""
    return abs(int(value)) < 2**63 if isinstance(value, Integral) else bool(value == value)


def _told(kind: Any) -> str:
    """A type in the words of messages."""
    origin, inner = get_origin(kind), get_args(kind)
    words: dict[Any, str] = {
        **{int: "a whole number", float: "a number", bool: "True or False", str: "text", bytes: "bytes"},
        **{types.NoneType: "None", Callable: "a function", np.ndarray: "an array", Mapping: "a mapping"},
        **{dict: "a mapping", Sequence: "a sequence"},
    }
    if origin in (Union, types.UnionType):
        return " or ".join(_told(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        if not inner:
            return "a tuple"
        rest = f"{_told(inner[0])} each" if inner[-1] is Ellipsis else ", ".join(map(_told, inner))
        return f"a tuple ({rest})"
    kind = getattr(kind, "array_type", origin or kind)
    return words.get(kind, f"of type {getattr(kind, '__name__', kind)}")


def _short(value: Any) -> str:
    """One line of at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
