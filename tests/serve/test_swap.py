"""Another model in a running server's place, by the way that docs/serving.md shows, under load."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
import zipfile
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from segdeploy.artifact.folder import open_artifact
from segdeploy.base.errors import SegdeployError
from segdeploy.images.decode import decode_image
from segdeploy.runtime.predictor import predict_labels
from segdeploy.serve.archive import pack
from segdeploy.serve.client import predict
from segdeploy.serve.server import Settings, start

pytestmark = pytest.mark.slow
_MOST_BYTES = 20_000


@pytest.fixture(scope="module")
def store(archive, onnx_artifact, tmp_path_factory):
    """A model store with version 1.0 of a model, and its version 2.0 beside it."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    folder = tmp_path_factory.mktemp("swap")
    shutil.copy(archive, folder / "tiny-1.x.mar")
    own = shutil.copytree(onnx_artifact.folder, folder / "artifact")
    made = pack(open_artifact(own), name="tiny-1.x", version="2.0", out=folder / "made", unverified=True)
    return folder, shutil.copy(made, folder / "tiny-2.mar")


@pytest.fixture(scope="module")
def server(store):
    """Version 1.0, served with the model API on, where messages may have so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("server", "torchserve_config"):
            patch.setattr(f"segdeploy.serve.{module}.LARGEST_MESSAGE_BYTES", _MOST_BYTES)
        with start(store[0] / "tiny-1.x.mar", settings=Settings(model_api=True)) as running:
            yield running


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/x.mar", "file:///etc/passwd", "../tiny-2.mar", "file://{store}/../x.mar", "file://{store}/evil.mar"],
)
def test_models_come_from_the_store_and_nowhere_else(server, store, url):
    """Also with the model API on: no address, no other folder, no way out of it, and nothing is unpacked outside."""
    evil = store[0] / "evil.mar"
    with zipfile.ZipFile(store[1]) as whole, zipfile.ZipFile(evil, "w") as copy:
        for entry in whole.namelist():
            copy.writestr(entry, whole.read(entry))
        copy.writestr("../../evil.py", "evil")
    status, _ = server.management.request("POST", f"/models?url={quote(url.format(store=store[0]))}&initial_workers=1")
    assert 400 <= status < 600
    assert not list(server.log.parent.rglob("evil.py"))
    _, listed = server.management.request("GET", "/models")
    assert [model["modelName"] for model in listed["models"]] == ["tiny-1.x"]


def test_an_answer_beyond_the_limit_is_told_and_the_worker_lives(server):
    """The overlay of noise would make TorchServe end the worker; its caller is told instead, by a worker that lives on."""
    noise = np.random.default_rng(2).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    body = bytes(cv2.imencode(".jpg", noise)[1])
    assert len(body) < _MOST_BYTES < noise.size
    before = server.management.request("GET", "/models/tiny-1.x")[1][0]["workers"]
    headers = {**server.headers, "Accept": "image/png; profile=overlay", "Content-Type": "image/jpeg"}
    request = urllib.request.Request(server.url, data=body, headers=headers)
    with pytest.raises(urllib.error.HTTPError, match="422") as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)
    assert json.load(refused.value)["expected"] == f"an answer of at most {_MOST_BYTES:,} bytes"
    assert predict(server.url, body, token=server.token).shape == (90, 90)
    after = server.management.request("GET", "/models/tiny-1.x")[1][0]["workers"]
    assert [one["pid"] for one in after] == [one["pid"] for one in before]


def test_another_version_takes_over_and_nothing_is_lost(server, store, encoded, onnx_session):
    """Register, make it the default, let the old one finish, remove it: every request in between gets its right mask."""
    body = encoded[1]
    expected = predict_labels(onnx_session, decode_image(body, "test"))
    answers, over = [], threading.Event()

    def same():
        try:
            return bool(np.array_equal(predict(server.url, body, token=server.token), expected))
        except SegdeployError as error:
            return error

    def ask():
        while not over.is_set():
            answers.append(same())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    manage = server.management.request
    try:
        until(lambda: len(answers) > 20)
        done = manage("POST", f"/models?url={quote(f'file://{store[1]}')}&initial_workers=1&synchronous=true")
        assert done[0] == 200, done
        assert manage("PUT", "/models/tiny-1.x/2.0/set-default")[0] == 200
        until(lambda: manage("GET", "/models/tiny-1.x/1.0")[1][0]["jobQueueStatus"]["pendingRequests"] == 0)
        time.sleep(1)  # longer than a request takes
        before = len(answers)
        assert manage("DELETE", "/models/tiny-1.x/1.0")[0] == 200
        until(lambda: len(answers) > before + 20)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert answers
    assert [answer for answer in answers if answer is not True] == []
    assert [model["modelVersion"] for model in manage("GET", "/models/tiny-1.x/all")[1]] == ["2.0"]


def until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
