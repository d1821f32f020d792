"""What a good request is answered with: formats of pictures as mmseg reads them, and kinds of answers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import replace

import cv2
import msgspec
import numpy as np
import pytest
from PIL import Image

from segdeploy.artifact.folder import open_artifact, record_parity
from segdeploy.artifact.verdict import Parity, Tolerance
from segdeploy.images.decode import decode_image
from segdeploy.images.drawing import overlay
from segdeploy.images.resize import network_size, resize_picture
from segdeploy.runtime.open import open_session
from segdeploy.runtime.predictor import predict_labels
from segdeploy.serve.predictor import Predictor
from segdeploy.serve.request import Part, Request


def labels_of(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.array(picture)


def saved(picture, kind, **how):
    stream = io.BytesIO()
    picture.save(stream, kind, **how)
    return stream.getvalue()


def colours(height=40, width=60):
    blocks = np.random.default_rng(8).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def sixteen_bits(channels):
    array = np.random.default_rng(2).integers(0, 65_536, (40, 60, channels), dtype=np.uint16)
    return bytes(cv2.imencode(".png", array)[1])


FORMATS = {
    "JPEG": saved(colours(), "JPEG"),
    "progressive JPEG": saved(colours(), "JPEG", progressive=True),
    "grey JPEG": saved(colours().convert("L"), "JPEG"),
    "CMYK JPEG": saved(colours().convert("CMYK"), "JPEG"),
    "PNG": saved(colours(), "PNG"),
    "grey PNG": saved(colours().convert("L"), "PNG"),
    "grey PNG with alpha": saved(colours().convert("LA"), "PNG"),
    "PNG with alpha": saved(Image.merge("RGBA", (*colours().split(), colours().convert("L"))), "PNG"),
    "palette PNG": saved(colours().convert("P"), "PNG"),
    "PNG of 1 bit": saved(colours().convert("1"), "PNG"),
    "PNG of 16 bits": sixteen_bits(3),
    "PNG of 16 bits with alpha": sixteen_bits(4),
    "grey PNG of 16 bits": sixteen_bits(1),
    "lossless WebP": saved(colours(), "WEBP", lossless=True),
    "WebP": saved(colours(), "WEBP"),
    "WebP with alpha": saved(Image.merge("RGBA", (*colours().split(), colours().convert("L"))), "WEBP"),
    "BMP": saved(colours(), "BMP"),
    "grey BMP": saved(colours().convert("L"), "BMP"),
    "TIFF": saved(colours(), "TIFF"),
    **{f"JPEG turned by orientation {one}": saved(colours(), "JPEG", exif=turned(one)) for one in range(2, 9)},
}


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_are_read_as_mmseg_reads_them(onnx_session, name, tmp_path):
    """The mask is that of the pixels, and of the size, that the loading transform of mmseg's pipelines gives."""
    transforms = pytest.importorskip("mmcv.transforms", reason="mmcv is not installed")
    path = tmp_path / "picture"
    path.write_bytes(FORMATS[name])
    theirs = transforms.LoadImageFromFile()({"img_path": str(path)})["img"]
    (answer,) = Predictor(onnx_session).answer([Request(FORMATS[name])])
    assert (answer.status, answer.content_type) == (200, "image/png")
    expected = predict_labels(onnx_session, np.ascontiguousarray(theirs[..., ::-1]))
    assert len(np.unique(expected)) > 1
    assert np.array_equal(labels_of(answer.body), expected)


def asked(body, accept="", **query):
    return Request(body, accept=accept, query=query)


def answered(session, *requests):
    answers = Predictor(session).answer(requests)
    assert [answer.status for answer in answers] == [200] * len(requests)
    return answers


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("", {}, "mask"),
        ("*/*", {}, "mask"),
        ("image/*", {}, "mask"),
        ("image/png", {}, "mask"),
        ("IMAGE/PNG ; Q=0.3", {}, "mask"),
        ("text/html,application/xhtml+xml,image/webp,*/*;q=0.8", {}, "mask"),
        ("image/png; profile=overlay", {}, "overlay"),
        ('image/png;profile="overlay"', {}, "overlay"),
        ("image/png;profile=overlay;q=0.5, image/png;q=0.4", {}, "overlay"),
        ("application/json", {}, "json"),
        ("application/json, */*;q=0.1", {}, "json"),
        ("application/*", {}, "json"),
        ("image/png;q=0, */*", {}, "overlay"),
        ("text/html", {"as": "mask"}, "mask"),
        ("image/png", {"as": "overlay"}, "overlay"),
        ("image/png", {"as": "json"}, "json"),
        ("application/json", {"as": "mask"}, "mask"),
    ],
)
def test_accept_and_as_choose_the_answer(onnx_session, encoded, accept, query, kind):
    """The best liked of what there is; ``as`` says it in so many words, and is heard first."""
    (answer,) = answered(onnx_session, asked(encoded[0], accept, **query))
    picture = decode_image(encoded[0], "test")
    labels = predict_labels(onnx_session, picture)
    if kind == "json":
        assert answer.content_type == "application/json"
        assert json.loads(answer.body)["size"]["labels"] == list(labels.shape)
        return
    assert answer.content_type == "image/png"
    expected = labels if kind == "mask" else overlay(picture, labels, onnx_session.artifact.manifest.palette)
    assert np.array_equal(labels_of(answer.body), expected)


def decoded(rle):
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    return mask.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)


def test_json_holds_the_mask_and_what_made_it(onnx_session, encoded):
    """The masks of all classes that occur, which pycocotools reads, their shares, names and colours; sizes, times, hashes."""
    (answer,) = answered(onnx_session, replace(asked(encoded[0], **{"as": "json"}), request_id="r1"))
    told = json.loads(answer.body)
    manifest = onnx_session.artifact.manifest
    labels = predict_labels(onnx_session, decode_image(encoded[0], "test"))
    assert [one["label"] for one in told["classes"]] == np.unique(labels).tolist()
    for one in told["classes"]:
        assert np.array_equal(decoded(one["rle"]), labels == one["label"])
        assert one["share"] == pytest.approx((labels == one["label"]).mean())
        assert one["name"] == manifest.classes[one["label"]]
    height, width = network_size(75, 100, manifest.preprocess.resize)
    assert told["size"] == {"picture": [75, 100], "network": [height, width], "labels": [75, 100]}
    assert list(told["milliseconds"]) == ["decode", "forward", "labels", "encode"]
    assert all(value > 0 for value in told["milliseconds"].values())
    model = onnx_session.artifact.model_path
    assert told["artifact"]["files"] == {model.name: hashlib.sha256(model.read_bytes()).hexdigest()}
    assert told["artifact"]["verdict"] is None
    assert told["artifact"]["classes"] == list(manifest.classes)
    assert (told["status"], told["request_id"], told["batch"]) == (200, "r1", 1)
    assert "confidence" not in told


def test_json_names_the_verdict_that_counts(copied, onnx_artifact, encoded):
    """By its word, and by the hash of its JSON as it stands in the manifest."""
    tolerance = Tolerance(logits_max_abs=1e-4, mask_agreement=1.0, miou_points=0.1)
    parity = Parity(reference="t", inputs="n", device="cpu", tolerance=tolerance, shapes=(), verdict="passed")
    artifact = record_parity(copied(onnx_artifact), parity)
    with open_session(open_artifact(artifact.folder), "cpu") as session:
        (answer,) = answered(session, asked(encoded[0], **{"as": "json"}))
    stored = msgspec.json.decode((artifact.folder / "manifest.json").read_bytes())["parity"][-1]
    told = json.loads(answer.body)["artifact"]["verdict"]
    assert told == {"verdict": "passed", "sha256": hashlib.sha256(msgspec.json.encode(stored)).hexdigest()}


@pytest.mark.parametrize("by", ["names", "numbers"])
def test_classes_narrow_the_answer(onnx_session, encoded, by):
    """JSON has those alone, absent ones too; in a mask the others are void, and in an overlay they are clear."""
    manifest = onnx_session.artifact.manifest
    picture = decode_image(encoded[0], "test")
    labels = predict_labels(onnx_session, picture)
    present = np.unique(labels)
    chosen = sorted({int(present[0]), next((one for one in range(len(manifest.classes)) if one not in present), 0)})
    text = ", ".join(manifest.classes[one] if by == "names" else str(one) for one in chosen)
    told, mask, drawn = answered(
        onnx_session, *(asked(encoded[0], **{"as": kind, "classes": text}) for kind in ("json", "mask", "overlay"))
    )
    classes = json.loads(told.body)["classes"]
    assert [one["label"] for one in classes] == chosen
    assert all(np.array_equal(decoded(one["rle"]), labels == one["label"]) for one in classes)
    expected = np.where(np.isin(labels, chosen), labels, 255)
    assert np.array_equal(labels_of(mask.body), expected)
    assert np.array_equal(labels_of(drawn.body), overlay(picture, expected, manifest.palette))


def test_size_network_leaves_the_labels_where_the_network_has_them(onnx_session, encoded):
    """As if the picture had been sent at that size; next to a request for the same picture at its own size, to the byte."""
    picture = decode_image(encoded[0], "test")
    small = resize_picture(picture, onnx_session.artifact.manifest.preprocess.resize)
    assert small.shape != picture.shape
    at_network = asked(encoded[0], size="network")
    alone, drawn = answered(onnx_session, at_network, asked(encoded[0], size="network", **{"as": "overlay"}))
    expected = onnx_session.run(small[None]).mask[0]
    assert np.array_equal(labels_of(alone.body), expected)
    assert np.array_equal(labels_of(drawn.body), overlay(small, expected, onnx_session.artifact.manifest.palette))
    together = answered(onnx_session, at_network, asked(encoded[0]))
    assert together[0].body == alone.body
    assert labels_of(together[1].body).shape == picture.shape[:2]


def test_confidence_is_the_mean_of_the_largest_softmax(onnx_session, encoded):
    """By torch's own softmax of the head's logits: of all samples, and of each class's; and nobody else's answer changes."""
    import torch

    picture = decode_image(encoded[1], "test")
    sure = asked(encoded[1], **{"as": "json", "confidence": "1"})
    one, other = answered(onnx_session, sure, asked(encoded[2]))
    assert other.body == answered(onnx_session, asked(encoded[2]))[0].body
    small = resize_picture(picture, onnx_session.artifact.manifest.preprocess.resize)
    probable, labels = torch.tensor(onnx_session.run(small[None], logits=True).logits[0]).softmax(0).max(0)
    told = json.loads(one.body)
    assert told["confidence"] == pytest.approx(float(probable.mean()), abs=1e-6)
    for each in told["classes"]:
        of = probable[labels == each["label"]]
        assert each["confidence"] == (pytest.approx(float(of.mean()), abs=1e-6) if len(of) else None)


def form(*bodies, **query):
    parts = tuple(Part(f"p{index}", body, "image/png") for index, body in enumerate(bodies))
    return Request(b"", parts=parts, query=query)


@pytest.mark.parametrize("kind", ["mask", "overlay", "json"])
def test_several_pictures_are_a_list(onnx_session, encoded, kind):
    """In the form's order and under its names: each what it would have been alone, a PNG in base64."""
    singles = [asked(one, **{"as": kind}) for one in encoded[:3]]
    answer, *alone = answered(onnx_session, form(*encoded[:3], **{"as": kind}), *singles)
    assert answer.content_type == "application/json"
    told = json.loads(answer.body)
    assert [one["name"] for one in told["pictures"]] == ["p0", "p1", "p2"]
    for one, single in zip(told["pictures"], alone, strict=True):
        if kind == "json":
            assert one["classes"] == json.loads(single.body)["classes"]
        else:
            assert base64.b64decode(one["base64"]) == single.body
            assert one["content_type"] == "image/png"


def test_a_form_of_one_picture_is_answered_as_the_picture(onnx_session, encoded):
    """``curl -F image=@x.jpg`` gives the mask, byte for byte as ``curl -T x.jpg`` does."""
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    request = Request(head + encoded[0] + b"\r\n--b--\r\n", 'multipart/form-data; boundary="b"')
    one, other = answered(onnx_session, request, asked(encoded[0]))
    assert one == other
