"""Servers, right and wrong, without HTTP: what is posted, and what comes back. test_verify.py of the command asks over HTTP."""

import io
import time

import cv2
import msgspec
import numpy as np
import pytest
from PIL import Image

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import ServeError
from segdeploy.images.decode import decode_image
from segdeploy.images.resize import resize_image
from segdeploy.parity.inputs import Inputs, Picture, pictures_of_dataset
from segdeploy.parity.served import verify_server
from segdeploy.parity.verify import store_reference
from segdeploy.runtime import open_session
from segdeploy.runtime.predictor import predict_labels

URL = "http://127.0.0.1:8080/predictions/tiny"


@pytest.fixture(scope="module")
def session(onnx_artifact):
    with open_session(onnx_artifact, "cpu", 1) as opened:
        yield opened


@pytest.fixture
def ask(onnx_artifact, labelled_root):
    """Verifies a server on the labelled pictures: (what answers) -> verdict."""

    def run(answer, **options):
        inputs = pictures_of_dataset(labelled_root, "val", onnx_artifact.manifest)
        return verify_server(URL, answer, onnx_artifact, inputs=inputs, device="cpu", **options)

    return run


def right(session):
    return lambda data: predict_labels(session, decode_image(data, "body")).astype(np.uint8)


def test_a_right_server_passes(ask, session):
    """Through the same artifact: no label differs; logits are skipped, and said to be."""
    parity = ask(right(session))
    assert parity.verdict == "passed"
    assert parity.labels.labels.differ == 0
    assert parity.task.verdict == "passed"
    assert [check.verdict for check in parity.checks] == ["skipped", "passed", "passed", "passed"]
    assert "labels only" in parity.checks[0].reason
    assert parity.device == URL


def swapped_channels(session):
    return lambda data: predict_labels(session, np.ascontiguousarray(decode_image(data, "body")[..., ::-1])).astype(np.uint8)


def nearest_labels(session):
    """Labels at the network's size, brought to the picture's own by nearest: what torchvision's Resize of a mask does."""

    def answer(data):
        image = decode_image(data, "body")
        small = resize_image(image, 64, 96)
        mask = session.run(small[None]).mask[0]
        return cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)

    return answer


def other_resize(session):
    """The picture is squeezed to a square before the network, in another way than the checkpoint was tested."""

    def answer(data):
        image = decode_image(data, "body")
        labels = predict_labels(session, resize_image(image, 64, 64))
        return cv2.resize(labels.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)

    return answer


def lossy(session):
    """Labels sent as a JPEG would be: values between classes at every border."""

    def answer(data):
        labels = right(session)(data)
        stream = io.BytesIO()
        Image.fromarray(labels * 50).save(stream, "JPEG", quality=30)
        return (np.array(Image.open(stream)) / 50).round().astype(np.uint8)

    return answer


@pytest.mark.parametrize("fault", [swapped_channels, nearest_labels, other_resize, lossy], ids=lambda f: f.__name__)
def test_a_wrong_server(ask, session, tmp_path, fault):
    """The server is at fault, not the artifact that it runs, and the worst picture is drawn."""
    words = FAULTS[fault][1]
    parity = ask(fault(session), pictures=tmp_path)
    assert parity.verdict == "failed"
    assert parity.divergence.stage == "server"
    assert words in parity.divergence.detail
    assert (tmp_path / "worst.png").is_file()


def palette_order(session):
    """Labels counted in the order of the names."""
    order = np.array([0, 4, 3, 2, 1], np.uint8)
    return lambda data: order[right(session)(data)]


def moved_by_a_pixel(session):
    return lambda data: np.roll(right(session)(data), 1, axis=1)


def grey(session):
    def answer(data):
        image = decode_image(data, "body")
        return predict_labels(session, np.repeat(image.mean(-1, keepdims=True), 3, -1).astype(np.uint8)).astype(np.uint8)

    return answer


def lost_class(session):
    def answer(data):
        labels = right(session)(data)
        return np.where(labels == 1, 0, labels).astype(np.uint8)

    return answer


def mirrored(session):
    def answer(data):
        image = decode_image(data, "body")
        return predict_labels(session, np.ascontiguousarray(image[:, ::-1]))[:, ::-1].astype(np.uint8)

    return answer


@pytest.mark.parametrize("fault", [palette_order, moved_by_a_pixel, grey, lost_class, mirrored], ids=lambda f: f.__name__)
def test_another_wrong_server(ask, session, fault):
    """Likewise, where no known mistake fits: the server is at fault, and what in it is said not to be sure."""
    parity = ask(fault(session))
    assert parity.verdict == "failed"
    assert (parity.divergence.stage, parity.divergence.sure) == ("server", False)
    assert "agrees with the checkpoint" in parity.divergence.detail
    assert FAULTS[fault][1] in parity.divergence.detail


def test_a_server_that_drops_the_orientation(onnx_artifact, labelled_root, session):
    """A photograph with an EXIF orientation is turned by mmseg and not by the server: found, where there is such a picture."""
    source = Image.open(labelled_root / "img_dir" / "val" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    stream = io.BytesIO()
    source.save(stream, "JPEG", quality=95, exif=exif)
    data = stream.getvalue()
    inputs = Inputs("a turned photograph", (Picture("turned", lambda: decode_image(data, "turned"), lambda: data),))

    def dropping(body):
        pixels = np.array(Image.open(io.BytesIO(body)).convert("RGB"))  # Pillow turns nothing by itself
        return predict_labels(session, pixels).astype(np.uint8)

    good = verify_server(URL, right(session), onnx_artifact, inputs=inputs, device="cpu")
    assert good.verdict == "passed"
    parity = verify_server(URL, dropping, onnx_artifact, inputs=inputs, device="cpu")
    assert (parity.verdict, parity.divergence.stage) == ("failed", "server")


def test_a_server_that_mixes_up_its_answers(ask, session):
    """Two requests at the same time share one slot: each alone is right, so that only asking at the same time shows it."""
    slot = {}

    def answer(data):
        slot["labels"] = right(session)(data)
        time.sleep(0.05)  # whoever comes in the meantime overwrites it
        return slot["labels"]

    parity = ask(answer)
    assert parity.labels.verdict == "passed"
    assert parity.determinism.verdict == parity.verdict == "failed"
    assert parity.determinism.again == 0
    assert parity.determinism.concurrent > 0
    assert parity.divergence.stage == "server"
    assert "mixes up its answers" in parity.divergence.detail


def test_a_server_that_changes_its_mind(ask, session):
    """The same picture, another answer."""
    times = iter(range(1000))

    def answer(data):
        labels = right(session)(data)
        labels[0, 0] = next(times) % 2
        return labels

    parity = ask(answer)
    assert parity.determinism.verdict == parity.verdict == "failed"
    assert parity.determinism.again == 1
    assert parity.divergence.stage == "server"
    assert "not steady" in parity.divergence.detail


@pytest.mark.parametrize("shape", [(4, 64, 96, 3), (2, None, None, 3)], ids=["fitted", "exact"])
def test_a_stored_reference_of_a_fixed_batch(onnx_artifact, labelled_root, session, tmp_path, shape):
    """It is asked for the batches that were stored, whichever picture the server gets wrong: the same is found as here."""
    manifest = onnx_artifact.manifest
    axes = tuple(own if axis is None else axis for axis, own in zip(shape, manifest.input.shape, strict=True))
    whole = msgspec.structs.replace(manifest.input, shape=axes)
    artifact = Artifact(onnx_artifact.folder, msgspec.structs.replace(manifest, input=whole))
    inputs = pictures_of_dataset(labelled_root, "val", artifact.manifest)
    stored = store_reference(artifact, tmp_path / "reference", inputs=inputs, device="cpu")
    with open_session(artifact, "cpu", 1) as fixed:
        answer = moved_by_a_pixel(fixed)
        here = verify_server(URL, answer, artifact, inputs=inputs, device="cpu")
        there = verify_server(URL, answer, artifact, stored=stored, device="cpu")
    assert here.verdict == there.verdict == "failed"
    assert there.labels.labels.differ == here.labels.labels.differ > 0
    assert (there.task, there.fit, there.divergence) == (here.task, here.fit, here.divergence)


def test_a_server_of_another_size(ask, session):
    """Labels that are not of the picture's size are another answer than labels."""
    with pytest.raises(ServeError, match="the picture's own size"):
        ask(lambda data: right(session)(data)[:-1])


def test_the_model_not_the_server(ask, session, onnx_artifact, tmp_path):
    """A faulty artifact served rightly: the verdict sends the user to the artifact."""
    import onnx
    from onnx import numpy_helper

    from segdeploy.artifact.folder import write_artifact

    def write(folder):
        model = onnx.load(onnx_artifact.model_path)
        bias = next(one for one in model.graph.initializer if one.name == "decode_head.conv_seg.bias")
        values = numpy_helper.to_array(bias).copy()
        values[1] += 5
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        onnx.save(model, folder / "model.onnx")
        return onnx_artifact.manifest

    faulty = write_artifact(tmp_path / "faulty", write)
    with open_session(faulty, "cpu", 1) as running:
        parity = verify_server(URL, right(running), faulty, device="cpu")
    assert parity.verdict == "failed"
    assert parity.divergence.stage == "graph"
    assert "run segdeploy verify on it" in parity.divergence.detail


# fault -> the stage, and words of the detail
FAULTS = {
    swapped_channels: ("server", "it swaps the channels"),
    **dict.fromkeys((nearest_labels, other_resize, lossy), ("server", "agrees with the checkpoint")),
    **dict.fromkeys(
        (palette_order, moved_by_a_pixel, grey, lost_class, mirrored), ("server", "decodes or resizes in another way")
    ),
}
ALONE = {
    test_a_server_that_drops_the_orientation: ("server", "agrees with the checkpoint"),
    test_a_server_that_mixes_up_its_answers: ("server", "mixes up its answers"),
    test_a_server_that_changes_its_mind: ("server", "not steady"),
    test_the_model_not_the_server: ("graph", "run segdeploy verify on it"),
}
