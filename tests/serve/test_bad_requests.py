"""Requests that cannot be answered, each beside good ones: an error of its own, and no pixel less for the others."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import InputError
from segdeploy.serve.parsing import MAX_BYTES, MOST_PICTURES
from segdeploy.serve.predictor import Predictor
from segdeploy.serve.request import Part, Request, request_of_http

LARGEST = 40_000  # pixels


def encoded_as(kind, size=(60, 40), mode="RGB", **how):
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)
    stream = io.BytesIO()
    picture.save(stream, kind, **how)
    return stream.getvalue()


PNG, JPEG, WEBP = encoded_as("PNG"), encoded_as("JPEG"), encoded_as("WEBP", lossless=True)
BMP, TIFF = encoded_as("BMP"), encoded_as("TIFF")


def png_saying(width, height, depth=8, colour=2, data=b""):
    """A PNG whose header says what one likes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def form(*parts, boundary="xyz", end=b"--\r\n", border=None):
    """A form; each part is (head, content)."""
    border = boundary if border is None else border
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (border.encode(), head, content) for head, content in parts)
    kind = f"multipart/form-data; boundary={boundary}" if boundary else "multipart/form-data"
    return Request(body + b"--" + border.encode() + end, kind)


def file(name=b"image", kind=b"image/png"):
    return b'Content-Disposition: form-data; name="%s"; filename="x"\r\nContent-Type: %s' % (name, kind)


def text(name):
    return b'Content-Disposition: form-data; name="%s"' % name


def plain(body):
    return Request(body)


def asking(accept="", options="", **query):
    return Request(PNG, accept=accept, query=query, options=options)


def files(count):
    return form(*[(file(f"f{index}".encode()), PNG) for index in range(count)])


NOT_PICTURES = {
    "empty": b"",
    "one byte": b"x",
    "text": b"hello, this is no picture at all" * 20,
    "noise": np.random.default_rng(0).bytes(5000),
    "zeros": bytes(5000),
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "gif": encoded_as("GIF", mode="P"),
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "base64": b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ",
    "json": b'{"instances": [{"data": "iVBORw0KGgo"}]}',
    "avif": b"\x00\x00\x00 ftypavif" + bytes(100),
    "jpeg 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
    "psd": b"8BPS\x00\x01" + bytes(100),
    "signature of PNG": PNG[:8],
    "signature of JPEG": JPEG[:3],
    "signature of WebP": WEBP[:12],
    "signature of BMP": BMP[:2],
    "signature of TIFF": TIFF[:4],
    "header of PNG": PNG[:33],
    "PNG without its end": PNG[:-12],
    "half a PNG": PNG[: len(PNG) // 2],
    "header of JPEG": JPEG[:200],
    "header of WebP": WEBP[:30],
    "half a BMP": BMP[:50],
    "header of TIFF": TIFF[:9],
    "byte before a PNG": b" " + PNG,
    "PNG with a broken IHDR": PNG[:12] + b"JHDR" + PNG[16:],
    "PNG with a chunk of 4 GB": PNG[:33] + b"\xff\xff\xff\xffIDAT" + PNG[41:],
    "PNG of no width": png_saying(0, 40),
    "PNG of no height": png_saying(40, 0),
    "PNG of 1 bit that is none": png_saying(40, 40, depth=3),
    "PNG of a colour type that is none": png_saying(40, 40, colour=5),
    "PNG bomb": png_saying(30_000, 30_000),
    "PNG of 4 gigapixels squared": png_saying(2**31 - 1, 2**31 - 1),
    "PNG above the limit": encoded_as("PNG", size=(LARGEST // 100 + 1, 100)),
    "PNG of one row": png_saying(LARGEST, 1, data=bytes(3 * LARGEST + 1)),
    "PNG of one column": png_saying(1, LARGEST, data=bytes(4 * LARGEST)),
    "PNG of two rows": png_saying(LARGEST // 2, 2, data=bytes(2 * (3 * LARGEST // 2 + 1))),
    "BMP bomb": BMP[:18] + struct.pack("<ii", 30_000, 30_000) + BMP[26:],
    "BMP upside down bomb": BMP[:18] + struct.pack("<ii", 30_000, -30_000) + BMP[26:],
    "BMP of no width": BMP[:18] + struct.pack("<ii", 0, 40) + BMP[26:],
    "BMP of a width below zero": BMP[:18] + struct.pack("<ii", -60, 40) + BMP[26:],
    "WebP bomb": b"RIFF\x1e\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\xff\xff\x3f\xff\xff\x3f" + bytes(8),
    "JPEG bomb": JPEG[: JPEG.index(b"\xff\xc0") + 5] + struct.pack(">HH", 65_535, 65_535) + JPEG[JPEG.index(b"\xff\xc0") + 9 :],
    "JPEG of no height": JPEG[: JPEG.index(b"\xff\xc0") + 5] + struct.pack(">HH", 0, 60) + JPEG[JPEG.index(b"\xff\xc0") + 9 :],
    "two pictures' halves": JPEG[:100] + PNG[100:],
}

CUT = {
    "PNG": PNG,
    "JPEG": JPEG,
    "progressive JPEG": encoded_as("JPEG", progressive=True),
    "WebP": WEBP,
    "lossy WebP": encoded_as("WEBP"),
    "BMP": BMP,
    "TIFF": TIFF,
}

CASES = [
    *[(f"body: {name}", plain(body), 422) for name, body in NOT_PICTURES.items()],
    *[
        (f"{kind} cut after {part}", plain(body[: int(part * len(body))]), 422)
        for kind, body in CUT.items()
        for part in (0.5, 0.9, 0.99)
    ],
    *[(f"form: {name}", form((file(), body)), 422) for name, body in NOT_PICTURES.items() if len(body) < 200],
    ("too large a body", plain(bytes(MAX_BYTES + 1)), 413),
    ("too large a form", form((file(), bytes(MAX_BYTES))), 413),
    ("too large, taken apart", Request(b"", parts=(Part("a", bytes(MAX_BYTES // 2)), Part("b", bytes(MAX_BYTES)))), 413),
    *[
        (f"type {kind}", Request(PNG, kind), 415)
        for kind in (
            "application/json",
            "text/plain",
            "text/html; charset=utf-8",
            "application/x-www-form-urlencoded",
            "multipart/mixed; boundary=x",
            "video/mp4",
            "application/pdf",
            "image",
            "../../etc/passwd",
        )
    ],
    *[
        (f"accept {accept}", asking(accept), 406)
        for accept in (
            "text/html",
            "image/jpeg",
            "application/xml, text/*;q=0.5",
            "image/png; profile=heatmap",
            "image/png;q=0",
            "*/*;q=0",
            "application/json;q=high",
            "nonsense",
        )
    ],
    *[
        (f"option {name}={value}", asking(**{name: value}), 400)
        for name, value in (
            ("as", "video"),
            ("as", ""),
            ("as", "JSON"),
            ("As", "json"),
            ("mode", "slide"),
            ("", ""),
            ("classes", ""),
            ("classes", "unicorn"),
            ("classes", "-1"),
            ("classes", "999"),
            ("classes", "0,,1"),
            ("classes", "²"),
            ("classes", "9" * 5000),
            ("size", "huge"),
            ("size", "512x512"),
            ("confidence", "yes"),
            ("confidence", "2"),
            ("confidence", "1"),
            ("größe", "network"),
        )
    ],
    ("confidence of an overlay", asking(**{"as": "overlay", "confidence": "1"}), 400),
    ("options of no query", asking(options="as"), 400),
    ("options that contradict", asking(options="as=json", **{"as": "mask"}), 400),
    ("options with one unknown", asking(options="as=json&turbo=1"), 400),
    ("very many options", asking(options="&".join(f"a{index}=1" for index in range(500))), 400),
    ("form without a boundary", form((file(), PNG), boundary="", border="xyz"), 400),
    ("form with another boundary", form((file(), PNG), border="abc"), 400),
    ("form with a boundary too long", form((file(), PNG), boundary="b" * 71), 400),
    ("form that ends early", form((file(), PNG), end=b""), 400),
    ("form cut in its part", replace(form((file(), PNG)), body=form((file(), PNG)).body[:150]), 400),
    ("form of nothing", Request(b"", "multipart/form-data; boundary=xyz"), 400),
    ("form without parts", form(), 400),
    ("form without a picture", form((text(b"as"), b"json")), 400),
    ("form of parts without a name", form((b"Content-Type: image/png", PNG)), 400),
    ("form of parts without heads", form((b"", PNG)), 400),
    ("form of an attachment", form((b'Content-Disposition: attachment; name="a"', PNG)), 400),
    ("form with an unknown field", form((file(), PNG), (text(b"turbo"), b"1")), 400),
    ("form with a bad option", form((file(), PNG), (text(b"size"), b"\xff\xfe")), 400),
    ("form with two of an option", form((file(), PNG), (text(b"as"), b"json"), (text(b"as"), b"mask")), 400),
    ("form of too many pictures", files(MOST_PICTURES + 1), 400),
    ("form of very many parts", files(200), 400),
    ("several pictures as one PNG", replace(files(2), accept="image/png"), 406),
    ("a problem that the server saw", Request(PNG, problem=InputError(expected="a", got="b", fix="c")), 400),
    ("no time", request_of_http(PNG, {"x-request-deadline": "soon"}), 400),
    ("an endless time", request_of_http(PNG, {"X-Request-Deadline": "inf"}), 400),
    ("too late", Request(PNG, deadline=time.monotonic() - 1), 504),
    ("too late by its header", request_of_http(PNG, {"X-REQUEST-DEADLINE": "1000.5"}), 504),
]
GOOD = [
    plain(PNG),
    plain(JPEG),
    Request(WEBP, "image/webp"),
    form((file(), BMP), (text(b"as"), b"overlay")),
    asking(size="network"),
    asking("application/json;q=0.9, image/png; profile=overlay"),
    files(3),
]


@pytest.fixture(scope="module")
def alone(onnx_session):
    """A predictor, and what it answers to each good request by itself."""
    predictor = Predictor(onnx_session, max_pixels=LARGEST)
    answers = [predictor.answer([request])[0] for request in GOOD]
    assert [answer.status for answer in answers] == [200] * len(GOOD)
    return predictor, answers


def test_there_are_many():
    """More than the eighty that were promised, under names of their own."""
    assert len({name for name, _, _ in CASES}) == len(CASES) > 150


@pytest.mark.parametrize("part", range(10))
def test_each_bad_request_fails_alone(alone, part):
    """In batches of all kinds: its status and its three parts; and every good one's answer to the byte as if it were alone."""
    predictor, expected = alone
    batch = [(request, status, name) for name, request, status in CASES[part::10]]
    batch += [(request, index, None) for index, request in enumerate(GOOD)]
    random.Random(part).shuffle(batch)
    answers = predictor.answer([request for request, _, _ in batch])
    assert len(answers) == len(batch)
    for answer, (_, told, name) in zip(answers, batch, strict=True):
        if name is None:
            assert answer == expected[told]
            continue
        assert (answer.status, answer.content_type) == (told, "application/json"), (name, answer.body[:300])
        assert answer.phrase.isascii()
        assert answer.phrase
        error = json.loads(answer.body)
        assert error["status"] == told
        for key in ("expected", "got", "fix"):
            assert 0 < len(error[key]) < 300, name
        assert len(answer.body) < 1000
        assert "Traceback" not in answer.body.decode()


def test_bombs_are_refused_before_they_are_decoded(alone, monkeypatch):
    """By their headers: no decoder sees them."""
    predictor, _ = alone
    monkeypatch.setattr("segdeploy.serve.predictor.decode_image", lambda *_, **__: pytest.fail("decoded"))
    bombs = [body for name, body in NOT_PICTURES.items() if "bomb" in name or "of one" in name or "above" in name]
    assert len(bombs) == 8
    assert {answer.status for answer in predictor.answer([plain(body) for body in bombs])} == {422}


def test_a_form_with_a_bad_picture_tells_each_ones_fate(alone):
    """207, and a list in the order of the form: the good ones' answers, the bad ones' errors, under their names."""
    predictor, _ = alone
    (answer,) = predictor.answer([form((file(b"a"), PNG), (file(b"b"), b"?"), (file(b"c"), JPEG))])
    assert answer.status == 207
    told = json.loads(answer.body)["pictures"]
    assert [(one["name"], one["status"]) for one in told] == [("a", 200), ("b", 422), ("c", 200)]
    assert "'b'" in told[1]["expected"]


def test_pictures_of_one_request_share_the_limit(onnx_session):
    """A small form cannot bring sixteen times what a body may."""
    (answer,) = Predictor(onnx_session, max_pixels=60 * 40 * 2).answer([files(3)])
    assert [one["status"] for one in json.loads(answer.body)["pictures"]] == [200, 200, 422]
    assert answer.status == 207
