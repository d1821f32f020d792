"""A picture's size is known, and judged, before it is decoded."""

import contextlib
import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import InputError
from segdeploy.images.dataset import read_label
from segdeploy.images.decode import decode_image
from segdeploy.images.header import read_header

SIZES = ((1, 1), (37, 53), (300, 7), (255, 256))


def saved(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def every_kind(height, width):
    """The same noise in every format and its varieties: name -> bytes."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "JPEG": saved(picture, "JPEG"),
        "JPEG progressive": saved(picture, "JPEG", progressive=True),
        "JPEG exif": saved(picture, "JPEG", exif=exif, comment=b"\xff\xc0\0\x11\x08\x00\x01\x00\x01"),
        "PNG": saved(picture, "PNG"),
        "PNG grey": saved(picture.convert("L"), "PNG"),
        "WEBP lossy": saved(picture, "WEBP"),
        "WEBP lossless": saved(picture, "WEBP", lossless=True),
        "WEBP extended": saved(picture, "WEBP", exif=exif),
        "WEBP alpha": saved(picture.convert("RGBA"), "WEBP"),
        "BMP": saved(picture, "BMP"),
        "TIFF": saved(picture, "TIFF"),
        "TIFF deflate": saved(picture, "TIFF", compression="tiff_adobe_deflate"),
    }
    pixels = np.asarray(picture)
    files["TIFF of OpenCV"] = bytes(cv2.imencode(".tif", pixels)[1])
    files["JPEG of OpenCV"] = bytes(cv2.imencode(".jpg", pixels)[1])
    top_down = bytearray(files["BMP"])
    struct.pack_into("<i", top_down, 22, -height)
    files["BMP top down"] = bytes(top_down)
    rows = b"".join(row.tobytes() + b"\0" * (-3 * width % 4) for row in pixels)
    files["BMP core"] = (
        b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + struct.pack("<IHHHH", 12, width, height, 1, 24) + rows
    )
    entries = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (279, 4, height * width),
    ]
    grey = pixels[..., 0].tobytes()
    directory = struct.pack(">H", len(entries)) + b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, value in entries
    )
    files["TIFF big-endian"] = b"MM\0*" + struct.pack(">I", 8 + len(grey)) + grey + directory + b"\0\0\0\0"
    return files


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", every_kind(4, 4))
def test_the_size_is_the_decoders(name, size):
    """Every format and variety: the kind, and the size that the decoder finds (turned where an orientation says so)."""
    height, width = size
    data = every_kind(height, width)[name]
    header = read_header(data)
    assert (header.kind, header.width, header.height, header.pixels) == (name.split()[0], width, height, width * height)
    assert sorted(decode_image(data, "x").shape[:2]) == sorted(size)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).shape[:2] == size


def test_a_thumbnail_is_not_met():
    """A JPEG whose EXIF holds a whole JPEG of another size, as every camera's does."""
    inner = saved(Image.new("RGB", (16, 8)), "JPEG")
    outer = saved(Image.new("RGB", (40, 30)), "JPEG")
    data = outer[:2] + b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(inner)) + b"Exif\0\0" + inner + outer[2:]
    assert (read_header(data).width, read_header(data).height) == (40, 30)
    assert decode_image(data, "x").shape == (30, 40, 3)


def test_garbage_between_a_jpegs_segments():
    """libjpeg skips what stands between two markers, stuffed zeros and fill bytes too: so does the size."""
    plain = saved(Image.new("RGB", (40, 30)), "JPEG")
    at = plain.index(b"\xff\xdb")
    data = plain[:at] + b"\x12\x34\xff\0\xff\xff\xff\0\x01" + b"\xff\xff" + plain[at:]
    assert (read_header(data).width, read_header(data).height) == (40, 30)
    assert decode_image(data, "x").shape == (30, 40, 3)


def png(width, height, *, before=b""):
    """A black grey PNG, of little more than its header; ``before`` stands ahead of the pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b"\0" * (width + 1)) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


BAD_CRC = struct.pack(">I", 4) + b"gAMA" + b"\0\0\0\1" + b"\0\0\0\0"


def test_a_bad_crc_opens_no_way_past_the_limit():
    """Pillow refuses such a file where OpenCV decodes it: it is refused by its header, and nothing is allocated."""
    data = png(9_000, 8_000, before=BAD_CRC)
    tracemalloc.start()
    with pytest.raises(InputError, match="at most 64 megapixels in 'x.png'; got 9000x8000"):
        decode_image(data, "'x.png'")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    small = png(30, 20, before=BAD_CRC)
    assert decode_image(small, "x").shape == (20, 30, 3), "what is small enough is decoded as mmseg decodes it"


OTHERS = {
    "HDR": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n" + b"\1\1\1\1" * 4,
    "PAM": b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n" + b"\0" * 4,
    "PPM": b"P6\n2 2\n255\n" + b"\0" * 12,
    "PFM": b"PF\n2 2\n-1.0\n" + b"\0" * 48,
    "GIF": saved(Image.new("L", (2, 2)), "GIF"),
    "BigTIFF": saved(Image.new("L", (2, 2)), "TIFF", big_tiff=True),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40,
    "Sun raster": b"\x59\xa6\x6a\x95" + b"\0" * 40,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats(name):
    """What OpenCV would decode besides, whose size nobody has looked at, is no image here."""
    with pytest.raises(InputError, match="something else, or cut short; pass a JPEG, PNG, WebP, BMP or TIFF file"):
        decode_image(OTHERS[name], "'x'")


@pytest.mark.parametrize("name", [name for name in every_kind(4, 4) if name != "BMP core"])
def test_a_header_that_promises_too_much(name):
    """In every format: a header of 20,000 x 20,000 above the data of a small picture."""
    data = bytearray(every_kind(37, 53)[name])
    header, wide = read_header(bytes(data)), 16_000
    if name.startswith("WEBP"):
        fields = {
            "VP8X": lambda: data.__setitem__(slice(24, 30), (wide - 1).to_bytes(3, "little") * 2),
            "VP8L": lambda: struct.pack_into("<I", data, 21, (wide - 1) | (wide - 1) << 14),
            "VP8 ": lambda: struct.pack_into("<HH", data, 26, wide, wide),
        }
        fields[data[12:16].decode()]()
    elif header.kind == "JPEG":
        at = data.rindex(struct.pack(">HH", 37, 53))
        struct.pack_into(">HH", data, at, wide, wide)
    elif header.kind == "PNG":
        struct.pack_into(">II", data, 16, wide, wide)
    elif header.kind == "BMP":
        struct.pack_into("<ii", data, 18, wide, -wide if "top" in name else wide)
    else:
        order = "<" if data[:2] == b"II" else ">"
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        for entry in range(at + 2, len(data) - 11, 12):
            if struct.unpack_from(f"{order}H", data, entry)[0] in (256, 257):
                struct.pack_into(f"{order}HII", data, entry + 2, 4, 1, wide)
            if struct.unpack_from(f"{order}H", data, entry)[0] == 257:
                break
    with pytest.raises(InputError, match="got 16000x16000"):
        decode_image(bytes(data), "'x'")


def test_the_tiles_of_a_tiff():
    """A small picture in one huge tile takes the tile's memory."""
    entries = [(256, 10), (257, 10), (258, 8), (259, 1), (262, 1), (277, 1), (322, 32_000), (323, 16_000)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    with pytest.raises(InputError, match="10x10 in tiles of 512000000 pixels"):
        decode_image(b"II*\0\x08\0\0\0" + directory + b"\0\0\0\0", "'x'")


@pytest.mark.parametrize(("width", "height"), [(2_000_000, 1), (1, 2_000_000)])
def test_an_extreme_aspect(width, height):
    """Few pixels, in one line longer than the decoder takes: an InputError, not a crash."""
    with pytest.raises(InputError):
        decode_image(png(width, height), "'x'")


def test_the_limit_can_be_lifted():
    """By whoever knows what comes; and lowered."""
    data = png(300, 200)
    assert decode_image(data, "x", max_pixels=60_000).shape == (200, 300, 3)
    with pytest.raises(InputError, match="at most 0.059999 megapixels"):
        decode_image(data, "x", max_pixels=59_999)


@pytest.mark.parametrize("name", every_kind(4, 4))
def test_damaged_files(name):
    """Cut anywhere, or with any byte of the head changed: the picture's own size, or one InputError of one line."""
    data = every_kind(37, 53)[name]
    random = np.random.default_rng(1)
    damaged = [data[:end] for end in {*range(0, 64, 3), *random.integers(64, len(data), 20).tolist()}]
    places = {*range(min(len(data), 64)), *random.integers(0, len(data), 60).tolist()}
    values = (0, 0xFF, int(random.integers(256)))
    damaged += [data[:at] + bytes([value]) + data[at + 1 :] for at in places for value in values]
    for one in damaged:
        decoded = None
        with contextlib.suppress(InputError):
            decoded = decode_image(one, "'x'", max_pixels=100_000)
        if decoded is not None:
            header = read_header(one)
            assert sorted(decoded.shape[:2]) == sorted((header.height, header.width))


def test_a_chunk_that_promises_too_much(monkeypatch):
    """A PNG of 6 kB whose chunk says that it has 4 GB, for which OpenCV takes that much: it is not asked."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    data = every_kind(37, 53)["PNG"]
    assert data[37:41] == b"IDAT"
    for at in (33, len(data) - 12):  # the pixels, and the end
        with pytest.raises(InputError, match="cut short"):
            decode_image(data[:at] + b"\xff" + data[at + 1 :], "'x'")


def test_label_maps_too(tmp_path):
    """A label map is held to the same limit and formats, with a fault in the file or without."""
    for before in (b"", BAD_CRC):
        (tmp_path / "x.png").write_bytes(png(9_000, 8_000, before=before))
        with pytest.raises(InputError, match=r"at most 64 megapixels in '.*x\.png'"):
            read_label(tmp_path / "x.png")
    (tmp_path / "x.pam").write_bytes(OTHERS["PAM"])
    with pytest.raises(InputError, match="something else"):
        read_label(tmp_path / "x.pam")


@pytest.mark.parametrize(("size", "kept"), [((5, 7), True), ((7, 5), True), ((5, 6), False), ((1, 35), False)])
def test_a_decoder_that_gives_another_size(monkeypatch, size, kept):
    """What is decoded is what the header promised, turned at most: else another size was checked than was made."""
    from segdeploy.images import decode

    data = saved(Image.new("RGB", (7, 5)), "PNG")
    monkeypatch.setattr(decode.cv2, "imdecode", lambda *_: np.zeros((*size, 3), np.uint8))
    if kept:
        assert decode_image(data, "it").shape == (*size, 3)
    else:
        with pytest.raises(InputError, match="7x5, as the header says, in it; got"):
            decode_image(data, "it")
