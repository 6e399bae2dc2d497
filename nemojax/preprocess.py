"""From a picture file to the array that a network was trained on."""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

MAX_PIXELS = 80_000_000  # a larger picture is refused: decoded it takes 3 bytes a pixel, several times over
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # decoders of Pillow that run no other program


@dataclass(frozen=True)
class Preprocess:
    """Shorter side to resolution·crop_ratio (bicubic, antialiased), centre crop, (x - mean) / scale.

    The defaults are those of EfficientNet-Lite0 as it was trained.
    """

    resolution: int = 224  # pixels, both sides of the crop
    mean: float = 127.0  # of a pixel value in 0-255
    scale: float = 128.0
    crop_ratio: float = 256 / 224  # shorter side before the crop / resolution

    def __post_init__(self):
        if not 8 <= self.resolution <= 4096:
            raise ValueError(f"resolution must be 8-4096 pixels, got {self.resolution}")
        if not 1 <= self.crop_ratio <= 4:
            raise ValueError(f"crop_ratio must be 1-4 (shorter side / resolution), got {self.crop_ratio}")
        if not self.scale > 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")

    @property
    def shorter_side(self) -> int:
        """Pixels of the shorter side before the crop."""
        return round(self.resolution * self.crop_ratio)

    def __call__(self, picture: Image.Image) -> Float[np.ndarray, "R R 3"]:
        """The network's input for an RGB picture.

        Raises:
            ValueError: the picture is so long and thin that resizing would make it enormous.
        """
        short = min(picture.size)
        width, height = (round(side * self.shorter_side / short) for side in picture.size)
        if width * height > MAX_PIXELS:
            raise ValueError(f"is {picture.width}x{picture.height}, too long and thin: crop it first")
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((side - self.resolution) // 2 for side in picture.size)
        picture = picture.crop((left, top, left + self.resolution, top + self.resolution))
        return self.normalize(np.asarray(picture))

    def normalize(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
        """(x - mean) / scale as float32."""
        return (pixels.astype(np.float32) - np.float32(self.mean)) / np.float32(self.scale)


def decode(data: bytes) -> Image.Image:
    """An upright RGB picture from the bytes of a file; transparency is laid on white.

    Raises:
        ValueError: not a picture, damaged, or over `MAX_PIXELS`. The message goes after the file's name.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels <= MAX_PIXELS:
                return _upright_rgb(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pixels = Image.MAX_IMAGE_PIXELS or 0
    except Image.UnidentifiedImageError:
        raise ValueError(f"is not a picture ({', '.join(FORMATS)}): convert or remove it") from None
    except Exception as error:  # the decoders raise errors of a dozen types on damaged data
        raise ValueError(f"cannot be decoded ({error}): replace or remove it") from None
    raise ValueError(f"has {pixels} pixels or more, over the limit of {MAX_PIXELS}: make it smaller")


def _upright_rgb(picture: Image.Image) -> Image.Image:
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
