import io

import cv2
import numpy as np
import pytest
from PIL import Image

from segdeploy.artifact.manifest import Resize
from segdeploy.base.errors import InputError
from segdeploy.images.decode import MAX_SIDE, decode_image, list_images, read_image
from segdeploy.images.label_png import encode_png, label_png
from segdeploy.images.resize import network_size, resize_image, resize_logits


def picture(height=37, width=53, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((8, 12), (32, 48)),
        ((7, 5), (61, 33)),
        ((33, 47), (9, 100)),
        ((50, 50), (13, 7)),
        ((1, 1), (5, 6)),
        ((4, 9), (1, 1)),
        ((3, 1), (3, 8)),
        ((16, 24), (481, 641)),
    ],
)
def test_resize_logits_is_torchs(size, target, align_corners):
    """Up, down, odd, to and from one pixel: as torch's own interpolate, to float32's last digits."""
    import torch

    logits = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    ours = resize_logits(logits, *target, align_corners=align_corners)
    theirs = torch.nn.functional.interpolate(torch.tensor(logits), target, mode="bilinear", align_corners=align_corners)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5, rtol=0)


def test_resize_logits_keeps_the_same_size():
    """At the same size nothing is computed."""
    logits = np.zeros((1, 2, 3, 4), np.float32)
    assert resize_logits(logits, 3, 4, align_corners=False) is logits


@pytest.mark.parametrize("scale", [(2048, 512), (512, 512), (480, 360), (96, 64), (64, 96), (333, 777)])
def test_network_size_is_mmcvs(scale):
    """For hundreds of sizes, what mmcv's own rescale makes of an image."""
    import mmcv

    random = np.random.default_rng(1)
    sizes = [(1, 1), (1, 500), (500, 1), *random.integers(2, 900, (120, 2)).tolist()]
    for height, width in sizes:
        image = np.zeros((height, width), np.uint8)
        factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
        if min(height, width) * factor < 0.5:
            with pytest.raises(InputError, match=f"{width}x{height}"):
                network_size(height, width, Resize(mode="keep_ratio", scale=scale))
            continue  # and cv2 with mmcv: nothing is left of it
        expected = mmcv.imrescale(image, scale).shape
        assert network_size(height, width, Resize(mode="keep_ratio", scale=scale)) == expected, (height, width)


def test_network_size_of_the_other_modes():
    """``exact`` is (width, height) as mmseg writes it; ``none`` leaves the size alone."""
    assert network_size(10, 20, Resize(mode="exact", scale=(96, 64))) == (64, 96)
    assert network_size(10, 20, Resize(mode="none")) == (10, 20)


@pytest.mark.parametrize("target", [(64, 96), (20, 30), (37, 53), (111, 40)])
def test_resize_image_is_mmcvs(target):
    """Bit for bit as mmcv resizes an image."""
    import mmcv

    image = picture()
    np.testing.assert_array_equal(resize_image(image, *target), mmcv.imresize(image, target[::-1]))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("grey", [False, True])
def test_decode_is_mmcvs(suffix, grey):
    """Colour and grey files of every format decode to mmcv's pixels, in RGB order."""
    import mmcv

    image = picture()[..., 0] if grey else picture()
    data = bytes(cv2.imencode(suffix, image)[1])
    decoded = decode_image(data, "test")
    np.testing.assert_array_equal(decoded[..., ::-1], mmcv.imfrombytes(data))
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_mmcvs(orientation):
    """A photograph that a phone took upside down is turned as mmcv turns it."""
    import mmcv

    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "JPEG", exif=exif, quality=95)
    decoded = decode_image(stream.getvalue(), "test")
    assert decoded.shape[:2] == ((53, 37) if orientation >= 5 else (37, 53))
    np.testing.assert_array_equal(decoded[..., ::-1], mmcv.imfrombytes(stream.getvalue()))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "I;16", "1", "CMYK"])
def test_unusual_files_are_mmcvs(mode):
    """Transparency, palettes, 16 bits, CMYK: what mmcv makes of them, mmseg trained on."""
    import mmcv

    stream = io.BytesIO()
    if mode == "I;16":
        Image.fromarray((np.arange(37 * 53).reshape(37, 53) * 30).astype(np.uint16)).save(stream, "PNG")
    else:
        Image.fromarray(picture()).convert(mode).save(stream, "JPEG" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(decode_image(stream.getvalue(), "test")[..., ::-1], mmcv.imfrombytes(stream.getvalue()))


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"\xff\xd8\xff\xe0" + b"\0" * 20])
def test_what_is_no_image(data):
    """An empty, foreign or cut file is an InputError of one line that names it."""
    with pytest.raises(InputError, match="'x.png'") as caught:
        decode_image(data, "'x.png'")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [8_100, 10_000, 20_000])
def test_a_picture_that_would_exhaust_memory(side, recwarn):
    """A small file whose header promises a huge picture is refused before it is decoded, below Pillow's limits and above."""
    stream = io.BytesIO()
    Image.new("1", (side, side)).save(stream, "PNG", compress_level=1)
    with pytest.raises(InputError, match="at most 64 megapixels in 'x.png'"):
        decode_image(stream.getvalue(), "'x.png'")
    assert not recwarn.list


def test_read_image(tmp_path):
    """A file is read as it is decoded; a missing one and a folder are InputErrors."""
    (tmp_path / "x.png").write_bytes(encode_png(picture()))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), picture())
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError, match="an image file at"):
            read_image(path)


def test_list_images(tmp_path):
    """Only pictures, by name, whatever the case of their suffix; an empty or missing folder is an error."""
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="none"):
        list_images(tmp_path / "empty")


@pytest.mark.parametrize("count", [2, 5, 21, 150, 256])
def test_label_png_reads_as_labels_and_shows_colours(count):
    """Every reader of label maps (Pillow, mmcv as mmseg uses it) gets the labels; a viewer gets the palette."""
    import mmcv

    labels = (np.arange(40 * 50).reshape(40, 50) % count).astype(np.uint8)
    labels[0] = 255
    palette = [(i, 255 - i, i // 2) for i in range(count)]
    data = label_png(labels, palette)
    with Image.open(io.BytesIO(data)) as shown:
        np.testing.assert_array_equal(np.array(shown), labels)
        colours = np.array(shown.convert("RGB"))
    np.testing.assert_array_equal(mmcv.imfrombytes(data, flag="unchanged", backend="pillow"), labels)
    expected = np.array([*palette, *[(224, 224, 192)] * 256], np.uint8)[:255]
    np.testing.assert_array_equal(colours[labels < 255], expected[labels[labels < 255]])
    np.testing.assert_array_equal(colours[labels == 255], np.broadcast_to((224, 224, 192), (int((labels == 255).sum()), 3)))


def test_a_side_longer_than_any_jpegs_is_refused():
    """However few pixels there are: what is made of a side's length would be large all the same."""
    line = np.zeros((1, MAX_SIDE, 3), np.uint8)
    assert decode_image(encode_png(line), "a line").shape == line.shape
    for longer in (np.zeros((1, MAX_SIDE + 1, 3), np.uint8), np.zeros((MAX_SIDE + 1, 1, 3), np.uint8)):
        with pytest.raises(InputError, match="sides of at most 65,535"):
            decode_image(encode_png(longer), "a line")
