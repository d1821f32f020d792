"""Images in, labels out: decoding and resizing, bit for bit as mmseg does it.

Axes: H, W of an image; K classes; h, w of logits.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.manifest import Resize
from segdeploy.base.errors import InputError

Image: TypeAlias = NDArray[np.uint8]  # [H, W, 3] RGB
Labels: TypeAlias = NDArray[Any]  # [H, W] uint8 (or int32 where there are more than 256 classes)
Logits: TypeAlias = NDArray[np.float32]  # [N, K, h, w]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_LARGEST_IMAGE_PIXELS = 64_000_000
_STRIPE_ROWS = 64
_Taps: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]
_VOID_COLOUR = (224, 224, 192)  # as in PASCAL VOC's own masks


def decode_image(data: bytes, source: str) -> Image:
    """Decode JPEG, PNG and what else OpenCV reads, applying the EXIF orientation, as mmcv does.

    Args:
        data: the file's content.
        source: what to call it in an error.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        InputError: it is not an image, or too large to be one.
    """
    fix = "pass a JPEG or PNG file"
    if not data:
        raise InputError(expected=f"an image in {source}", got="an empty file", fix=fix)
    _check_size(data, source)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(expected=f"an image in {source}", got=f"a decoder error: {error.err}", fix=fix) from error
    if bgr is None:
        raise InputError(expected=f"an image in {source}", got=f"{len(data)} bytes of something else", fix=fix)
    return np.ascontiguousarray(bgr[..., ::-1])


def read_image(path: Path) -> Image:
    """Read an image file; see ``decode_image``.

    Raises:
        InputError: it is missing or not an image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            expected=f"an image file at '{path}'", got=str(error.strerror).lower(), fix="check the path"
        ) from error
    return decode_image(data, f"'{path}'")


def list_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(expected=f"a folder of images at '{folder}'", got="no such folder", fix="check the path")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(
            expected=f"images in '{folder}'", got="none", fix=f"files that end in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


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


def label_png(labels: Labels, palette: Sequence[tuple[int, int, int]], *, compress_level: int = 6) -> bytes:
    """A palette PNG whose pixel values are the labels: looks like an overlay, reads like a label map.

    Args:
        labels: [H, W], 0 to 255.
        palette: RGB a label.
        compress_level: zlib's, 0 to 9; 3 takes a third of the time of 6 for half as many bytes again.
    """
    from PIL import Image as Pillow

    # All 256 entries: of a shorter palette Pillow makes a PNG of fewer bits, in which void (255) becomes another label.
    colours = [*[*palette, *[_VOID_COLOUR] * 256][:255], _VOID_COLOUR]
    picture = Pillow.fromarray(labels.astype(np.uint8))
    picture.putpalette([channel for colour in colours for channel in colour])
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=compress_level)
    return stream.getvalue()


def encode_png(image: Image) -> bytes:
    """A PNG of an RGB image."""
    done, data = cv2.imencode(".png", image[..., ::-1])
    assert done, "OpenCV encodes any uint8 [H, W, 3]"
    return bytes(data)


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


def _check_size(data: bytes, source: str) -> None:
    """Refuse a picture whose header promises more pixels than any camera's: decoding it would exhaust the memory."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            with Pillow.open(io.BytesIO(data)) as picture:
                width, height = picture.size
    except Pillow.DecompressionBombError as error:  # Pillow's own limit lies above ours, and hides the size
        raise _too_large(source, str(error).split(",", maxsplit=1)[0]) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, RuntimeError):
        return  # Pillow's plugins fail in all these ways on damaged files; the decoder has the last word
    if width * height > _LARGEST_IMAGE_PIXELS:
        raise _too_large(source, f"{width}x{height}")


def _too_large(source: str, got: str) -> InputError:
    return InputError(
        expected=f"at most {_LARGEST_IMAGE_PIXELS // 1_000_000} megapixels in {source}",
        got=got,
        fix="scale the image down first",
    )
