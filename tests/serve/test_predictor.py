"""The predictor and the handler, without a server."""

from __future__ import annotations

import io
import logging
import os
import shutil
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import InputError
from segdeploy.images.decode import decode_image
from segdeploy.runtime.open import open_session
from segdeploy.runtime.predictor import predict_batch, predict_labels
from segdeploy.serve.handler import SegmentationHandler
from segdeploy.serve.predictor import Predictor, open_predictor
from segdeploy.serve.request import Request


def labels_of(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.array(picture)


def asked(bodies):
    return [Request(body) for body in bodies]


class CountingSession:
    """A real session that notes the shape of every batch, and can be told to fail at one."""

    def __init__(self, session, fail_at=None):
        self.artifact = session.artifact
        self._session = session
        self._fail_at = fail_at
        self.batches = []

    def run(self, images, *, logits=False):
        self.batches.append(images.shape[:3])
        if images.shape[1:3] == self._fail_at:
            raise RuntimeError("out of memory: größer")
        return self._session.run(images, logits=logits)


def test_every_answer_is_the_mask_of_its_own_image(onnx_session, encoded):
    """Grouping by size changes neither the order nor a pixel."""
    answers = Predictor(onnx_session).answer(asked(encoded))
    for body, answer in zip(encoded, answers, strict=True):
        assert (answer.status, answer.content_type) == (200, "image/png")
        assert np.array_equal(labels_of(answer.body), predict_labels(onnx_session, decode_image(body, "test")))


def test_images_of_one_network_size_run_as_one_batch(onnx_session, encoded):
    """Three of the six images share a size, so four batches are enough."""
    session = CountingSession(onnx_session)
    Predictor(session).answer(asked(encoded))
    assert sorted(count for count, _, _ in session.batches) == [1, 1, 1, 3]


def test_a_batch_is_never_larger_than_the_artifact_takes(onnx_session, encoded):
    """The artifact takes 16: twenty images run as two batches."""
    session = CountingSession(onnx_session)
    answers = Predictor(session).answer(asked([encoded[1]] * 20))
    assert [count for count, _, _ in session.batches] == [16, 4]
    assert len(answers) == 20


def test_a_static_batch_is_filled(onnx_artifact, encoded):
    """An artifact of batches of four and no others: three images of one size are answered, and so is one alone."""
    manifest = onnx_artifact.manifest
    four = msgspec.structs.replace(
        manifest, input=msgspec.structs.replace(manifest.input, shape=(4, *manifest.input.shape[1:]))
    )
    with open_session(replace(onnx_artifact, manifest=four), "cpu") as opened:
        session = CountingSession(opened)
        answers = Predictor(session).answer(asked(encoded))
        assert {count for count, _, _ in session.batches} == {4}
        assert [answer.status for answer in answers] == [200] * len(encoded)
        for body, answer in zip(encoded, answers, strict=True):
            picture = decode_image(body, "test")
            assert np.array_equal(labels_of(answer.body), predict_batch(opened, [picture] * 4)[0])


@pytest.mark.parametrize("bad", [b"", b"no image", b"\xff\xd8\xff\xe0 a JPEG that ends"])
def test_a_bad_image_fails_alone(onnx_session, encoded, bad):
    """Its neighbours in the batch are answered as if it were not there."""
    answers = Predictor(onnx_session).answer(asked([encoded[1], bad, encoded[2]]))
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert answers[1].body.startswith(b"expected an image")
    assert answers[1].phrase.isascii()


def test_a_size_that_nothing_fits_is_the_callers_error(onnx_session, encoded):
    """A picture so flat that nothing of its height is left is refused with the reason; a less flat one is fitted."""
    answers = Predictor(onnx_session).answer(asked([encoded[1], _png(2, 400), _png(20, 400)]))
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert b"cut it into parts" in answers[1].body


def test_a_failure_inside_the_model_is_500_for_its_group_only(onnx_session, encoded):
    """An unexpected exception costs the images of its batch, and tells the caller nothing of the inside."""
    answers = Predictor(CountingSession(onnx_session, fail_at=(64, 96))).answer(asked(encoded))
    failed = [answer for answer in answers if answer.status == 500]
    assert len(failed) == 3
    assert all(b"memory" not in answer.body and answer.phrase.isascii() for answer in failed)
    assert sum(answer.status == 200 for answer in answers) == 3


def test_a_decoder_that_breaks_costs_its_own_image_only(onnx_session, encoded, monkeypatch, caplog):
    """An unexpected exception while decoding is 500 for that item, with its reason in the log and not in the answer."""

    def decode(body, source, **limits):
        if body == b"evil":
            raise NotImplementedError("pixel format 7")
        return decode_image(body, source, **limits)

    monkeypatch.setattr("segdeploy.serve.predictor.decode_image", decode)
    answers = Predictor(onnx_session).answer(asked([encoded[0], b"evil", encoded[2]]))
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert b"pixel" not in answers[1].body
    assert "pixel format 7" in caplog.text


@pytest.mark.parametrize(
    ("given", "gpu", "seen"), [(None, 1, "1"), ("4,7", 1, "7"), ("GPU-ab", 0, "GPU-ab"), ("", 0, "0"), ("4,7", None, "4,7")]
)
def test_a_worker_sees_its_own_gpu_only(onnx_artifact, monkeypatch, caplog, given, gpu, seen):
    """TorchServe counts among the visible GPUs; what was given and what the model runs on are both logged."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with caplog.at_level(logging.INFO):
        open_predictor(onnx_artifact.folder, gpu)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    assert ("the CPU" if gpu is None else f"GPU {gpu}") in caplog.text
    assert "the model runs on c" in caplog.text


def test_workers_share_the_threads(onnx_artifact, monkeypatch):
    """Each of several takes its part of the cores; alone it has them all."""
    asked = []

    def opened(artifact, device, threads):
        asked.append(threads)
        return open_session(artifact, device, threads)

    monkeypatch.setattr("segdeploy.serve.predictor.open_session", opened)
    monkeypatch.setattr("segdeploy.base.machine.physical_cores", lambda root: 8)
    monkeypatch.setattr("segdeploy.base.machine.cpu_quota", lambda root: None)
    for workers in (None, "1", "3", "9"):
        monkeypatch.delenv("SEGDEPLOY_WORKERS", raising=False)
        if workers:
            monkeypatch.setenv("SEGDEPLOY_WORKERS", workers)
        open_predictor(onnx_artifact.folder, None)
    assert asked == [8, 8, 2, 1]


def test_the_limit_of_pixels_is_the_servers(onnx_artifact, encoded, monkeypatch):
    """A picture at the limit is answered, one above it is refused, and a limit that is no number is one line."""
    monkeypatch.setenv("SEGDEPLOY_MAX_PIXELS", str(75 * 100))
    predictor = open_predictor(onnx_artifact.folder, None)
    assert [answer.status for answer in predictor.answer(asked([encoded[0], encoded[3], encoded[1]]))] == [200, 422, 200]
    for wrong in ("0", "-1", "64e6", "many", ""):
        monkeypatch.setenv("SEGDEPLOY_MAX_PIXELS", wrong)
        with pytest.raises(InputError, match=f"in SEGDEPLOY_MAX_PIXELS; got '{wrong}'; correct it"):
            open_predictor(onnx_artifact.folder, None)


class FakeContext:
    """What TorchServe hands to a handler."""

    def __init__(self, model_dir):
        self.system_properties = {"model_dir": str(model_dir), "gpu_id": None}
        self.types, self.statuses = {}, {}

    def set_response_content_type(self, index, value):
        self.types[index] = value

    def set_response_status(self, code, phrase, index):
        self.statuses[index] = (code, phrase)


def test_handler_translates_between_torchserve_and_the_predictor(onnx_artifact, onnx_session, encoded, tmp_path):
    """One answer a request, whichever field its body is in, with its type and status set at its own index."""
    folder = shutil.copytree(onnx_artifact.folder, tmp_path / "unpacked")
    context = FakeContext(folder)
    handler = SegmentationHandler()
    handler.initialize(context)
    answers = handler.handle([{"data": bytearray(encoded[0])}, {"body": b"?"}, {"body": encoded[3]}, {}], context)
    assert len(answers) == 4
    assert np.array_equal(labels_of(answers[2]), predict_labels(onnx_session, decode_image(encoded[3], "test")))
    assert context.types == {0: "image/png", 1: "text/plain", 2: "image/png", 3: "text/plain"}
    assert {index: code for index, (code, _) in context.statuses.items()} == {1: 422, 3: 422}


def _png(height, width):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(stream, "PNG")
    return stream.getvalue()
