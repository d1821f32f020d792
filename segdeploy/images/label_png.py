"""Labels and pictures as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np

from segdeploy.images.arrays import Image, Labels

_VOID_COLOUR = (224, 224, 192)  # as in PASCAL VOC's own masks


def label_png(labels: Labels, palette: Sequence[tuple[int, int, int]], *, compress_level: int = 6) -> bytes:
    """A PNG whose pixel values are the labels: of a palette, which looks like an overlay and reads like a label map.

    A palette has 256 entries at most: with more labels the PNG is grey, of 16 bits, which reads like a label map alone.

    Args:
        labels: [H, W], 0 to 255; to 65,535 where the palette has more than 256 colours.
        palette: RGB a label.
        compress_level: zlib's, 0 to 9; 3 takes a third of the time of 6 for half as many bytes again.
    """
    from PIL import Image as Pillow

    stream = io.BytesIO()
    if len(palette) > 256:
        Pillow.fromarray(labels.astype(np.uint16)).save(stream, "PNG", compress_level=compress_level)
        return stream.getvalue()
    # All 256 entries: of a shorter palette Pillow makes a PNG of fewer bits, in which void (255) becomes another label.
    colours = [*[*palette, *[_VOID_COLOUR] * 256][:255], _VOID_COLOUR]
    picture = Pillow.fromarray(labels.astype(np.uint8))
    picture.putpalette([channel for colour in colours for channel in colour])
    picture.save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


def encode_png(image: Image) -> bytes:
    """A PNG of an RGB image."""
    done, data = cv2.imencode(".png", image[..., ::-1])
    assert done, "OpenCV encodes any uint8 [H, W, 3]"
    return bytes(data)
