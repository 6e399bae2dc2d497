"""A user's photographs, whatever they come as, and each brought to the size that a detector works at."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from ..data.decode import SUFFIXES, decode, upright
from ..data.files import Files
from .data.boxed import BoxedImages
from .data.fit import fitted

STEP = 32  # working sizes are multiples of it, as the coarsest maps of pyramids have this stride
LEAST, MOST = 32, 4096


@dataclass(frozen=True, eq=False)
class Photos:
    """N photographs, each read when it is asked for: a folder may hold more than fits the memory."""

    files: tuple[str, ...]  # N names
    read: Callable[[int], UInt8[np.ndarray, "H W 3"]]  # upright, RGB

    def __len__(self) -> int:
        return len(self.files)


class Fit(NamedTuple):
    """Photographs at one size, in the upper left of squares."""

    images: UInt8[np.ndarray, "N P P 3"]
    scales: Float[np.ndarray, "N 2"]  # of x and y: a box here, divided by it, is the box in the photograph
    sizes: Float[np.ndarray, "N 2"]  # height and width that the photograph fills, pixels


def photos(given: Any) -> Photos:
    """Photographs of any sizes.

    Photographs of files stand upright (EXIF), grey ones become RGB, transparency is laid on white.

    Args:
        given: the path of a picture, of a folder, zip or tar file (all pictures in it by their suffix,
            sorted; others are passed over), an array (H, W), (H, W, C) or (N, H, W, C) of uint8 with 1, 3
            or 4 channels, a PIL image, something with `images` and perhaps `files`, such as `BoxedImages` or
            `Pictures`, or a list of paths of pictures, arrays and PIL images.

    Raises:
        ValueError: nothing, no such file, a folder without pictures, an array that is no picture. A damaged
            file raises when it is read.
    """
    if isinstance(given, Photos):
        return given
    if isinstance(given, str | os.PathLike):
        return _of_path(Path(given))
    if hasattr(given, "images"):
        names = tuple(getattr(given, "files", ())) or None
        return _of_list(list(given.images), names)
    if isinstance(given, Image.Image) or (isinstance(given, np.ndarray) and given.ndim in (2, 3)):
        return _of_list([given], None)
    if isinstance(given, np.ndarray | Sequence):
        return _of_list(list(given), None)
    raise ValueError(
        f"photos are a {type(given).__name__}: give a folder, a list of paths, arrays or PIL images"
    )


def fit_photos(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], pixels: int) -> Fit:
    """Each as large as it fits into pixels x pixels, at the upper left; the rest has its mean colour.

    So there is one compilation, whatever shapes photographs have.
    """
    count = len(images)
    none = np.zeros((count, 1), bool)
    boxes, labels = np.zeros((count, 1, 4), np.float32), np.zeros((count, 1), np.int32)
    found = fitted(BoxedImages(tuple(images), boxes, none, labels, ()), pixels, pixels)
    sizes = np.array([image.shape[:2] for image in images], np.float32).reshape(-1, 2)
    return Fit(np.asarray(found.images.images), found.scales, np.round(sizes * found.scales[:, ::-1]))


def check_pixels(pixels: int) -> int:
    """Raises ValueError: a working size that is no multiple of 32 from 32 to 4096."""
    if pixels % STEP or not LEAST <= pixels <= MOST:
        raise ValueError(f"pixels must be a multiple of {STEP} from {LEAST} to {MOST}, got {pixels}")
    return pixels


def _of_path(path: Path) -> Photos:
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return _of_list([path], (path.name,))
    files = Files(path)  # a zip stays open as long as its photographs are asked for
    names = tuple(name for name in files.names if name.lower().endswith(SUFFIXES))
    if not names:
        raise ValueError(f"{path}: holds no pictures ({', '.join(SUFFIXES)}): give another folder")

    def read(row: int) -> np.ndarray:
        return _decoded(files.place / names[row], files.read(names[row]))

    return Photos(names, read)


def _of_list(given: list[Any], names: tuple[str, ...] | None) -> Photos:
    if not given:
        raise ValueError("photos is empty: give at least one")
    for row, one in enumerate(given):
        if isinstance(one, str | os.PathLike):
            if not Path(one).is_file():
                raise ValueError(f"{one}: there is no such picture")
        elif not isinstance(one, Image.Image):
            _check_array(one, row)

    def read(row: int) -> np.ndarray:
        one = given[row]
        if isinstance(one, str | os.PathLike):
            with Files(Path(one).absolute().parent, [Path(one).name]) as files:
                return _decoded(Path(one), files.read(Path(one).name))
        if not isinstance(one, Image.Image):
            if one.ndim == 3 and one.shape[2] == 3:
                return one
            one = Image.fromarray(one[..., 0] if one.ndim == 3 and one.shape[2] == 1 else one)
        return np.asarray(upright(one, "RGB"))

    return Photos(names or _unique(given), read)


def _decoded(where: Path, data: bytes) -> UInt8[np.ndarray, "H W 3"]:
    try:
        return np.asarray(decode(data))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _check_array(one: Any, row: int) -> None:
    kind = getattr(one, "dtype", type(one).__name__)
    shape: Any = getattr(one, "shape", ())
    if not isinstance(one, np.ndarray) or kind != np.uint8 or len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"photos: number {row} is {kind} of shape {shape}: give uint8 (H, W) or (H, W, C), a path or a "
            "PIL image"
        )
    if len(shape) == 3 and shape[2] not in (1, 3, 4):
        raise ValueError(f"photos: number {row} has {shape[2]} channels: give 1, 3 (RGB) or 4 (RGBA)")


def _unique(given: Sequence[Any]) -> tuple[str, ...]:
    """Names of files, whole paths where two have one name; numbers for the rest, and behind a file that comes
    again."""
    paths = [Path(one) if isinstance(one, str | os.PathLike) else None for one in given]
    short = [path.name for path in paths if path is not None]
    twice = len(set(short)) < len(short)
    names: dict[str, None] = {}  # a set in order
    for row, path in enumerate(paths):
        name = f"photo {row}" if path is None else path.as_posix() if twice else path.name
        names[name if name not in names else f"{name} ({row})"] = None
    return tuple(names)
