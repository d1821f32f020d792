"""`segdeploy pack` and `segdeploy serve`."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from segdeploy.artifact.folder import open_artifact, record_parity
from segdeploy.artifact.verdict import Parity, Tolerance
from segdeploy.base.errors import ServeError

pytest.importorskip("model_archiver", reason="torch-model-archiver is not installed")
pytest.importorskip("ts", reason="torchserve is not installed")


@pytest.fixture
def export(onnx_artifact, tmp_path):
    """Puts a copy of the ONNX artifact under exports/, of some age and with a verdict."""

    def put(name, *, age_s, verdict=None):
        artifact = open_artifact(Path(shutil.copytree(onnx_artifact.folder, tmp_path / "exports" / name / "onnx-fp32")))
        os.utime(artifact.model_path, (time.time() - age_s,) * 2)
        if verdict:
            tolerance = Tolerance(logits_max_abs=1e-4, mask_agreement=1.0, miou_points=0.1)
            record_parity(
                artifact,
                Parity(reference="test", inputs="none", device="cpu", tolerance=tolerance, shapes=(), verdict=verdict),
            )
        return artifact

    return put


def test_pack_takes_the_newest_that_passed_and_says_how_to_serve_it(main, export, tmp_path):
    """A newer export without a passed verdict is left out, and named; the lines to start, ask and stop are printed."""
    export("old", age_s=300, verdict="passed")
    export("good", age_s=200, verdict="passed")
    export("bad", age_s=100, verdict="failed")
    ended = main("pack")
    assert ended.status == 0, ended
    assert "exports/bad/onnx-fp32" in ended.err
    made = tmp_path / "model_store" / "tiny.mar"
    first, _, start, _, ask, *_, stop = ended.out.splitlines()
    assert first.startswith(f"model_store/tiny.mar  {made.stat().st_size / 1e6:.1f} MB  ")
    assert first.endswith("parity: passed on none, cpu")
    words = shlex.split(start)
    assert words[0].startswith("JAVA_HOME=")
    assert (Path(words[0].split("=", 1)[1]) / "bin" / "java").is_file()
    assert words[2:] == shlex.split(
        "--start --model-store model_store --models tiny=tiny.mar --ts-config model_store/config.properties"
        " --disable-token-auth --ncs"
    )
    assert shlex.split(ask)[:3] == ["curl", "-s", "http://127.0.0.1:8080/predictions/tiny"]
    assert shlex.split(stop) == [words[1], "--stop"]
    config = (tmp_path / "model_store" / "config.properties").read_text().splitlines()
    assert "inference_address=http://127.0.0.1:8080" in config
    assert f"allowed_urls=file://{tmp_path / 'model_store'}/.*" in config


def test_pack_refuses_what_was_not_proven(main, one_line, export, tmp_path):
    """Without a passed verdict: one line with the way out, and no model store; --unverified is that way."""
    artifact = export("new", age_s=0)
    one_line(main("pack"), "never verified", "segdeploy verify", "--unverified")
    one_line(main("pack", artifact.folder), "never verified")
    assert not (tmp_path / "model_store").exists()
    ended = main("pack", artifact.folder, "--unverified", "--name", "my_model", "--out", "store")
    assert ended.status == 0, ended
    assert "parity: never verified" in ended.out
    assert (tmp_path / "store" / "my_model.mar").is_file()


def test_pack_without_exports_is_one_line(main, one_line):
    """Where there is nothing to pack, the command that makes something is named."""
    one_line(main("pack"), "segdeploy export")


def test_serve_refuses_a_wrong_path(main, one_line, monkeypatch):
    """A missing archive is one line that names the command that makes one."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    one_line(main("serve", "nowhere.mar"), "nowhere.mar", "segdeploy pack")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "once", "status"), [(signal.SIGTERM, "ready", 0), (signal.SIGINT, "starting", 130)])
def test_serve_leaves_nothing_behind(main, export, tmp_path, onnx_artifact, kind, once, status):
    """Ended by a signal, serving or still starting, it stops Java and the workers, and cleans up."""
    artifact = export("new", age_s=0)
    assert main("pack", artifact.folder, "--unverified").status == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    running = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from segdeploy.cli.main import main; main()",
            "serve",
            "model_store/tiny.mar",
            "--port",
            str(port),
        ],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
    )
    try:
        if once == "ready":
            line = running.stdout.readline()
            assert line == f"ready: http://127.0.0.1:{port}/predictions/tiny\n", (tmp_path / "log").read_text()
            _compare(line.split()[1], onnx_artifact)
        started = _until(lambda: psutil.Process(running.pid).children(recursive=True))
        _until(lambda: any("java" in _name(one) for one in psutil.Process(running.pid).children(recursive=True)))
        started += psutil.Process(running.pid).children(recursive=True)
        running.send_signal(kind)
        assert running.wait(timeout=60) == status
    finally:
        running.kill()
    assert not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not list(scratch.glob("segdeploy-serve-*"))
    assert "Traceback" not in (tmp_path / "log").read_text()


def _compare(url, artifact):
    from segdeploy.runtime import open_session
    from segdeploy.runtime.predictor import predict_labels
    from segdeploy.serve.client import predict

    image = np.random.default_rng(4).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    with open_session(artifact, "cpu") as session:
        expected = predict_labels(session, image)
    body = bytes(cv2.imencode(".png", image[..., ::-1])[1])
    assert np.array_equal(predict(url, body), expected)


def _until(found):
    deadline = time.monotonic() + 30
    while not (value := found()):
        if time.monotonic() > deadline:
            raise ServeError(expected="a server that starts", got="none", fix="see its log")
        time.sleep(0.05)
    return value


def _name(process):
    try:
        return process.name()
    except psutil.Error:
        return ""
