"""From picture files to one array of images, decoded in parallel threads."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from fewshotjax.data.files import File

MAX_PIXELS = 80_000_000  # of one picture: a larger one is refused before it is decoded
MAX_BYTES = 8 * 2**30  # of the array
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # decoders of Pillow that run no other program
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
ORIENTATION = 0x0112  # of EXIF
TOGETHER = 64  # files that one thread takes at a time


def load(
    files: Sequence[File],
    *,
    pixels: int | None = None,
    channels: int = 3,
    side: int | None = None,
    threads: int | None = None,
) -> UInt8[np.ndarray, "N H W C"]:
    """The pictures in the order of `files`, whatever the threads.

    Args:
        pixels: side to which a picture's central square is resized (see `fitted`); None: as they are, all
            of one size.
        channels: 3 (RGB) or 1 (grey).
        side: that every picture must have before resizing.
        threads: that decode; None: one per processor up to 8.

    Raises:
        ValueError: a file that is no picture, damaged, too large or of another size than the first; it is
            named. Or an array of more than `MAX_BYTES`.
    """
    if not files:
        raise ValueError("files is empty: there are no pictures to read")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if pixels is not None and not 1 <= pixels <= 4096:
        raise ValueError(f"pixels must be 1-4096, the side of the images, or None, got {pixels}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    first = _picture(files[0], channels)
    size = first.size if side is None else (side, side)
    height, width = (size[1], size[0]) if pixels is None else (pixels, pixels)
    shape = (len(files), height, width, channels)
    if np.prod(shape, dtype=float) > MAX_BYTES:
        have = f"{len(files)} images of {width}x{height} take {np.prod(shape, dtype=float) / 2**30:.0f} GiB"
        raise ValueError(f"pixels is {pixels}, and {have} of memory: read fewer, or set pixels=84, say")
    images = np.empty(shape, np.uint8)

    def some(start: int) -> None:
        for i in range(start, min(start + TOGETHER, len(files))):
            picture = first if i == 0 else _picture(files[i], channels)
            if picture.size != size and (pixels is None or side is not None):
                have, wanted = (f"{width}x{height}" for width, height in (picture.size, size))
                if side is not None:
                    raise ValueError(f"{files[i]}: is {have}, not {wanted}: get it again")
                hint = "bring them to one size with pixels=84, say"
                raise ValueError(f"{files[i]}: is {have}, the first {wanted}: {hint}")
            fit = picture if pixels is None else fitted(picture, pixels)
            images[i] = np.asarray(fit).reshape(shape[1:])

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(some, range(0, len(files), TOGETHER)):
            pass  # here the first file's error is raised, if several have one
    return images


def fitted(picture: Image.Image, pixels: int) -> Image.Image:
    """The central square at pixels x pixels, bilinear and antialiased.

    What resizing the shorter side and cropping the centre gives, but that the longer side is not rounded.
    """
    if picture.size == (pixels, pixels):
        return picture
    short = min(picture.size)
    left, top = ((length - short) / 2 for length in picture.size)
    box = (left, top, left + short, top + short)
    return picture.resize((pixels, pixels), Image.Resampling.BILINEAR, box=box)


def decode(data: bytes, channels: int = 3) -> Image.Image:
    """An upright picture, RGB or grey, of the bytes of a file; transparency is laid on white.

    Raises:
        ValueError: not a picture, damaged, of more than 8 bits a channel, or over `MAX_PIXELS`. The message
            goes after the file's name.
    """
    over = f"pixels, over the limit of {MAX_PIXELS // 10**6} million: make it smaller"
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            count, mode = picture.width * picture.height, picture.mode
            if count <= MAX_PIXELS and mode in MODES:
                return upright(picture, "RGB" if channels == 3 else "L")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"has too many {over}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"is no picture ({', '.join(FORMATS)}): convert or remove it") from None
    except Exception as error:  # the decoders raise errors of a dozen types on damaged data
        raise ValueError(f"cannot be decoded ({error}): replace or remove it") from None
    if count > MAX_PIXELS:
        raise ValueError(f"has {count} {over}")
    # Pillow would clip these values instead of scaling them.
    raise ValueError(f"has values of mode {mode!r}, not of 8 bits: convert it to 8-bit RGB or grey")


def _picture(file: File, channels: int) -> Image.Image:
    data = file.read()
    try:
        return decode(data, channels)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def upright(picture: Image.Image, mode: str) -> Image.Image:
    """Turned as its EXIF says, in a mode, "RGB" or "L"; transparency is laid on white."""
    turned = picture.getexif().get(ORIENTATION, 1) != 1
    found = ImageOps.exif_transpose(picture) if turned else picture
    if found.has_transparency_data:
        found = found.convert("RGBA")
        found = Image.alpha_composite(Image.new("RGBA", found.size, "white"), found)
    if found.mode != mode:
        # Through RGB, because a palette's or CMYK's own grey is another one.
        found = found.convert("RGB").convert(mode)
    found.load()
    return found
