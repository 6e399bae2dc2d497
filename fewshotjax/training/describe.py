"""A function in words, so that a checkpoint is not continued with another one."""

from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

DEPTH = 5  # of closures within closures that are told


def describe(value: Any, depth: int = DEPTH) -> str:
    """Name of a function with the plain values that it closes over: numbers, texts, configs, functions.

    Arrays are told by their type alone. Two functions of one description may differ, but not in the options
    that a maker of functions was given.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if depth == 0:
        return "..."
    if is_dataclass(value) and not isinstance(value, type):
        told = [f"{one.name}={describe(getattr(value, one.name), depth - 1)}" for one in fields(value)]
        return f"{type(value).__name__}({', '.join(told)})"
    if isinstance(value, tuple | list):
        return f"({', '.join(describe(one, depth - 1) for one in value)})"
    if isinstance(value, partial):
        named = [f"{name}={describe(one, depth - 1)}" for name, one in sorted(value.keywords.items())]
        told = [*(describe(one, depth - 1) for one in (value.func, *value.args)), *named]
        return f"partial({', '.join(told)})"
    if callable(value):
        return f"{getattr(value, '__qualname__', type(value).__name__)}({_closure(value, depth)})"
    return type(value).__name__


def _closure(function: Any, depth: int) -> str:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    told = (
        [describe(function.__self__, depth - 1)] if is_dataclass(getattr(function, "__self__", None)) else []
    )
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        try:
            told.append(f"{name}={describe(cell.cell_contents, depth - 1)}")
        except ValueError:  # an empty cell
            continue
    return ", ".join(told)
