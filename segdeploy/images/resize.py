"""Resizing pictures and logits, bit for bit as mmseg does it, and logits to labels.

Axes: H, W of an image; K classes; h, w of logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.manifest import Resize
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Logits

_STRIPE_ROWS = 64
_Taps: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def network_size(height: int, width: int, resize: Resize) -> tuple[int, int]:
    """The (height, width) that an image is brought to, as ``mmcv.imrescale`` computes it.

    Raises:
        InputError: so narrow an image that nothing is left of its shorter side.
    """
    if resize.mode == "none" or resize.scale is None:
        return height, width
    if resize.mode == "exact":
        return resize.scale[1], resize.scale[0]
    factor = min(max(resize.scale) / max(height, width), min(resize.scale) / min(height, width))
    size = int(height * factor + 0.5), int(width * factor + 0.5)
    if not min(size):
        raise InputError(
            expected=f"an image that can be fitted within {resize.scale[0]}x{resize.scale[1]}",
            got=f"one of {width}x{height}",
            fix="cut it into parts",
        )
    return size


def resize_image(image: Image, height: int, width: int) -> Image:
    """Resize with OpenCV's bilinear filter, which mmcv uses; a no-op at the same size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_logits(logits: Logits, height: int, width: int, *, align_corners: bool) -> Logits:
    """Bilinear, as ``torch.nn.functional.interpolate`` computes it, without torch.

    Args:
        logits: float32 [N, K, h, w].
        height: of the result.
        width: of the result.
        align_corners: as in torch.

    Returns:
        float32 [N, K, height, width].
    """
    if logits.shape[2:] == (height, width):
        return logits
    return _sample_columns(
        _sample_rows(logits, _taps(logits.shape[2], height, align_corners=align_corners)), width, align_corners
    )


def reduce_logits(logits: Logits, cutoff: float | None = None) -> NDArray[np.intp]:
    """Labels of logits [N, K, H, W]: the argmax over K, or 1 where a binary head's only logit lies above ``cutoff``."""
    return logits.argmax(1) if cutoff is None else (logits[:, 0] > cutoff).astype(np.intp)


def resized_labels(
    logits: Logits, height: int, width: int, *, align_corners: bool, cutoff: float | None = None
) -> NDArray[np.intp]:
    """``reduce_logits(resize_logits(...))`` without ever holding all the resized logits: K a pixel of a large photograph.

    Args:
        logits: float32 [N, K, h, w].
        height: of the result.
        width: of the result.
        align_corners: as in torch.
        cutoff: see ``reduce_logits``.

    Returns:
        [N, height, width] labels, the same to the pixel.
    """
    if logits.shape[2:] == (height, width):
        return reduce_logits(logits, cutoff)
    labels = np.empty((len(logits), height, width), np.intp)
    for rows, stripe in resized_stripes(logits, height, width, align_corners=align_corners):
        labels[:, rows] = reduce_logits(stripe, cutoff)
    return labels


def resized_stripes(logits: Logits, height: int, width: int, *, align_corners: bool) -> Iterator[tuple[slice, Logits]]:
    """``resize_logits`` some rows at a time, from top to bottom.

    Args:
        logits: float32 [N, K, h, w].
        height: of the result.
        width: of the result.
        align_corners: as in torch.

    Yields:
        Which rows, and their logits, float32 [N, K, rows, width].
    """
    same = logits.shape[2:] == (height, width)
    low, high, share = _taps(logits.shape[2], height, align_corners=align_corners)
    for start in range(0, height, _STRIPE_ROWS):
        rows = slice(start, start + _STRIPE_ROWS)
        if same:
            yield rows, logits[:, :, rows]
        else:
            yield rows, _sample_columns(_sample_rows(logits, (low[rows], high[rows], share[rows])), width, align_corners)


def _sample_rows(logits: Logits, taps: _Taps) -> Logits:
    low, high, share = taps
    weight = share[:, None]
    return logits[:, :, low] * (1 - weight) + logits[:, :, high] * weight


def _sample_columns(logits: Logits, width: int, align_corners: bool) -> Logits:
    low, high, share = _taps(logits.shape[3], width, align_corners=align_corners)
    return np.asarray(logits[..., low] * (1 - share) + logits[..., high] * share, np.float32)


def _taps(size: int, target: int, *, align_corners: bool) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two source samples of every target sample, and the second one's share.

    Source: ATen/native/UpSample.h, ``area_pixel_compute_source_index``, in float32 as there.
    """
    index = np.arange(target, dtype=np.float32)
    if align_corners:
        scale = np.float32((size - 1) / (target - 1)) if target > 1 else np.float32(0)
        at = index * scale
    else:
        at = np.maximum((index + np.float32(0.5)) * np.float32(size / target) - np.float32(0.5), 0)
    low = np.minimum(at.astype(np.intp), size - 1)
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)
