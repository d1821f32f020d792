"""A real TorchServe on loopback."""

from __future__ import annotations

import concurrent.futures
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

from segdeploy.core.errors import InputError, ServeError
from segdeploy.core.imaging import decode_image
from segdeploy.runtime.predictor import predict_labels
from segdeploy.serve.client import predict
from segdeploy.serve.server import CONFIG_NAME, Ports, Settings, start, start_line, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(archive):
    """The archive served with batches of up to four."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    with start(archive, settings=Settings(batch_size=4, max_batch_delay_ms=50)) as running:
        yield running


def test_served_masks_are_the_in_process_masks(server, onnx_session, encoded):
    """Images of several sizes, posted at once so that they are batched, come back pixel for pixel the same."""
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        served = list(pool.map(lambda body: predict(server.url, body), encoded))
    for body, mask in zip(encoded, served, strict=True):
        assert np.array_equal(mask, predict_labels(onnx_session, decode_image(body, "test")))


def test_a_corrupt_image_gets_422_and_its_neighbours_their_masks(server, encoded):
    """In one batch with a corrupt image, the good ones are answered."""
    bodies = [encoded[1], b"not an image", encoded[2]]

    def ask(body):
        try:
            return predict(server.url, body).shape
        except InputError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, bodies))
    assert answers[0] == answers[2] == (64, 96)
    assert "12 bytes of something else" in answers[1]


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


def test_models_cannot_be_registered_from_outside(server):
    """The management interface neither loads a model from a URL nor removes the one that is served."""
    config = dict(line.split("=", 1) for line in (server.log.parent / CONFIG_NAME).read_text().splitlines() if "=" in line)
    base = config["management_address"] + "/models"
    for method, url in (("POST", base + "?url=http://127.0.0.1:9/x.mar"), ("DELETE", base + "/tiny-1.x")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20)
        assert refused.value.code in (403, 405)


def test_an_unknown_model_is_a_clear_error(server):
    """Another model's URL is a ServeError that quotes the server."""
    with pytest.raises(ServeError, match="404"):
        predict(server.url + "x", b"anything")


def test_nothing_is_left_after_stopping(archive):
    """On leaving the block every process of the server is gone, and so is its folder."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    with start(archive) as running:
        assert psutil.pid_exists(running.pid)
        folder = running.log.parent
    assert not [process for process in psutil.process_iter() if _group(process) == running.pid]
    assert not folder.exists()


def test_the_line_that_pack_prints_serves_the_model(onnx_artifact, encoded, onnx_session, tmp_path, monkeypatch):
    """Pasted into a shell, in the folder where pack was run, it starts a server that answers."""
    pytest.importorskip("ts", reason="torchserve is not installed")
    from segdeploy.serve.archive import pack

    monkeypatch.chdir(tmp_path)
    packed = pack(onnx_artifact, name="pasted", out=Path("model_store"), unverified=True)
    ports = Ports(*_free_ports())
    write_config(packed, Settings(), ports, Path("model_store") / CONFIG_NAME)
    line = start_line(packed)
    # Its own temp folder, or the pid file of a server that a developer runs beside would stop it.
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    environment["PATH"] = f"{Path(os.sys.executable).parent}{os.pathsep}{environment['PATH']}"
    try:
        # Not through a pipe: the server keeps it open for as long as it runs.
        subprocess.run(line, shell=True, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=60)
        mask = _ask_until_up(f"http://127.0.0.1:{ports.inference}/predictions/pasted", encoded[0])
    finally:
        stop = [word if word != "--start" else "--stop" for word in shlex.split(line)[1:3]]
        subprocess.run(stop, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=60)
    assert np.array_equal(mask, predict_labels(onnx_session, decode_image(encoded[0], "test")))


@pytest.mark.parametrize("missing", ["nowhere.mar", "folder"])
def test_a_missing_archive_is_said_before_anything_starts(tmp_path, missing):
    """Neither a wrong path nor a folder reaches TorchServe."""
    (tmp_path / "folder").mkdir()
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


def test_no_server_is_a_clear_error():
    """A refused connection names the URL and the command that starts a server."""
    port = _free_ports()[0]
    with pytest.raises(ServeError, match="segdeploy serve"):
        predict(f"http://127.0.0.1:{port}/predictions/tiny", b"anything")


def _ask_until_up(url, body):
    deadline = time.monotonic() + 60
    while True:
        try:
            return predict(url, body)
        except ServeError:  # noqa: PERF203  it is what is waited for
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _free_ports():
    sockets = [socket.socket() for _ in range(5)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _group(process):
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None
