"""Image files to pixels, bit for bit as mmseg decodes them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from segdeploy.base.errors import InputError
from segdeploy.images.arrays import Image
from segdeploy.images.header import Header, read_header

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# More than any camera's picture has; decoded it takes a fifth of a gigabyte, and its logits more.
MAX_PIXELS = 64_000_000
# The most that JPEG can say. A picture one pixel high may have millions, and tables of a side's length are made of it.
MAX_SIDE = 65_535
FORMATS = "JPEG, PNG, WebP, BMP or TIFF"


def decode_image(data: bytes, source: str, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode JPEG, PNG, WebP, BMP or TIFF, applying the EXIF orientation, as mmcv does.

    Args:
        data: the file's content.
        source: what to call it in an error.
        max_pixels: a picture whose header promises more is refused before it is decoded.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        InputError: it is not an image, or too large to be one.
    """
    header = checked_header(data, source, max_pixels=max_pixels)
    fix = "mend it, or save it anew"
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(expected=f"an image in {source}", got=f"a decoder error: {error.err}", fix=fix) from error
    if bgr is None:
        got = f"{len(data)} bytes of a damaged {header.kind} of {header.width}x{header.height}"
        raise InputError(expected=f"an image in {source}", got=got, fix=fix)
    height, width = bgr.shape[:2]
    if sorted((width, height)) != sorted((header.width, header.height)):  # an orientation may have turned it
        raise InputError(
            expected=f"an image of {header.width}x{header.height}, as the header says, in {source}",
            got=f"{width}x{height}",
            fix=fix,
        )
    return np.ascontiguousarray(bgr[..., ::-1])


def checked_header(data: bytes, source: str, *, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a picture that may be decoded.

    Raises:
        InputError: it is of no format that is read here, or would exhaust the memory.
    """
    header = read_header(data)
    if header is None:
        got = f"{len(data)} bytes of something else, or cut short" if data else "an empty file"
        raise InputError(expected=f"an image in {source}", got=got, fix=f"pass a {FORMATS} file")
    if max(header.width, header.height) > MAX_SIDE:
        got = f"{header.width}x{header.height}"
        raise InputError(expected=f"sides of at most {MAX_SIDE:,} pixels in {source}", got=got, fix="cut the image into parts")
    if header.pixels > max_pixels:
        tiles = "" if header.pixels == header.width * header.height else f" in tiles of {header.pixels} pixels"
        raise InputError(
            expected=f"at most {max_pixels / 1e6:g} megapixels in {source}",
            got=f"{header.width}x{header.height}{tiles}",
            fix="scale the image down first, or lift the limit: --max-pixels",
        )
    return header


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image file; see ``decode_image``.

    Raises:
        InputError: it is missing or not an image.
    """
    return decode_image(_read(path), f"'{path}'", max_pixels=max_pixels)


def read_checked(path: Path, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """An image file that others will decode, whatever its size: mmseg's own loader does, and a server may.

    Raises:
        InputError: it is missing, of no format that is read here, or has more pixels.
    """
    data = _read(path)
    checked_header(data, f"'{path}'", max_pixels=max_pixels)
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            expected=f"an image file at '{path}'", got=str(error.strerror).lower(), fix="check the path"
        ) from error


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
