"""Labels made visible: colours over the image, and a legend that says what they mean."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from segdeploy.images.arrays import Image, Labels

_PAPER, _INK = 255, (30, 30, 30)
_SMALLEST_TEXT, _LARGEST_TEXT = 12, 56  # pixels
_CAPTION = 18


def overlay(image: Image, labels: Labels, palette: Sequence[tuple[int, int, int]], *, opacity: float = 0.5) -> Image:
    """The image with the labels' colours laid over it.

    Args:
        image: uint8 [H, W, 3].
        labels: [H, W]; a value outside the palette (void) is left clear.
        palette: RGB a label.
        opacity: of the colours, in [0, 1].
    """
    table = np.zeros((max(256, len(palette), int(labels.max(initial=0)) + 1), 3), np.uint8)
    table[: len(palette)] = palette
    blended = np.asarray(cv2.addWeighted(image, 1 - opacity, table[labels], opacity, 0), np.uint8)
    void = labels >= len(palette)
    if void.any():
        blended[void] = image[void]
    return blended


def class_shares(labels: Labels, classes: int) -> dict[int, float]:
    """Which labels occur and on which share of the pixels, the most frequent first; void is not counted.

    Args:
        labels: [H, W].
        classes: how many there are; values from there on are void.
    """
    counts = np.bincount(labels.ravel(), minlength=classes)[:classes]
    return {int(label): float(counts[label] / labels.size) for label in np.argsort(-counts, kind="stable") if counts[label]}


def with_legend(
    picture: Image, names: Sequence[str], palette: Sequence[tuple[int, int, int]], shown: Mapping[int, float | None]
) -> Image:
    """The picture with a legend below it.

    Args:
        picture: uint8 [H, W, 3] RGB.
        names: of all labels.
        palette: RGB a label.
        shown: which labels to list, in this order, with their share of the pixels in [0, 1]; None to leave it out.

    Returns:
        uint8 [H + legend, W or what the longest entry needs, 3] RGB.
    """
    height, width = picture.shape[:2]
    # In proportion to the picture, so that it can be read wherever the picture can, and never too small to be read at all.
    # A row of pictures is read as one of them is.
    size = int(np.clip(round(min(max(height, width), 2 * min(height, width)) / 42), _SMALLEST_TEXT, _LARGEST_TEXT))
    panel = _panel(
        tuple((names[label], tuple(palette[label]), share) for label, share in shown.items()), max(width, 10 * size), size
    )
    wide = max(width, panel.shape[1])
    canvas = np.full((height + panel.shape[0], wide, 3), _PAPER, np.uint8)
    canvas[:height, :width] = picture
    canvas[height:, : panel.shape[1]] = panel
    return canvas


def captioned(text: str, picture: Image) -> Image:
    """The picture with a line of text above it, and a margin at its right, for a row of pictures."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    font = _font(_CAPTION)
    canvas = Pillow.new("RGB", (picture.shape[1] + _CAPTION // 2, picture.shape[0] + 2 * _CAPTION), (_PAPER,) * 3)
    ImageDraw.Draw(canvas).text((2, _CAPTION // 3), _drawable(text, font), _INK, font)
    canvas.paste(Pillow.fromarray(picture), (0, 2 * _CAPTION))
    return np.asarray(canvas)


@functools.lru_cache(maxsize=8)  # of a video, the legend is the same on every frame
def _panel(entries: tuple[tuple[str, tuple[int, int, int], float | None], ...], width: int, size: int) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw

    font = _font(size)
    texts = [_drawable(_text(name, share), font) for name, _, share in entries]
    gap = size // 2
    cell = max((3 * gap + size + round(font.getlength(text)) for text in texts), default=0)
    columns = max(1, min(len(entries), width // max(cell, 1)))
    rows = -(-len(entries) // columns)
    line = round(1.5 * size)
    panel = Pillow.new("RGB", (max(width, cell), rows * line + gap if entries else 0), (_PAPER,) * 3)
    draw = ImageDraw.Draw(panel)
    for index, (text, (_, colour, _)) in enumerate(zip(texts, entries, strict=True)):
        left, top = (index % columns) * (panel.width // columns) + gap, (index // columns) * line + gap
        draw.rectangle((left, top, left + size, top + size), fill=tuple(colour), outline=_INK)
        draw.text((left + size + gap, top + size / 2), text, fill=_INK, font=font, anchor="lm")
    return np.asarray(panel)


def _text(name: str, share: float | None) -> str:
    if share is None:
        return name
    return f"{name} {100 * share:.1f} %" if share >= 0.0005 else f"{name} < 0.1 %"


@functools.lru_cache(maxsize=4)
def _font(size: int) -> Any:
    """A font of many scripts where the machine has one, else the Latin one that comes with Pillow."""
    from PIL import ImageFont

    for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf"):
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _drawable(text: str, font: Any) -> str:
    """The text with a question mark for each character that the font has no glyph for: a gap should be seen as one."""
    missing = bytes(font.getmask("\U0010ffff"))
    return "".join("?" if not one.isascii() and bytes(font.getmask(one)) == missing else one for one in text)


def even(picture: Image) -> Image:
    """The picture with a last row and column repeated where their number is odd, which video codecs do not take."""
    height, width = picture.shape[:2]
    if height % 2 == width % 2 == 0:
        return picture
    return np.asarray(cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
