"""From the tensors of a file to the variables of a network here, by whichever table of names fits."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nemojax.weights.layout import Layout, Path
from nemojax.weights.opcodes import shorten

Shapes = Mapping[Path, tuple[int, ...]]
LISTED = 40  # names in a message


class Match(NamedTuple):
    """A layout, the config that its networks have, and what of it a file holds."""

    layout: Layout
    config: Any
    shapes: Shapes
    wanted: dict[str, Path]  # name in the table -> variable
    found: dict[str, str]  # name in the table -> name in the file

    @property
    def common(self) -> int:
        return len(self.wanted.keys() & self.found.keys())


def convert(
    tensors: Mapping[str, np.ndarray],
    config: Any,
    shapes_of: Callable[[Any], Shapes],
    layouts: Sequence[Layout],
    network: str,
) -> tuple[Any, dict[Path, np.ndarray]]:
    """The config with what the file's layout adds to it, and the variables in float32.

    Args:
        tensors: name -> array, as `read_weights` gives them.
        config: of the network, a dataclass.
        shapes_of: config -> path and shape of every variable.
        layouts: tables of names; the one with the most names in the file is taken.
        network: its name, for messages.

    Raises:
        ValueError: tensors are missing or unexpected (listed), of another shape, not finite, or variances
            below zero.
    """
    match = max((_match(tensors, config, shapes_of, layout) for layout in layouts), key=lambda m: m.common)
    _check_names(match, network)
    out = {}
    for name, path in match.wanted.items():
        original = match.found[name]
        out[path] = _variable(match, path, original, tensors[original])
    return match.config, out


def _match(
    tensors: Mapping[str, np.ndarray], config: Any, shapes_of: Callable[[Any], Shapes], layout: Layout
) -> Match:
    adapted = replace(config, **layout.config)
    shapes = shapes_of(adapted)
    wanted = layout.names(adapted, shapes)
    found: dict[str, str] = {}
    for name, plain in layout.convention.rename(tensors).items():
        if plain in wanted and plain in found:
            raise ValueError(
                f"tensors {shorten(found[plain])} and {shorten(name)} are both {plain!r}: keep one"
            )
        found[plain] = name
    return Match(layout, adapted, shapes, wanted, found)


def _check_names(match: Match, network: str) -> None:
    """ValueError unless the file has the layout's names and no others."""
    extra = [match.found[n] for n in match.found.keys() - match.wanted.keys()]
    extra = [name for name in extra if not re.fullmatch(match.layout.ignored, name)]
    told = [
        f"{len(names)} tensors are {label}: {listed(names)}"
        for label, names in (("missing", match.wanted.keys() - match.found.keys()), ("unexpected", extra))
        if names
    ]
    if told:
        raise ValueError(
            f"its tensors are not those of {network} as {match.layout.title} names them: {'; '.join(told)}: "
            "use this network's own weights"
        )


def listed(names: Iterable[str]) -> str:
    """Names of tensors for a message, in order; of many the first."""
    ordered = [_printable(name) for name in sorted(names)]
    rest = len(ordered) - LISTED
    return ", ".join(ordered[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _printable(name: str) -> str:
    return name if name.isprintable() and len(name) <= 80 else shorten(name)


def _variable(match: Match, path: Path, name: str, tensor: np.ndarray) -> np.ndarray:
    shape = match.shapes[path]
    axes = match.layout.convention.axes(path, len(shape))
    expected = tuple(shape[axis] for axis in np.argsort(axes))
    if tensor.shape != expected:
        hint = "use other weights"
        if "classifier" in path and tensor.ndim == len(shape):
            *inputs, classes = tensor.transpose(axes).shape
            if tuple(inputs) == shape[:-1]:
                hint = f"give classes={classes}, or use other weights"
        raise ValueError(f"tensor {name!r} has shape {tensor.shape}, expected {expected}: {hint}")
    with np.errstate(over="ignore"):  # an infinity is reported below
        values = np.ascontiguousarray(tensor.transpose(axes), np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"tensor {name!r} holds NaN or infinite values: use other weights")
    if path[-1] == "var" and values.min() < 0:
        raise ValueError(f"tensor {name!r} holds variances below zero: use other weights")
    if path[1:-1] == (match.layout.reversed_inputs,) and path[-1] == "kernel":
        values = np.ascontiguousarray(values[:, :, ::-1])
    return values
