"""The predictor and the handler, without a server."""

from __future__ import annotations

import io
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from PIL import Image

from segdeploy.base.errors import InputError, ServeError
from segdeploy.images.decode import decode_image
from segdeploy.runtime.open import open_session
from segdeploy.runtime.predictor import predict_batch, predict_labels
from segdeploy.serve.metrics import CONFIDENCE, METRICS, PIXEL_SHARE, REQUESTS, STAGE
from segdeploy.serve.predictor import Predictor, open_predictor
from segdeploy.serve.request import Request


def labels_of(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.array(picture)


def asked(bodies):
    return [Request(body) for body in bodies]


class CountingSession:
    """A real session that notes the shape of every batch, and can be told to fail at one."""

    def __init__(self, session, fail_at=None, error=None, largest=0):
        self.artifact = session.artifact
        self._session = session
        self._fail_at, self._largest = fail_at, largest
        self._error = error or RuntimeError("no such kernel: größer")
        self.batches = []

    def run(self, images, *, logits=False):
        self.batches.append(images.shape[:3])
        if images.shape[1:3] == self._fail_at and len(images) > self._largest:
            raise self._error
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
    told = json.loads(answers[1].body)
    assert told["expected"] == "an image in the request's body"
    assert told["got"]
    assert told["fix"]
    assert answers[1].phrase.isascii()


def test_a_size_that_nothing_fits_is_the_callers_error(onnx_session, encoded):
    """A picture so flat that nothing of its height is left is refused with the reason; a less flat one is fitted."""
    answers = Predictor(onnx_session).answer(asked([encoded[1], _png(2, 400), _png(20, 400)]))
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert b"cut it into parts" in answers[1].body


def test_a_failure_inside_the_model_is_500_for_its_group_only(onnx_session, encoded):
    """An unexpected exception costs the images of its size, and tells the caller nothing of the inside."""
    answers = Predictor(CountingSession(onnx_session, fail_at=(64, 96))).answer(asked(encoded))
    failed = [answer for answer in answers if answer.status == 500]
    assert len(failed) == 3
    assert all(b"kernel" not in answer.body and answer.phrase.isascii() for answer in failed)
    assert sum(answer.status == 200 for answer in answers) == 3


OUT_OF_MEMORY = [
    MemoryError(),
    type("OutOfMemoryError", (RuntimeError,), {})("CUDA error"),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 12"),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_lacks_memory_is_run_one_by_one(onnx_session, encoded, error):
    """What does not fit together fits alone: each gets the mask that it would have got by itself."""
    session = CountingSession(onnx_session, fail_at=(64, 96), error=error, largest=1)
    answers = Predictor(session).answer(asked(encoded))
    assert [answer.body for answer in answers] == [Predictor(onnx_session).answer([one])[0].body for one in asked(encoded)]
    assert [batch for batch in session.batches if batch[1:] == (64, 96)] == [(3, 64, 96), *[(1, 64, 96)] * 3]


def test_a_picture_that_lacks_memory_alone_is_507(onnx_session, encoded):
    """It is told so; the others have their masks."""
    session = CountingSession(onnx_session, fail_at=(64, 96), error=OUT_OF_MEMORY[0])
    answers = Predictor(session).answer(asked(encoded))
    assert [answer.status for answer in answers] == [200, 507, 507, 200, 200, 507]
    assert "memory" in json.loads(answers[1].body)["expected"]


def test_what_nobody_waits_for_is_not_computed(onnx_session, encoded):
    """A request past its deadline is 504 and costs no forward pass; one before it is answered, beside it."""
    session = CountingSession(onnx_session)
    now = time.monotonic()
    late, early = (replace(one, deadline=now + more) for one, more in zip(asked(encoded[:2]), (-1, 60), strict=True))
    answers = Predictor(session).answer([late, early])
    assert [answer.status for answer in answers] == [504, 200]
    assert session.batches == [(1, 64, 96)]


def test_a_deadline_that_passes_while_others_run_counts(onnx_session, encoded):
    """It is looked at again before the forward pass."""

    class Slow(CountingSession):
        def run(self, images, *, logits=False):
            time.sleep(0.3)
            return super().run(images, logits=logits)

    session = Slow(onnx_session)
    requests = asked([encoded[0], encoded[3]])
    requests[1] = replace(requests[1], deadline=time.monotonic() + 0.2)
    assert [answer.status for answer in Predictor(session).answer(requests)] == [200, 504]
    assert len(session.batches) == 1


def test_health_runs_the_model(onnx_session):
    """It raises what the model raises, and where what comes back are no labels of it."""
    Predictor(onnx_session).health()
    session = CountingSession(onnx_session, fail_at=(64, 64))
    with pytest.raises(RuntimeError, match="kernel"):
        Predictor(session).health()
    for wrong in (lambda mask: mask[:, 1:], lambda mask: mask + 200):

        class Wrong(CountingSession):
            def run(self, images, *, logits=False, wrong=wrong):
                prediction = super().run(images, logits=logits)
                return replace(prediction, mask=wrong(prediction.mask))

        with pytest.raises(ServeError, match="expected labels"):
            Predictor(Wrong(onnx_session)).health()


def test_warming_up_runs_the_shapes_of_the_manifest(onnx_artifact, onnx_session):
    """The shape that is tuned for, in the least batch, in its own and in the server's; and nothing is measured."""
    session, measured = CountingSession(onnx_session), []
    Predictor(session, observer=lambda *one: measured.append(one)).warm_up(batch=40)
    batch, height, width, _ = onnx_artifact.manifest.input.shape
    expected = {(count, height.opt, width.opt) for count in (batch.min, batch.opt, batch.max)}
    assert set(session.batches) == expected
    assert not measured


def test_what_is_measured(onnx_artifact, onnx_session, encoded):
    """Each answer by its status; of each picture its stages; shares of all classes, which add up to 1."""
    measured = []
    predictor = Predictor(onnx_session, observer=lambda *one: measured.append(one))
    sure = replace(asked([encoded[1]])[0], query={"as": "json", "confidence": "1"})
    (_, bad, _) = predictor.answer([*asked([encoded[0], b"?"]), sure])
    assert bad.status == 422
    of = {metric.name: [(value, labels) for one, value, labels in measured if one is metric] for metric in METRICS}
    assert of[REQUESTS.name] == [(1, {"status": "200"}), (1, {"status": "422"}), (1, {"status": "200"})]
    assert [labels["stage"] for _, labels in of[STAGE.name]] == ["decode", "forward", "labels", "encode"] * 2
    assert all(value >= 0 for value, _ in of[STAGE.name])
    assert [labels["class"] for _, labels in of[PIXEL_SHARE.name]] == list(onnx_artifact.manifest.classes)
    assert sum(value for value, _ in of[PIXEL_SHARE.name]) == pytest.approx(1)
    assert len(of[CONFIDENCE.name]) == 1


def test_an_observer_that_breaks_costs_no_answer(onnx_session, encoded, caplog):
    """Its exception goes to the log."""

    def broken(*_):
        raise OSError("disk full")

    assert Predictor(onnx_session, observer=broken).answer(asked(encoded[:1]))[0].status == 200
    assert "disk full" in caplog.text


def test_request_ids_come_back(onnx_session, encoded):
    """In the header of every answer, and in what JSON says of an error."""
    requests = [replace(one, request_id=f"id {index}") for index, one in enumerate(asked([encoded[0], b"?"]))]
    good, bad = Predictor(onnx_session).answer(requests)
    assert (good.headers, bad.headers) == ({"X-Request-Id": "id 0"}, {"X-Request-Id": "id 1"})
    assert json.loads(bad.body)["request_id"] == "id 1"


def test_threads_may_ask_at_once(onnx_session, encoded):
    """Each gets its own answers."""
    predictor = Predictor(onnx_session)
    alone = [answer.body for answer in predictor.answer(asked(encoded))]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: [answer.body for answer in predictor.answer(asked(encoded))], range(8)))
    assert together == [alone] * 8


def test_a_decoder_that_breaks_costs_its_own_image_only(onnx_session, encoded, monkeypatch, caplog):
    """An unexpected exception while decoding is 500 for that item, with its reason in the log and not in the answer."""

    def decode(body, source, **limits):
        if body == encoded[3]:
            raise NotImplementedError("pixel format 7")
        return decode_image(body, source, **limits)

    monkeypatch.setattr("segdeploy.serve.predictor.decode_image", decode)
    answers = Predictor(onnx_session).answer(asked([encoded[0], encoded[3], encoded[2]]))
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


def _png(height, width):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(stream, "PNG")
    return stream.getvalue()
