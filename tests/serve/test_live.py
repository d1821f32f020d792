"""A real TorchServe on loopback."""

from __future__ import annotations

import concurrent.futures
import io
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from segdeploy.base.errors import InputError, ServeError
from segdeploy.images.decode import decode_image
from segdeploy.runtime.predictor import predict_labels
from segdeploy.serve.client import predict
from segdeploy.serve.lines import start_line, stop_line
from segdeploy.serve.metrics import METRICS
from segdeploy.serve.server import follow, start
from segdeploy.serve.torchserve_config import CONFIG_NAME, METRICS_NAME

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def proxy(monkeypatch):
    """One is set that answers nothing: none can reach this machine's loopback."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")


def test_served_masks_are_the_in_process_masks(server, onnx_session, encoded):
    """Images of several sizes, posted at once so that they are batched, come back pixel for pixel the same."""
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        served = list(pool.map(lambda body: predict(server.url, body, token=server.token), encoded))
    for body, mask in zip(encoded, served, strict=True):
        assert np.array_equal(mask, predict_labels(onnx_session, decode_image(body, "test")))


def test_a_corrupt_image_gets_422_and_its_neighbours_their_masks(server, encoded):
    """In one batch with a corrupt image, the good ones are answered."""
    bodies = [encoded[1], b"not an image", encoded[2]]

    def ask(body):
        try:
            return predict(server.url, body, token=server.token).shape
        except InputError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, bodies))
    assert answers[0] == answers[2] == (64, 96)
    assert "12 bytes of something else" in answers[1]


def test_http_as_documented_passes_through_torchserve(server, onnx_session, encoded):
    """Forms, options in all the ways there are, ids and errors of their own: what the handler rests on of TorchServe itself."""
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    picture = ("x.png", encoded[0], "image/png")
    with httpx.Client(headers=server.headers, timeout=60, trust_env=False) as http:
        mask = http.post(server.url, content=encoded[0])
        assert http.post(server.url, files={"any": picture}).content == mask.content
        by_field = http.post(server.url, files={"any": picture}, data={"as": "json"}).json()
        by_header = http.post(server.url, content=encoded[0], headers={"X-Segdeploy-Options": "as=json"}).json()
        by_accept = http.post(server.url, content=encoded[0], headers={"Accept": "application/json"}).json()
        invocations = server.url.replace("/predictions/tiny-1.x", "/invocations?model_name=tiny-1.x&as=json")
        by_query = http.post(invocations, content=encoded[0]).json()
        assert by_field["classes"] == by_header["classes"] == by_accept["classes"] == by_query["classes"]
        # TorchServe hands this query to nobody: the front does.
        assert http.post(f"{server.url}?as=json", content=encoded[0]).json()["classes"] == by_field["classes"]
        assert http.post(f"{server.url}?as=jso", content=encoded[0]).status_code == 400
        named = http.post(server.url, content=b"?", headers={"X-Request-Id": "mine"})
        assert (named.status_code, named.json()["request_id"]) == (422, "mine")
        assert named.headers["X-Client-Request-Id"] == "mine" != named.headers["X-Request-Id"]
        several = http.post(server.url, files={"a": picture, "b": ("y.png", b"?", "image/png")})
        assert (several.status_code, [one["status"] for one in several.json()["pictures"]]) == (207, [200, 422])
        large = bytes(cv2.imencode(".bmp", np.zeros((40, 60, 3), np.uint8))[1])
        same_name = http.post(server.url, files=[("a", ("x.bmp", large, "image/bmp"))] * 2)
        assert (same_name.status_code, "names" in same_name.json()["expected"]) == (400, True)
        late = http.post(server.url, content=encoded[0], headers={"X-Request-Deadline": "1000"})
        assert late.status_code == 504
        assert http.post(server.url, json={}).status_code == 415


def test_its_worker_has_the_settings(server):
    """The limit of pixels comes to the process that TorchServe starts."""
    with pytest.raises(InputError, match=r"at most 0\.0096 megapixels"):
        predict(server.url, bytes(cv2.imencode(".png", np.zeros((121, 80, 3), np.uint8))[1]), token=server.token)
    below = psutil.Process(server.pid).children(recursive=True)
    worker = next(one for one in below if "model_service_worker" in str(one.cmdline()))
    assert "SEGDEPLOY_WORKERS" not in worker.environ()  # the archive says it
    described = server.management.request("GET", "/models/tiny-1.x")[1][0]
    assert (described["batchSize"], described["maxBatchDelay"], described["deviceType"]) == (4, 50, "cpu")


def test_a_killed_worker_costs_answers_and_never_gives_a_wrong_one(server, onnx_session, encoded):
    """What it was working on is told 5xx; another worker comes, and its masks are the same."""
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    labels = [predict_labels(onnx_session, decode_image(body, "test")) for body in encoded]
    killed, again = threading.Event(), threading.Event()
    deadline = time.monotonic() + 60

    def ask(which):
        statuses = []
        with httpx.Client(headers=server.headers, timeout=60, trust_env=False) as http:
            while not (again.is_set() or time.monotonic() > deadline):
                late = killed.is_set()
                answer = http.post(server.url, content=encoded[which])
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    assert np.array_equal(np.array(Image.open(io.BytesIO(answer.content))), labels[which])
                    if late and any(status >= 500 for status in statuses):
                        again.set()
                time.sleep(0.02)
        return statuses

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, which) for which in range(4)]
        time.sleep(0.3)
        below = psutil.Process(server.pid).children(recursive=True)
        next(one for one in below if "model_service_worker" in str(one.cmdline())).kill()
        killed.set()
        statuses = [status for one in asking for status in one.result()]
    assert again.is_set()
    assert {status for status in statuses if status != 200} <= {500, 503, 507}


def test_it_says_that_it_is_healthy(server):
    """/ping answers 200."""
    request = urllib.request.Request(server.ping_url, headers=server.headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        assert "Healthy" in answer.read().decode()


def test_it_listens_on_loopback_only(server):
    """No socket of the server's processes listens on another address."""
    group = [process for process in psutil.process_iter() if _group(process) == server.pid]
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in group
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_metrics_are_exported(server, encoded):
    """Prometheus sees TorchServe's and the predictor's, all that are declared, and the machine's are not collected."""
    predict(server.url, encoded[0], token=server.token)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(server.metrics_url, timeout=20) as answer:
        text = answer.read().decode()
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
    assert 'ts_inference_requests_total{model_name="tiny-1.x"' in text
    assert "CPUUtilization" not in text
    config = (server.log.parent / CONFIG_NAME).read_text().splitlines()
    assert "disable_system_metrics=true" in config
    assert f"metrics_config={server.log.parent / METRICS_NAME}" in config


def test_its_log_has_a_line_a_request(server, encoded):
    """And not what TorchServe and each metric of a worker would say besides."""
    before = len(server.log.read_text().splitlines())
    for _ in range(3):
        predict(server.url, encoded[0], token=server.token)
    deadline = time.monotonic() + 10
    while len(lines := server.log.read_text().splitlines()[before:]) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ['ACCESS_LOG - 127.0.0.1 "POST /predictions/tiny-1.x' in line for line in lines] == [True] * 3


def test_an_unknown_model_is_a_clear_error(server):
    """Another model's URL is a ServeError that quotes the server."""
    with pytest.raises(ServeError, match="404"):
        predict(server.url + "x", b"anything", token=server.token)


def test_a_server_that_ends_by_itself_is_noticed_and_nothing_is_left(archive):
    """Following a server that was killed ends with an error; after the block its processes and its folder are gone."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    shown = io.StringIO()
    with pytest.raises(ServeError, match="it ended"), start(archive) as running:
        folder = running.log.parent
        java = [one for one in psutil.Process(running.pid).children(recursive=True) if "java" in one.name()]
        assert java
        java[0].send_signal(signal.SIGKILL)
        follow(running, shown)
    assert "the model runs on" in shown.getvalue()
    left = [process for process in psutil.process_iter() if _group(process) == running.pid]
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()


def test_a_model_that_does_not_load_is_said_in_the_workers_words(archive, tmp_path):
    """The handler refuses an archive that was altered, and the error quotes it; no process and no folder are left."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    altered = tmp_path / "altered.mar"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(altered, "w") as copy:
        for name in whole.namelist():
            copy.writestr(name, whole.read(name)[::-1] if name == "model.onnx" else whole.read(name))
    before = set(Path(tempfile.gettempdir()).glob("segdeploy-serve-*"))
    with pytest.raises(ServeError, match="changed or damaged after the export"), start(altered):
        pass
    assert not [process for process in psutil.process_iter() if "altered" in " ".join(_words(process))]
    assert set(Path(tempfile.gettempdir()).glob("segdeploy-serve-*")) <= before


def test_torchserve_is_typed_by_its_path_where_the_shell_does_not_find_it(archive, monkeypatch):
    """Without the environment's bin folder on PATH the line still works; with it, it is the word that everyone knows."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    monkeypatch.setenv("PATH", "/usr/bin")
    assert Path(shlex.split(stop_line())[0]).is_file()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin")
    assert " torchserve --start " in start_line(archive)


@pytest.mark.parametrize("missing", ["nowhere.mar", "folder.mar", "text.mar", "archive.zip"])
def test_what_is_no_archive_is_said_before_anything_starts(archive, tmp_path, missing):
    """Neither a wrong path nor a folder nor another file reaches TorchServe."""
    (tmp_path / "folder.mar").mkdir()
    (tmp_path / "text.mar").write_text("text")
    shutil.copy(archive, tmp_path / "archive.zip")
    with pytest.raises(InputError, match="segdeploy pack"), start(tmp_path / missing):
        pass


def test_a_taken_port_is_said_before_anything_starts(archive):
    """The port's number is in the message."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=str(port)), start(archive, port=port):
            pass


def _group(process):
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def _words(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []
