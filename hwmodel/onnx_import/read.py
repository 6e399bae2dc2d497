"""from_onnx: the workload graph of an ONNX file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ..workload import Workload
from .drafts import assemble
from .fusion import Importer
from .operators import KNOWN
from .reader import read_model


def from_onnx(
    path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    unknown: Literal["error", "elementwise"] = "error",
    fusion: bool = True,
) -> Workload:
    """The workload graph of an ONNX file; weights are neither read nor needed.

    Args:
        path: the file. Weights stored beside it are not opened.
        batch: leading dimension of the inputs that leave it open.
        shapes: of inputs by name, where more than the leading dimension is open.
        unknown: "elementwise" counts an operator that is not known as one operation per element of its
            first activation, of kind "other".
        fusion: False keeps one operation per node, but for views and arithmetic on constants.

    Raises:
        ImportError: the package onnx is missing.
        ValueError: no ONNX model, a truncated one, dynamic shapes, control flow, an operator that is not
            known, a cycle; with the file and the node, input or value.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError("from_onnx needs the package onnx: pip install 'frugaljax[onnx]'") from error
    where = Path(path)
    if unknown not in ("error", "elementwise"):
        raise ValueError(f"unknown must be 'error' or 'elementwise', got {unknown!r}")
    for name, sizes in {"batch": (1 if batch is None else batch,), **(shapes or {})}.items():
        if not all(isinstance(n, int) and 0 < n < 2**31 for n in sizes):
            raise ValueError(f"sizes of {name!r} must be whole numbers of [1, 2^31), got {sizes}")
    try:
        model = read_model(where, batch, shapes or {}, KNOWN, guess=unknown == "elementwise")
        importer = Importer(model, unknown == "elementwise", fusion)
        return assemble(model, importer.run(), importer.viewed)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
