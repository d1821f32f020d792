"""The surfaces of the synthetic shapes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# In steps of 60 degrees around the colour circle.
_HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
_PATTERNS = ("dotted", "checked", "ringed", "halved")
# The first two come in the hue of their class, the others in each of the hues.
FILLS = ("", "striped ", *(f"{hue} {pattern} " for pattern in _PATTERNS for hue in _HUES))


def wide_fill(
    random: np.random.Generator, rows: NDArray[np.int64], columns: NDArray[np.int64], hue: float, *, striped: bool
) -> NDArray[np.float64]:
    """A surface whose hue spreads widely, of any brightness, shaded.

    Args:
        random: draws what varies.
        rows: [h, w] of the pixels.
        columns: likewise.
        hue: its middle, 0..180 as OpenCV has it.
        striped: with stripes.

    Returns:
        [h, w, 3] RGB, 0..255 and somewhat beyond.
    """
    colour = _colour(hue + random.normal(0, 9), random.uniform(90, 200), random.uniform(110, 245))
    angle = random.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    shade = 14 * np.sin(along / random.uniform(14, 30))
    if striped:
        shade = shade + 55 * np.sign(np.sin(along / random.uniform(1.6, 2.6)))
    return np.asarray(colour + shade[..., None], np.float64)


def patterned_fill(
    random: np.random.Generator, rows: NDArray[np.float64], columns: NDArray[np.float64], radius: float, fill: int
) -> NDArray[np.float64]:
    """A surface of a pattern as large as its object, in a narrow range of hues.

    Args:
        random: draws what varies.
        rows: [h, w] of the pixels, from the object's centre.
        columns: likewise.
        radius: of the object, in pixels.
        fill: an index of ``FILLS``, from 2.

    Returns:
        As ``wide_fill``.
    """
    pattern, hue = divmod(fill - 2, len(_HUES))
    colour = _colour(180 / len(_HUES) * hue + random.normal(0, 3), random.uniform(150, 220), random.uniform(130, 190))
    angle = random.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    step = max(radius * random.uniform(0.45, 0.6), 5) / (2 * np.pi)
    high = (
        np.cos(along / step) + np.cos(across / step) > 0.5,
        np.sin(along / step / 2) * np.sin(across / step / 2) > 0,
        np.sin(np.hypot(along, across) / step) > 0,
        along > 0,
    )[pattern]
    return np.asarray(colour + np.where(high, 50.0, -50.0)[..., None], np.float64)


def _colour(hue: float, saturation: float, value: float) -> NDArray[np.float64]:
    pixel = np.array([[[hue % 180, saturation, value]]], np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)
