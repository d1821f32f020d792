"""A real Triton with the packed repository, asked with its own clients.

Runs where ``tritonserver`` is on the PATH or ``SEGDEPLOY_TRITON`` is its command line, whose Python must find segdeploy.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from segdeploy.artifact.folder import open_artifact
from segdeploy.serve.model_config import ModelConfig
from segdeploy.serve.predictor import open_predictor
from segdeploy.serve.request import Request
from segdeploy.serve.triton import pack_triton, start_line

COMMAND = shlex.split(os.environ.get("SEGDEPLOY_TRITON", "")) or [shutil.which("tritonserver") or ""]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMMAND[0], reason="tritonserver is not on the PATH, and SEGDEPLOY_TRITON is not set"),
]


def _free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def triton(onnx_artifact, tmp_path_factory):
    """A running server with the model 'tiny': its ports for HTTP, gRPC and metrics, and the model's folder."""
    place = tmp_path_factory.mktemp("triton")
    own = shutil.copytree(onnx_artifact.folder, place / "onnx-fp32")
    folder = pack_triton(
        open_artifact(own), name="tiny", out=place / "repository", config=ModelConfig(batch_size=8), unverified=True
    )
    ports = _free_ports(3)
    options = shlex.split(start_line(folder.parent))[1:]
    for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        options += [f"--{kind}-port", str(port)]
    with (place / "log").open("w") as log:
        process = subprocess.Popen([*COMMAND, *options], stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while _status(ports[0], "v2/health/ready") != 200:
            assert process.poll() is None, (place / "log").read_text()[-4000:]
            assert time.monotonic() < deadline, (place / "log").read_text()[-4000:]
            time.sleep(0.2)
        yield ports, folder
    finally:
        process.terminate()
        process.wait(60)


def _status(port, path, method="GET"):
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{path}", method=method)) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _ask(kind, port, bodies, **options):
    client = pytest.importorskip(f"tritonclient.{kind}")
    tensor = client.InferInput("image", [len(bodies), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(bodies, dtype=np.object_).reshape(-1, 1))
    asking = client.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        return list(asking.infer("tiny", [tensor], **options).as_numpy("mask").reshape(-1))
    finally:
        asking.close()


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_masks_are_those_of_this_process(triton, encoded, kind):
    """Byte for byte, by either of Triton's clients, one picture a request and six."""
    ports, folder = triton
    expected = [one.body for one in open_predictor(folder / "1" / "artifact", None).answer([Request(body) for body in encoded])]
    port = ports[["http", "grpc"].index(kind)]
    assert [_ask(kind, port, [body])[0] for body in encoded] == expected
    assert _ask(kind, port, encoded) == expected


def test_bad_requests_hurt_nobody_in_their_batch(triton, encoded):
    """Sixteen clients, every fifth request bad: each gets its own answer, and requests did run together."""
    from tritonclient.utils import InferenceServerException

    ports, folder = triton
    expected = [one.body for one in open_predictor(folder / "1" / "artifact", None).answer([Request(body) for body in encoded])]

    def one(number):
        if number % 5 == 4:
            with pytest.raises(InferenceServerException, match="expected") as caught:
                _ask("http", ports[0], [b"no image"])
            return caught.value.status() == "400"
        return _ask("http", ports[0], [encoded[number % 6]]) == [expected[number % 6]]

    before = _figure(ports[2], "nv_inference_exec_count")
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(300)))
    assert _figure(ports[2], "nv_inference_exec_count") - before < 300


def test_what_is_measured_is_exported(triton, encoded):
    """The predictor's own metrics stand among Triton's."""
    ports, _ = triton
    _ask("http", ports[0], [encoded[0]])
    assert _figure(ports[2], "segdeploy_requests") >= 1


def test_nothing_is_set_from_outside(triton):
    """Models, shared memory, traces and logging want a key that was never given to anyone."""
    http = triton[0][0]
    for method, path in (
        ("POST", "v2/repository/index"),
        ("POST", "v2/repository/models/tiny/unload"),
        ("GET", "v2/systemsharedmemory/status"),
        ("GET", "v2/trace/setting"),
        ("GET", "v2/logging"),
    ):
        assert _status(http, path, method) in {400, 403}, path
    assert _status(http, "v2/models/tiny/ready") == 200


def _figure(port, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))
