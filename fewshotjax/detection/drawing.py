"""Pictures of detections: numbered boxes, and beside them the nearest example of each. Pillow alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

# Okabe & Ito's colours, which people with any colour vision tell apart; the class stands in words as well.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
LEAST, MOST = 480, 1600  # pixels of the longer side of a photograph as drawn
TEXT = 15  # pixels, of letters
SHOWN = 12  # boxes whose nearest example is beside the photograph, the surest
SIDE = 64  # pixels of an example's picture
PANEL = 250  # pixels, of what is beside the photograph


class Drawn(NamedTuple):
    """One box to be drawn."""

    box: Sequence[float]  # x1, y1, x2, y2 in pixels of the photograph
    label: int
    name: str
    score: float
    crop: UInt8[np.ndarray, "_ _ 3"]  # of the nearest example
    example: str  # its name


class Missed(NamedTuple):
    """An object that was not found."""

    box: Sequence[float]  # as of `Drawn`
    label: int
    name: str


def colour(label: int) -> str:
    """Of a class; they come again after eight."""
    return COLOURS[label % len(COLOURS)]


def draw_boxes(
    photo: UInt8[np.ndarray, "H W 3"], found: Sequence[Drawn], missed: Sequence[Missed] = ()
) -> Image.Image:
    """The photograph with its boxes, dashed ones of what was missed, and the nearest examples of the first
    `SHOWN` of `found`.

    Small photographs are enlarged, so that labels can be read, and large ones made smaller.
    """
    height, width = photo.shape[:2]
    longest = max(height, width)
    factor = max(1.0, LEAST / longest) if longest < LEAST else min(1.0, MOST / longest)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    way = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    picture = Image.fromarray(photo).resize(size, way)
    letters = ImageFont.load_default(TEXT)
    pen = ImageDraw.Draw(picture)
    taken: list[tuple[int, int, int, int]] = []
    for number in reversed(range(len(found))):
        _frame(pen, [edge * factor for edge in found[number].box], colour(found[number].label))
    for lost in missed:
        _dashes(pen, [edge * factor for edge in lost.box], colour(lost.label))
    for number, one in enumerate(found):  # the surest choose the place of their label first
        tag = f"{number + 1} {one.name} {one.score:.0%}"
        _tag(pen, picture.size, letters, [edge * factor for edge in one.box], tag, colour(one.label), taken)
    for lost in missed:  # nothing is painted over these
        edges = [edge * factor for edge in lost.box]
        _tag(pen, picture.size, letters, edges, f"{lost.name}, missed", "#FFFFFF", taken)
    if not found:
        return picture
    rows = min(len(found), SHOWN)
    canvas = Image.new("RGB", (size[0] + PANEL, max(size[1], rows * (SIDE + 8) + 32)), "white")
    canvas.paste(picture, (0, 0))
    _panel(canvas, size[0] + 8, found[:rows], len(found), letters)
    return canvas


def _frame(pen: ImageDraw.ImageDraw, box: Sequence[float], shade: str) -> None:
    """A line of 2 pixels between thin ones of white, seen on any ground."""
    x1, y1, x2, y2 = (round(edge) for edge in box)
    x2, y2 = max(x2 - 1, x1 + 1), max(y2 - 1, y1 + 1)  # past the last pixel
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="white", width=4)
    pen.rectangle((x1, y1, x2, y2), outline=shade, width=2)


def _dashes(pen: ImageDraw.ImageDraw, box: Sequence[float], shade: str) -> None:
    """The frame of what was missed: pieces of 6 pixels on white."""
    x1, y1, x2, y2 = (round(edge) for edge in box)
    x2, y2 = max(x2 - 1, x1 + 1), max(y2 - 1, y1 + 1)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="white", width=4)
    for x in range(x1, x2, 12):
        for y in (y1, y2):
            pen.line((x, y, min(x + 6, x2), y), fill=shade, width=2)
    for y in range(y1, y2, 12):
        for x in (x1, x2):
            pen.line((x, y, x, min(y + 6, y2)), fill=shade, width=2)


def _tag(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    letters: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: Sequence[float],
    text: str,
    shade: str,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Above the box, else below, else inside, at the top or bottom: where it covers the least of others."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=letters)
    width, height = math.ceil(right - left) + 6, math.ceil(bottom - top) + 6
    x = min(max(round(box[0]) - 1, 0), max(size[0] - width, 0))
    heights = (box[1] - height, box[3], box[1], box[3] - height)
    places = [max(min(round(y), size[1] - height), 0) for y in heights]
    spots = [(x, y, x + width, y + height) for y in places]
    spot = min(spots, key=lambda one: sum(_shared(one, other) for other in taken))  # the first of equals
    taken.append(spot)
    pen.rectangle(spot, fill=shade, outline="white")
    pen.text((spot[0] + 3 - left, spot[1] + 3 - top), text, fill=_ink(shade), font=letters)


def _panel(
    canvas: Image.Image,
    x: int,
    found: Sequence[Drawn],
    total: int,
    letters: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    pen = ImageDraw.Draw(canvas)
    more = "" if total == len(found) else f" ({len(found)} of {total})"
    pen.text((x, 6), f"nearest examples{more}", fill="black", font=letters)
    for row, one in enumerate(found):
        y = 30 + row * (SIDE + 8)
        piece = Image.fromarray(one.crop)
        scale = SIDE / max(piece.size)
        piece = piece.resize((max(1, round(piece.width * scale)), max(1, round(piece.height * scale))))
        canvas.paste(piece, (x, y))
        pen.rectangle((x - 1, y - 1, x + piece.width, y + piece.height), outline=colour(one.label), width=2)
        lines = (f"{row + 1} {one.name}", f"{one.score:.0%}", one.example)
        for line, text in enumerate(lines):
            shown = _cut(pen, text, PANEL - SIDE - 24, letters)
            pen.text((x + SIDE + 8, y + line * (TEXT + 4)), shown, fill="black", font=letters)


def _cut(
    pen: ImageDraw.ImageDraw,
    text: str,
    width: int,
    letters: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> str:
    """As much of a text as fits: of long names of files the end tells most."""
    if pen.textlength(text, font=letters) <= width:
        return text
    while text and pen.textlength("…" + text, font=letters) > width:
        text = text[1:]
    return "…" + text


def _ink(shade: str) -> str:
    """Black or white, whichever stands out more on a colour (relative luminance)."""
    red, green, blue = (int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "black" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18 else "white"


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Pixels that both cover."""
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(0, width) * max(0, height)
