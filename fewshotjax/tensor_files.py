"""Tensors by name in one .safetensors file that says what it is, and is checked before it is believed."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from .files import write_bytes

_OF_NUMPY = {"BOOL", "F16", "F32", "F64", *(f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64))}
_DAMAGES = (
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    json.JSONDecodeError,
)


class Like(NamedTuple):
    """What a tensor must be; a length that is None may be any."""

    shape: tuple[int | None, ...]
    dtype: Any


@dataclass(frozen=True)
class TensorFile:
    """A kind of file: in its metadata are "fewshotjax `kind`", the schema's version, and JSON of what else is
    told under the last word of `kind`. `writer` is the function that writes it, as errors name it."""

    kind: str
    writer: str
    schema: int = 1

    def write(
        self, path: str | os.PathLike[str], tensors: Mapping[str, Any], told: Mapping[str, Any] | None = None
    ) -> None:
        """Whole or not at all. Raises OSError: the file cannot be written."""
        metadata = {"format": f"fewshotjax {self.kind}", "schema": str(self.schema)}
        metadata[self._word] = json.dumps({} if told is None else told)
        arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
        write_bytes(path, safetensors.numpy.save(arrays, metadata))

    def read(self, path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What is told, {} where nothing is, and the tensors.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, damaged, of another version, or a tensor of a type that NumPy lacks.
        """
        metadata, tensors = _opened(path)
        if metadata.get("format") != f"fewshotjax {self.kind}":
            raise ValueError(f"{path}: is no file of {self.writer}: give one that it wrote")
        if metadata.get("schema") != str(self.schema):
            raise ValueError(
                f"{path}: has schema version {metadata.get('schema')}, this library reads {self.schema}: "
                "load it with the library that wrote it"
            )
        with self.understood(path):
            return dict(json.loads(metadata.get(self._word, "{}"))), tensors

    @contextmanager
    def understood(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Around what makes sense of a file's content: what fails there is the file's fault, and says so."""
        try:
            yield
        except _DAMAGES:
            raise ValueError(f"{path}: is damaged: save it again with {self.writer}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @property
    def _word(self) -> str:
        return self.kind.split()[-1]


def check_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], wanted: Mapping[str, Any], what: str
) -> None:
    """
    Args:
        wanted: `.shape` and `.dtype` of each name: `Like`, or a leaf of `jax.eval_shape`.
        what: needs them, for messages: "its config".

    Raises:
        ValueError: tensors are missing, unexpected, of another shape or type, or hold NaN or infinite values.
    """
    for label, names in (
        ("missing", wanted.keys() - tensors.keys()),
        ("unexpected", tensors.keys() - wanted.keys()),
    ):
        if names:
            first = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{path}: {len(names)} tensors are {label} for {what}: {first}")
    for name, like in wanted.items():
        array = tensors[name]
        fits = array.ndim == len(like.shape) and all(
            asked in (None, given) for given, asked in zip(array.shape, like.shape, strict=True)
        )
        if not fits or array.dtype != like.dtype:
            shape = tuple("any" if length is None else length for length in like.shape)
            raise ValueError(
                f"{path}: tensor {name!r} is {array.dtype} of shape {array.shape}, {what} needs "
                f"{np.dtype(like.dtype)} of shape {shape}"
            )
    check_finite(path, tensors)


def check_finite(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> None:
    """Raises ValueError: a tensor holds NaN or infinite values."""
    for name, array in tensors.items():
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(f"{path}: tensor {name!r} holds NaN or infinite values: train anew")


def _opened(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safetensors.safe_open(path, "np") as file:
            names: list[Any] = list(file.keys())
            for name in names:
                kind = file.get_slice(name).get_dtype()
                if kind not in _OF_NUMPY:
                    raise ValueError(f"{path}: tensor {name!r} is of type {kind}: save it as F32")
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: is no .safetensors file, or damaged ({reason}): save it again") from None
