"""A workload from what a user types: a file, a built-in network, or a function of theirs."""

import importlib
import sys
from difflib import get_close_matches
from pathlib import Path

from ..onnx_import.read import from_onnx
from ..tracing.trace import trace
from ..workload import Workload
from ..workload_file import load_workload
from ..zoo import NAMES, by_name


def load_model(model: str, batch: int | None = None, unknown: str = "error") -> Workload:
    """The workload that `model` names.

    Args:
        model: an .onnx file, a .json file of `save_workload`, a name of the zoo, or "module:function", which
            is called without arguments and returns (fn, params, inputs) for `trace(fn, params, *inputs)`.
        batch: samples in one call, of a network of the zoo or an .onnx file that leaves it open.
        unknown: "elementwise" takes primitives and operators that are not known as one of kind "other".

    Raises:
        ValueError: none of these; a batch where the model has its own; what the file or function gives is
            no workload.
        ImportError: an .onnx file without the package onnx.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if unknown not in ("error", "elementwise"):
        raise ValueError(f"unknown must be 'error' or 'elementwise', got {unknown!r}")
    if model in NAMES:
        return by_name(model) if batch is None else by_name(model, batch=batch)
    suffix = Path(model).suffix.lower()
    if suffix in (".onnx", ".json"):
        if not Path(model).is_file():
            raise ValueError(f"{model}: no such file")
        if suffix == ".onnx":
            return from_onnx(
                model, batch=batch, unknown="elementwise" if unknown == "elementwise" else "error"
            )
        if batch is not None:
            raise ValueError(f"{model} has its batch: leave out --batch")
        return load_workload(model)
    if ":" in model:
        if batch is not None:
            raise ValueError(f"{model} has the batch of its inputs: leave out --batch")
        return _traced(model, unknown)
    close = get_close_matches(model, NAMES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the zoo has {', '.join(NAMES)}"
    raise ValueError(
        f"no model {model!r}: give an .onnx file, a workload .json, module:function or a built-in name; "
        f"{hint}"
    )


def _traced(model: str, unknown: str) -> Workload:
    """Calls the user's function, found as `python -m` would find its module, and traces what it returns."""
    module, _, name = model.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"{model!r} must be module:function, such as my_network:build")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), name)()
    except Exception as error:  # the user's own code: anything may come
        raise ValueError(f"{model}: {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(made, tuple) or len(made) != 3 or not callable(made[0]):
        raise ValueError(f"{model} must return (fn, params, inputs), got {type(made).__name__}")
    fn, params, inputs = made
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    try:
        return trace(fn, params, *given, unknown=unknown)
    except TypeError as error:
        raise ValueError(f"{model}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no message")
