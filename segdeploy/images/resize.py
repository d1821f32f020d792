"""Resizing pictures and logits, bit for bit as mmseg does it, and logits to labels.

Axes: H, W of an image; K classes; h, w of logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.manifest import Resize
from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image, Logits

_STRIPE_ROWS = 64
_BILINEAR = Resize(mode="exact")
# mmcv's names of OpenCV's filters.
_FILTERS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
Taps: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def network_size(height: int, width: int, resize: Resize) -> tuple[int, int]:
    """The (height, width) that an image is brought to, as mmcv computes it.

    Sources: ``mmcv/image/geometric.py``; ``ResizeShortestEdge`` and ``ResizeToMultiple`` of mmseg.

    Raises:
        InputError: so narrow an image that nothing is left of its shorter side.
    """
    size = _size_after(height, width, resize)
    if not min(size):
        scale = resize.factor or resize.scale or ()
        raise InputError(
            expected=f"an image that can be fitted within {'x'.join(map(str, scale))}",
            got=f"one of {width}x{height}",
            fix="cut it into parts",
        )
    return network_size(*size, resize.then) if resize.then else size


def to_exactly(height: int, width: int, resize: Resize) -> Resize:
    """The same filter, to a fixed size whatever the image's ratio."""
    return msgspec.structs.replace(resize, mode="exact", scale=(width, height), factor=None, then=None)


def resize_picture(image: Image, resize: Resize) -> Image:
    """Bring an image to the network's input size: every resize of the pipeline, one after the other.

    Raises:
        InputError: see ``network_size``.
    """
    step: Resize | None = resize
    while step is not None:
        height, width = network_size(image.shape[0], image.shape[1], msgspec.structs.replace(step, then=None))
        image = resize_image(image, height, width, step)
        step = step.then
    return image


def resize_image(image: Image, height: int, width: int, how: Resize = _BILINEAR) -> Image:
    """Resize with the filter that mmcv would use; a no-op at the same size.

    Args:
        image: uint8 [H, W, 3].
        height: of the result.
        width: of the result.
        how: whose filter, and which; by default OpenCV's bilinear, which is mmcv's.
    """
    if image.shape[:2] == (height, width):
        return image
    if how.backend == "pillow":
        from PIL import Image as Pillow

        return np.array(Pillow.fromarray(image).resize((width, height), Pillow.Resampling[how.interpolation.upper()]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=_FILTERS[how.interpolation]), np.uint8)


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
    return sample(logits, linear_taps(logits.shape[2], height, align_corners=align_corners), width, align_corners=align_corners)


def reduce_logits(logits: Logits, cutoff: float | None = None) -> NDArray[np.intp]:
    """Labels of logits [N, K, H, W]: the argmax over K, or 1 where a binary head's only logit lies above ``cutoff``."""
    return logits.argmax(1) if cutoff is None else (logits[:, 0] > cutoff).astype(np.intp)


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
    for start in range(0, height, _STRIPE_ROWS):
        rows = slice(start, min(start + _STRIPE_ROWS, height))
        yield rows, resized_rows(logits, rows, height, width, align_corners=align_corners)


def resized_rows(logits: Logits, rows: slice, height: int, width: int, *, align_corners: bool) -> Logits:
    """Some rows of ``resize_logits``, which makes no others: float32 [N, K, rows, width]."""
    if logits.shape[2:] == (height, width):
        return logits[:, :, rows]
    low, high, share = linear_taps(logits.shape[2], height, align_corners=align_corners)
    return sample(logits, (low[rows], high[rows], share[rows]), width, align_corners=align_corners)


def sample(logits: Logits, rows: Taps, width: int, *, align_corners: bool) -> Logits:
    """Bilinear samples at the rows that taps name, and at all columns of a width."""
    return _sample_columns(_sample_rows(logits, rows), width, align_corners)


def _size_after(height: int, width: int, resize: Resize) -> tuple[int, int]:
    """(height, width) after this resize alone, not checked."""
    if resize.mode == "none":
        return height, width
    if resize.mode == "shortest_edge":
        return _shortest_edge(height, width, resize)
    box = resize.scale
    if resize.factor is not None:
        box = int(width * resize.factor[0] + 0.5), int(height * resize.factor[1] + 0.5)
    assert box is not None, "every mode but 'none' has a scale or a factor"
    if resize.mode == "exact":
        return box[1], box[0]
    if resize.mode == "multiple":
        return math.ceil(height / box[1]) * box[1], math.ceil(width / box[0]) * box[0]
    factor = min(max(box) / max(height, width), min(box) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def _shortest_edge(height: int, width: int, resize: Resize) -> tuple[int, int]:
    """In the order of operations of mmseg's ResizeShortestEdge: a sum in another order may round to another size."""
    assert resize.scale is not None
    shorter, longest = resize.scale
    scale = shorter / min(height, width)
    new = (float(shorter), scale * width) if height < width else (scale * height, float(shorter))
    if max(new) > longest:
        shrink = longest / max(new)
        new = new[0] * shrink, new[1] * shrink
    # The Resize inside it fits within the size that was computed, once more.
    box = int(new[0] + 0.5), int(new[1] + 0.5)
    return _size_after(height, width, Resize(mode="keep_ratio", scale=(box[1], box[0]))) if min(box) else box


def _sample_rows(logits: Logits, taps: Taps) -> Logits:
    low, high, share = taps
    weight = share[:, None]
    return logits[:, :, low] * (1 - weight) + logits[:, :, high] * weight


def _sample_columns(logits: Logits, width: int, align_corners: bool) -> Logits:
    low, high, share = linear_taps(logits.shape[3], width, align_corners=align_corners)
    return np.asarray(logits[..., low] * (1 - share) + logits[..., high] * share, np.float32)


def linear_taps(
    size: int, out_size: int, *, align_corners: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two source samples of every sample of the result, and the second one's share.

    Source: ATen/native/UpSample.h, ``area_pixel_compute_source_index``, in float32 as there.
    """
    index = np.arange(out_size, dtype=np.float32)
    if align_corners:
        scale = np.float32((size - 1) / (out_size - 1)) if out_size > 1 else np.float32(0)
        at = index * scale
    else:
        at = np.maximum((index + np.float32(0.5)) * np.float32(size / out_size) - np.float32(0.5), 0)
    low = np.minimum(at.astype(np.intp), size - 1)
    return low, np.minimum(low + 1, size - 1), (at - low).astype(np.float32)
