"""Writes .safetensors files, whole or not at all."""

import os
from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from hwmodel import write_bytes


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Puts `tensors` at `path`, replacing what was there, in one step.

    Raises:
        ValueError: an array is not of numbers; the folder is missing, or cannot be written to.
    """
    for name, array in tensors.items():
        if array.dtype.kind not in "fiub":
            raise ValueError(f"tensor {name!r} is of type {array.dtype}: only real numbers are saved")
    data = safetensors.numpy.save({n: np.asarray(a, order="C") for n, a in tensors.items()}, dict(metadata))
    try:
        write_bytes(path, data)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror}): check the folder") from None
