"""The size of a picture from its header, before anything is decoded: JPEG, PNG, WebP, BMP and TIFF, by their first bytes.

A few hundred kilobytes can hold a picture of gigabytes. Readers of whole files are no judge of that: what one refuses for a
fault somewhere, another decodes. This reads no more than it must, and what has no size is no picture.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

# JPEG's frame headers: all of C0 to CF but tables (C4), an extension (C8) and conditioning (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, without a length.
_JPEG_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}
# As libjpeg looks for the next one: past whatever is between, fill bytes and stuffed zeros among it.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
# TIFF: how a value is written by its type, and the tags of a picture's and of a tile's width and height.
_TIFF_VALUES = {1: "B", 3: "H", 4: "I"}
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 256, 257, 322, 323


@dataclass(frozen=True)
class Header:
    """What a picture says of itself.

    Attributes:
        kind: its format, as Pillow calls it.
        width: in pixels, before any EXIF orientation.
        height: likewise.
        pixels: that are held at once while it is decoded; a tile of a TIFF may be larger than the picture.
    """

    kind: str
    width: int
    height: int
    pixels: int


def read_header(data: bytes) -> Header | None:
    """The format and the size of a picture; None where it is of no format that is read here, or has no size.

    Args:
        data: the file's content.
    """
    for kind, starts, size in _FORMATS:
        if starts(data):
            try:
                width, height = size(data)
                pixels = max(width * height, _tile_pixels(data) if kind == "TIFF" else 0)
            except (struct.error, LookupError, ValueError):
                return None
            return Header(kind, width, height, pixels) if width > 0 and height > 0 else None
    return None


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ValueError("no IHDR")
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if at > len(data):  # OpenCV takes memory for what a chunk promises before it looks for it: up to 4 GB
            raise ValueError("a chunk that goes on behind the end")
    return struct.unpack_from(">II", data, 16)


def _jpeg(data: bytes) -> tuple[int, int]:
    """Of the first frame: segments are skipped by their length, so that a thumbnail inside one is not met."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker in (0xD8, 0xD9, 0xDA):
            break  # another picture, the end, or a scan before its frame
        if marker not in _JPEG_BARE:
            (length,) = struct.unpack_from(">H", data, at)
            if length < 2:
                break
            at += length
    raise ValueError("no frame")


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        if len(data) < 30:
            raise ValueError("cut")
        return width, height
    if chunk == b"VP8L":
        if data[20] != 0x2F:
            raise ValueError("no signature")
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if chunk == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise ValueError("no key frame")
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("no picture")


def _bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    if header == 12:
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # a negative height says that rows run from the top


def _tiff(data: bytes) -> tuple[int, int]:
    tags = _tiff_tags(data)
    return tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]


def _tile_pixels(data: bytes) -> int:
    tags = _tiff_tags(data)
    return tags.get(_TIFF_TILE_WIDTH, 0) * tags.get(_TIFF_TILE_HEIGHT, 0)


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The sizes in the first directory, which is the one that is decoded.

    Raises:
        ValueError: one is there twice, or is no one number.
    """
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    found: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT):
            if values != 1 or tag in found or kind not in _TIFF_VALUES:
                raise ValueError("no size, or two")
            found[tag] = struct.unpack_from(order + _TIFF_VALUES[kind], data, entry + 8)[0]
    return found


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


# BigTIFF (43) is for what is larger than any picture that belongs here.
_FORMATS: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes], tuple[int, int]]], ...] = (
    ("JPEG", lambda data: data[:3] == b"\xff\xd8\xff", _jpeg),
    ("PNG", lambda data: data[:8] == b"\x89PNG\r\n\x1a\n", _png),
    ("WEBP", _is_webp, _webp),
    ("BMP", lambda data: data[:2] == b"BM", _bmp),
    ("TIFF", lambda data: data[:4] in (b"II*\0", b"MM\0*"), _tiff),
)
