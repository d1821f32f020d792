"""The handler, and what TorchServe's frontend makes of requests: as recorded from TorchServe 0.12.0."""

from __future__ import annotations

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from segdeploy.images.decode import decode_image
from segdeploy.runtime.predictor import predict_labels
from segdeploy.serve.handler import SegmentationHandler
from segdeploy.serve.metrics import CONFIDENCE, METRICS, PIXEL_SHARE, REQUESTS, STAGE
from segdeploy.serve.request import Answer
from segdeploy.serve.torchserve import metric_sink, request_of, sendable

PLAIN = {"Accept": "*/*", "Host": "127.0.0.1:8080", "url_path": ""}


class FakeContext:
    """What TorchServe hands to a handler."""

    metrics = None
    model_yaml_config = None

    def __init__(self, model_dir, headers):
        self.system_properties = {"model_dir": str(model_dir), "gpu_id": None, "batch_size": 2}
        self.types, self.statuses, self.response_headers = {}, {}, {}
        self._headers = headers

    def get_all_request_header(self, index):
        return self._headers[index]

    def get_request_id(self, index):
        return f"id-{index}"

    def set_response_content_type(self, index, value):
        self.types[index] = value

    def set_response_status(self, code, phrase, index):
        self.statuses[index] = (code, phrase)

    def set_response_header(self, index, name, value):
        self.response_headers[index, name] = value


def form(item, length=None, **headers):
    """A form as the frontend hands it over: name -> (content, content type)."""
    data = {name: bytearray(content) for name, (content, _) in item.items()}
    types = {name: {"content-type": kind} for name, (_, kind) in item.items()}
    size = sum(len(content) for content, _ in item.values()) + 200 * len(item) if length is None else length
    told = {"Content-Type": "multipart/form-data; boundary=----x", "Content-Length": str(size)}
    return data, {**types, **PLAIN, **told, **headers}


def test_handler_translates_between_torchserve_and_the_predictor(onnx_artifact, onnx_session, encoded, tmp_path):
    """One answer a request, with type, status and id at its own index, whichever way the picture came."""
    folder = shutil.copytree(onnx_artifact.folder, tmp_path / "unpacked")
    upload, upload_headers = form({"any name": (encoded[3], "image/png"), "as": (b"json", "")})
    data = [{"body": bytearray(encoded[0])}, {"body": bytearray(b"?")}, upload, {}, {"data": bytearray(encoded[1])}]
    headers = [{**PLAIN, "X-Request-Id": "theirs"}, PLAIN, upload_headers, PLAIN, PLAIN]
    context = FakeContext(folder, headers)
    handler = SegmentationHandler()
    handler.initialize(context)
    answers = handler.handle(data, context)
    assert len(answers) == 5
    with Image.open(io.BytesIO(answers[0])) as picture:
        assert np.array_equal(picture, predict_labels(onnx_session, decode_image(encoded[0], "test")))
    assert json.loads(answers[2])["size"]["picture"] == [120, 80]
    kinds = ["image/png", "application/json", "application/json", "application/json", "image/png"]
    assert context.types == dict(enumerate(kinds))
    assert {index: code for index, (code, _) in context.statuses.items()} == {1: 422, 3: 422}
    # TorchServe writes its own X-Request-Id over any other.
    assert context.response_headers[0, "X-Client-Request-Id"] == "theirs"
    assert context.response_headers[1, "X-Client-Request-Id"] == "id-1"
    assert handler.handle(None, context) == []


def test_the_archive_says_among_how_many_the_cpu_is_shared(onnx_artifact, monkeypatch):
    """Its model-config.yaml does, where the environment does not."""
    monkeypatch.setenv("SEGDEPLOY_WORKERS", "to be restored")
    for given, expected in ((None, "3"), ("2", "2")):
        monkeypatch.delenv("SEGDEPLOY_WORKERS")
        if given:
            monkeypatch.setenv("SEGDEPLOY_WORKERS", given)
        context = FakeContext(onnx_artifact.folder, [])
        context.model_yaml_config = {"minWorkers": 3}
        SegmentationHandler().initialize(context)
        assert os.environ["SEGDEPLOY_WORKERS"] == expected


def test_an_answer_that_torchserve_would_not_take_is_an_error_in_its_place():
    """At the limit it is sent; above it the caller is told in JSON, and the others get theirs."""
    answer = Answer(200, b"12345", "image/png", headers={"X-Request-Id": "theirs"})
    assert sendable(answer, 5) is answer
    told = sendable(answer, 4)
    assert (told.status, told.content_type, told.headers["X-Request-Id"]) == (422, "application/json", "theirs")
    assert json.loads(told.body)["got"] == "one of 5"


def test_a_files_name_is_free_and_text_is_an_option(encoded):
    """Files are told from text fields by their content type; a field called like a header changes no header."""
    item, headers = form(
        {
            "Accept": (encoded[0], "application/octet-stream"),
            "b": (encoded[1], "image/png"),
            "size": (b"network", ""),
        }
    )
    headers["Accept"] = {"content-type": "application/octet-stream"}
    request = request_of(item, headers, "id")
    assert [part.body for part in request.parts] == encoded[:2]
    assert (request.query, request.accept, request.problem) == ({"size": "network"}, "", None)


def test_a_file_that_torchserve_dropped_is_missed(encoded):
    """Of two files of one name one arrives: the request is refused, and not half answered."""
    item, headers = form({"image": (encoded[0], "image/png")}, length=2 * 5000 + 400)
    assert "names" in str(request_of(item, headers, "").problem)
    item, headers = form({"image": (encoded[0], "image/png")}, length=len(encoded[0]) + 900)
    assert request_of(item, headers, "").problem is None


def test_a_form_without_a_boundary_and_text_come_as_they_are():
    """The frontend passes a broken form on as the body; text and JSON are not pictures, decoded or not."""
    broken = {"body": {"content-type": "multipart/form-data"}, **PLAIN, "Content-Type": "multipart/form-data"}
    request = request_of({"body": bytearray(b"abc")}, broken, "")
    assert (request.body, request.parts, request.content_type) == (b"abc", None, "multipart/form-data")
    told = {"body": {"content-type": "text/plain"}, **PLAIN, "content-type": "text/plain"}
    assert request_of({"body": "abc"}, told, "").body == b"abc"
    assert request_of({"body": {"a": 1}}, told, "").body == b""


def test_a_query_of_invocations_is_read():
    """/invocations?model_name=NAME&as=json is the path at which TorchServe hands the query over."""
    item = {"model_name": bytearray(b"tiny"), "as": bytearray(b"json"), "body": bytearray(b"x")}
    headers = {name: {"content-type": ""} for name in item} | PLAIN
    request = request_of(item, headers, "")
    assert (request.query, request.body) == ({"as": "json"}, b"x")


def test_metrics_reach_torchserves_own(tmp_path, caplog):
    """Every metric is one line of TorchServe's protocol, whose own characters a class's name cannot bring in."""
    yaml = pytest.importorskip("ts.metrics.metric_cache_yaml_impl", reason="torchserve is not installed")
    config = tmp_path / "metrics.yaml"
    config.write_text("ts_metrics: {}\nmodel_metrics: {}\n")
    sink = metric_sink(yaml.MetricsCacheYamlImpl(str(config)))
    with caplog.at_level("INFO"):
        sink(REQUESTS, 1, {"status": "200"})
        sink(STAGE, 1.5, {"stage": "decode"})
        sink(PIXEL_SHARE, 0.25, {"class": "bus, tram|#x: 1"})
        sink(CONFIDENCE, 0.75, {})
    lines = [record.message for record in caplog.records if record.message.startswith("[METRICS]")]
    assert len(lines) == len(METRICS)
    assert lines[0].startswith("[METRICS]segdeploy_requests.Count:1|#status:200|#type:COUNTER|#hostname:")
    assert lines[1].startswith("[METRICS]segdeploy_stage_seconds.Seconds:1.5|#stage:decode|#type:HISTOGRAM|")
    assert lines[2].startswith("[METRICS]segdeploy_pixel_share.share:0.25|#class:bus_ tram__x_ 1|#type:GAUGE|")
    assert lines[3].startswith("[METRICS]segdeploy_confidence.share:0.75|#|#type:GAUGE|")
