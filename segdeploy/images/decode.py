"""Image files to pixels, bit for bit as mmseg decodes them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np

from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_LARGEST_IMAGE_PIXELS = 64_000_000


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
