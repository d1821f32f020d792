"""``segdeploy serve --engine ray`` as a process: how it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="ray is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
psutil = pytest.importorskip("psutil", reason="psutil is not installed")
pytestmark = pytest.mark.slow
_MARK = "SEGDEPLOY_TEST_RAY"  # in the environment of every process that the command starts, and theirs


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_taken_is_answered_and_no_process_is_left(onnx_artifact, encoded, tmp_path, kind):
    """Told to end, it finishes; killed, it cannot, but its cluster ends with it, and nobody waits for ever."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    token = tmp_path / "authorization"
    words = [sys.executable, "-m", "segdeploy", "serve", str(onnx_artifact.folder), "--engine", "ray", "--unverified"]
    mine = {**os.environ, _MARK: str(tmp_path)}
    process = subprocess.Popen(
        [*words, "--port", str(port), "--name", "tiny", "--token-file", str(token)], env=mine, stdout=subprocess.PIPE, text=True
    )
    answers, places, stop = [], set(), threading.Event()

    try:
        assert process.stdout.readline() == f"ready: http://127.0.0.1:{port}/predictions/tiny\n"
        running = _marked(tmp_path)
        commands = [one.cmdline() for one in running]
        places = set(re.findall(r"/tmp/ray-[a-z0-9_]{8}", " ".join(" ".join(words) for words in commands)))
        assert {Path(one).stat().st_mode & 0o777 for one in places} == {0o700}  # Ray's sockets lie there
        assert len(running) > 4
        if kind == signal.SIGTERM:  # once is enough
            _check_that_strangers_are_refused(running)
        threads = [threading.Thread(target=_ask, args=(port, token, encoded[0], answers, stop)) for _ in range(4)]
        for one in threads:
            one.start()
        time.sleep(1.5)
        process.send_signal(kind)
        code = process.wait(90)
        deadline = time.monotonic() + 30
        while _marked(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.2)
        left = _marked(tmp_path)
    finally:
        stop.set()
        process.kill()
        process.stdout.close()
        for place in places:
            shutil.rmtree(place, ignore_errors=True)  # what a kill leaves
        for one in _marked(tmp_path):
            one.kill()
    for one in threads:
        one.join(60)
    assert [one.name() for one in left] == []
    assert answers.count(200) > 10
    if kind == signal.SIGTERM:
        assert code == 0
        assert {one for one in answers if one != 200} <= {404, 503}  # of requests that came while it ended


def _check_that_strangers_are_refused(running):
    """Who has not Ray's own token runs nothing on the cluster, from this machine neither."""
    words = next(one.cmdline() for one in running if any("--gcs-address=" in word for word in one.cmdline()))
    address = next(word for word in words if "--gcs-address=" in word).partition("=")[2]
    code = f"import ray; ray.init(address='{address}'); print(ray.get(ray.remote(lambda: 'ran').remote()))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    tried = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert tried.returncode == 1
    assert "ConnectionError" in tried.stderr
    assert "ran" not in tried.stdout


def _ask(port, token, body, answers, stop):
    """One request after the other, until one gets no mask."""
    headers = dict([token.read_text().strip().split(": ", 1)])
    with httpx.Client(trust_env=False, timeout=30) as client:
        while not stop.is_set():
            try:
                answers.append(
                    client.post(f"http://127.0.0.1:{port}/predictions/tiny", content=body, headers=headers).status_code
                )
            except httpx.ConnectError:  # nobody listens any more
                return
            except httpx.TransportError as error:
                answers.append(error)
            if answers[-1] != 200:
                return


def _marked(value):
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get(_MARK) == str(value) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.Error:  # noqa: PERF203  it has ended meanwhile
            continue
    return found
