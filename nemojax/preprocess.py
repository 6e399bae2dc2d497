"""From a picture file to the array that a network was trained on."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from hwmodel import check_fields

MAX_PIXELS = 80_000_000  # a larger picture is refused: decoded it takes 3 bytes a pixel, several times over
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # decoders of Pillow that run no other program
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
FITS = ("shorter_side", "torchvision", "central_square", "stretch", "as_is")


@dataclass(frozen=True)
class Preprocess:
    """A picture fitted to resolution x resolution pixels by `fit`, then (x - mean) / scale per channel::

        shorter_side    the shorter side to resolution·crop_ratio, then the centre
        torchvision     the same, rounded as torchvision's Resize and CenterCrop round: the longer side down,
                        the corner of the crop to nearest
        central_square  the central square of shorter side / crop_ratio, resized to the resolution
                        (TensorFlow's evaluation of EfficientNet)
        stretch         the whole picture, whatever its proportions (Keras's load_img)
        as_is           no resizing: the picture must have the resolution already (CIFAR-10)

    Resizing is antialiased. The defaults are those of EfficientNet-Lite0 as it was trained.
    """

    resolution: int = 224  # pixels, both sides of the result
    mean: float | Sequence[float] = 127.0  # of a pixel value in 0-255; one number, or one a channel
    scale: float | Sequence[float] = 128.0  # likewise
    crop_ratio: float = 256 / 224  # side before the crop / side after it
    interpolation: str = "bicubic"  # one of INTERPOLATIONS
    fit: str = "shorter_side"  # one of FITS

    def __post_init__(self):
        for name in ("mean", "scale"):
            object.__setattr__(self, name, _per_channel(name, getattr(self, name)))
        check_fields(self)
        if not 8 <= self.resolution <= 4096:
            raise ValueError(f"resolution must be 8-4096 pixels, got {self.resolution}")
        if not 1 <= self.crop_ratio <= 4:
            raise ValueError(f"crop_ratio must be 1-4 (shorter side / resolution), got {self.crop_ratio}")
        if not np.min(np.asarray(self.scale)) > 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        for name, known in (("interpolation", tuple(INTERPOLATIONS)), ("fit", FITS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")

    @property
    def shorter_side(self) -> int:
        """Pixels of the shorter side before the crop, where the picture is resized first."""
        return round(self.resolution * self.crop_ratio)

    def __call__(self, picture: Image.Image) -> Float[np.ndarray, "R R 3"]:
        """The network's input for an RGB picture.

        Raises:
            ValueError: the picture is so long and thin that resizing would make it enormous, or with
                fit="as_is" it has another size.
        """
        return self.normalize(self.pixels(picture))

    def pixels(self, picture: Image.Image) -> UInt8[np.ndarray, "R R 3"]:
        """`__call__` before the normalisation."""
        side, how = self.resolution, INTERPOLATIONS[self.interpolation]
        width, height = picture.size
        if self.fit == "as_is":
            if (width, height) != (side, side):
                raise ValueError(f"is {width}x{height}, not {side}x{side}: resize it, or set another fit")
        elif self.fit == "stretch":
            picture = picture.resize((side, side), how)
        elif self.fit == "central_square":
            square = max(1, int(min(width, height) / self.crop_ratio))
            picture = _centre(picture, square, math.ceil).resize((side, side), how)
        else:
            exact = self.fit == "torchvision"
            short = min(width, height)
            sides = (length * self.shorter_side / short for length in (width, height))
            width, height = (math.floor(length) if exact else round(length) for length in sides)
            if width * height > MAX_PIXELS:
                raise ValueError(f"is {picture.width}x{picture.height}, too long and thin: crop it first")
            picture = _centre(picture.resize((width, height), how), side, round if exact else math.floor)
        return np.asarray(picture)

    def normalize(self, pixels: UInt8[np.ndarray, "*N H W 3"]) -> Float[np.ndarray, "*N H W 3"]:
        """(x - mean) / scale as float32."""
        mean, scale = np.asarray(self.mean, np.float32), np.asarray(self.scale, np.float32)
        return (pixels.astype(np.float32) - mean) / scale


def decode(data: bytes) -> Image.Image:
    """An upright RGB picture from the bytes of a file; transparency is laid on white.

    Raises:
        ValueError: not a picture, damaged, of more than 8 bits a channel, or over `MAX_PIXELS`. The message
            goes after the file's name.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            pixels, mode = picture.width * picture.height, picture.mode
            if pixels <= MAX_PIXELS and mode in MODES:
                return _upright_rgb(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pixels, mode = Image.MAX_IMAGE_PIXELS or 0, "RGB"
    except Image.UnidentifiedImageError:
        raise ValueError(f"is not a picture ({', '.join(FORMATS)}): convert or remove it") from None
    except Exception as error:  # the decoders raise errors of a dozen types on damaged data
        raise ValueError(f"cannot be decoded ({error}): replace or remove it") from None
    if mode not in MODES:  # Pillow would clip the values instead of scaling them
        raise ValueError(f"has channels of mode {mode!r}, not of 8 bits: convert it to 8-bit RGB or grey")
    raise ValueError(f"has {pixels} pixels or more, over the limit of {MAX_PIXELS}: make it smaller")


def _upright_rgb(picture: Image.Image) -> Image.Image:
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _centre(picture: Image.Image, side: int, rounding: Callable[[float], int]) -> Image.Image:
    """The central square; `rounding` is of the margins."""
    left, top = (rounding((length - side) / 2) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def _per_channel(name: str, value: float | Sequence[float]) -> float | tuple[float, ...]:
    """A float, or a tuple of three; ValueError for anything else."""
    try:
        given = (value,) if isinstance(value, int | float | np.number) else tuple(value)
        numbers = tuple(float(number) for number in given)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) not in (1, 3) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be one number or three (red, green, blue), got {value}")
    return numbers[0] if len(numbers) == 1 else numbers
