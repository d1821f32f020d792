"""`segdeploy pack` and `segdeploy serve`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
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
from PIL import Image

from segdeploy.artifact.folder import open_artifact, record_parity
from segdeploy.artifact.verdict import Parity, Tolerance
from segdeploy.base.errors import ServeError
from segdeploy.serve.torchserve_config import Addresses

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
    first, _, start, _, ask, _, stop = ended.out.splitlines()
    assert first.startswith(f"model_store/tiny.mar  {made.stat().st_size / 1e6:.1f} MB  ")
    assert first.endswith("parity: passed on none, cpu")
    words = shlex.split(start.strip().removeprefix("(umask 077; ").removesuffix(")"))
    assert words[0].startswith("JAVA_HOME=")
    assert (Path(words[0].split("=", 1)[1]) / "bin" / "java").is_file()
    assert words[2:] == shlex.split(
        "--start --model-store model_store --models tiny=tiny.mar --ts-config model_store/config.properties --ncs"
    )
    assert "| curl -s -H @- http://127.0.0.1:8080/predictions/tiny -T IMAGE.jpg -o mask.png" in ask
    assert shlex.split(stop) == [words[1], "--stop"]
    config = (tmp_path / "model_store" / "config.properties").read_text().splitlines()
    assert "inference_address=http://127.0.0.1:8080" in config
    assert "disable_token_authorization=false" in config
    assert "enable_model_api=false" in config
    assert any(line.startswith("allowed_urls=file:///") and line.endswith("model_store/.*") for line in config)


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
def test_the_printed_lines_work_word_for_word(main, export, tmp_path, monkeypatch, onnx_artifact):
    """Pasted into a shell: the first starts TorchServe, the second gets the mask, the third stops it."""
    if not shutil.which("curl"):
        pytest.skip("the line that asks is curl's, which is not installed")
    ports = _free_ports(5)
    names = ("inference", "management", "metrics")
    other = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)}
    addresses = functools.partial(Addresses, **other, grpc_inference=ports[3], grpc_management=ports[4])
    for module in ("torchserve_config", "lines"):
        monkeypatch.setattr(f"segdeploy.serve.{module}.Addresses", addresses)
    # Its own temp folder, or the pid file of a server that a developer runs beside would stop it.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TEMP", str(tmp_path))
    monkeypatch.setenv("TS_CONFIG_FILE", "")  # which by itself makes TorchServe ignore --ts-config
    ended = main("pack", export("new", age_s=0).folder, "--unverified")
    start, ask, stop = (line for line in ended.out.splitlines() if line.startswith("  "))
    image = np.random.default_rng(4).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    (tmp_path / "IMAGE.jpg").write_bytes(cv2.imencode(".png", image[..., ::-1])[1])

    def shell(line):
        # Not through a pipe: the server keeps it open for as long as it runs.
        subprocess.run(line, shell=True, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def asked():
        shell(ask)
        made = tmp_path / "mask.png"
        return cv2.imread(str(made), cv2.IMREAD_UNCHANGED) if made.exists() else None

    try:
        shell(start)
        _until(lambda: asked() is not None)
        assert (tmp_path / "key_file.json").stat().st_mode & 0o077 == 0
        with Image.open(tmp_path / "mask.png") as mask:
            assert np.array_equal(np.asarray(mask), _expected(onnx_artifact, image))
        assert subprocess.run(ask.replace("Bearer", "Bearer x"), shell=True, check=True, timeout=60).returncode == 0
        assert b"Token Authorization failed" in (tmp_path / "mask.png").read_bytes()
    finally:
        shell(stop)
    _until(lambda: not [one for one in psutil.process_iter() if str(tmp_path) in _environment(one)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "once", "status"),
    [(signal.SIGTERM, "asked", 0), (signal.SIGKILL, "ready", -signal.SIGKILL), (signal.SIGINT, "starting", 130)],
)
def test_serve_leaves_nothing_behind(main, export, tmp_path, onnx_artifact, kind, once, status):
    """Ended by a signal, even by one that it cannot answer: Java, the workers and the files are gone.

    Told to end while a request is in flight, it takes no other, and that one gets its mask.
    """
    artifact = export("new", age_s=0)
    # A request that is alone waits for others: so long is it in flight.
    assert main("pack", artifact.folder, "--unverified", "--batch-size", "4", "--max-batch-delay", "1500").status == 0
    port, metrics_port = _free_ports(2)
    scratch, header = tmp_path / "tmp", tmp_path / "header"
    scratch.mkdir()
    options = ("--port", port, "--metrics-port", metrics_port, "--token-file", header)
    running = subprocess.Popen(
        [
            *(sys.executable, "-c", "from segdeploy.cli.main import main; main()", "serve", "model_store/tiny.mar"),
            *map(str, options),
        ],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{port}/predictions/tiny"
        if once != "starting":
            assert running.stdout.readline() == f"ready: {url}\n", (tmp_path / "log").read_text()
            assert running.stdout.readline() == f"  curl -s -H @{header} {url} -T IMAGE.jpg -o mask.png\n"
            assert header.stat().st_mode & 0o777 == 0o600
        _until(lambda: any("java" in _name(one) for one in psutil.Process(running.pid).children(recursive=True)))
        started = psutil.Process(running.pid).children(recursive=True)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(_compare, url, header.read_text().split()[-1], onnx_artifact) if once == "asked" else None
            if asked:
                time.sleep(0.5)
            running.send_signal(kind)
            if asked:
                _until(lambda: _refused(port))
                assert not asked.done()
                asked.result()
        assert running.wait(timeout=60) == status
    finally:
        running.kill()
    _until(lambda: not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE])
    assert not list(scratch.glob("segdeploy-serve-*"))
    assert header.exists() == (kind == signal.SIGKILL)
    assert "Traceback" not in (tmp_path / "log").read_text()


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def _compare(url, token, artifact):
    from segdeploy.serve.client import predict

    image = np.random.default_rng(4).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    body = bytes(cv2.imencode(".png", image[..., ::-1])[1])
    assert np.array_equal(predict(url, body, token=token), _expected(artifact, image))


def _expected(artifact, image):
    from segdeploy.runtime import open_session
    from segdeploy.runtime.predictor import predict_labels

    with open_session(artifact, "cpu") as session:
        return predict_labels(session, image)


def _environment(process):
    try:
        return process.environ().get("TEMP", "") if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


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
