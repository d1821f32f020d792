"""Starting, watching and stopping TorchServe."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from segdeploy.base.errors import InputError, ServeError
from segdeploy.serve import environment, supervisor
from segdeploy.serve.archive import check_name, unpack
from segdeploy.serve.front import Front, Limits
from segdeploy.serve.lines import java_home, torchserve
from segdeploy.serve.management import Management
from segdeploy.serve.torchserve_config import (
    CONFIG_NAME,
    HOST,
    LARGEST_MESSAGE_BYTES,
    LOG_CONFIG,
    Addresses,
    write_config,
)

_READY_TIMEOUT_S = 180
_STOP_TIMEOUT_S = 20
_WORDS_TIMEOUT_S = 10
_POLL_S = 0.3
# A Unix socket's path has 107 bytes; a folder and a socket of TorchServe's come behind this.
_LONGEST_PLACE_BYTES = 60
_ERROR = re.compile(r"(Error|Exception)\b.*:")
_LARGEST_LOG_BYTES = 64 << 20
# The one would win over --ts-config; the other over the archive.
_NOT_PASSED_ON = ("TS_CONFIG_FILE", environment.WORKERS)


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: the address to listen on. Anything but loopback should stand behind a proxy that authenticates.
        metrics_host: likewise, for Prometheus; no token is asked for there.
        workers: processes; None for what the archive says.
        batch_size: most requests that are run together; None for what the archive says.
        max_batch_delay_ms: how long a request waits for others; None for what the archive says.
        max_pixels: of a picture; None for what ``decode_image`` allows by default.
        tokens: whether a token must come with every request.
        token_file: where the header with the token is written; None for a temporary folder.
        model_api: whether models may be registered and removed at run time, through the management's socket.
        limits: of connections.
    """

    host: str = HOST
    metrics_host: str = HOST
    workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    max_pixels: int | None = None
    tokens: bool = True
    token_file: Path | None = None
    model_api: bool = False
    limits: Limits = field(default_factory=Limits)

    def changes(self) -> dict[str, int | str]:
        """What it changes in the archive's model-config.yaml, by TorchServe's names."""
        found: dict[str, int | None] = {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.max_batch_delay_ms,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: where to post images.
        ping_url: answers while it is healthy.
        metrics_url: what Prometheus reads.
        token: for both of the former; None where none is wanted.
        header_file: a file with the header that carries the token, for its owner alone; None likewise.
        management: the way to its management interface.
        process: the leader of its process group.
        log: its output.
    """

    url: str
    ping_url: str
    metrics_url: str
    token: str | None
    header_file: Path | None
    management: Management
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Of its process group."""
        return self.process.pid

    @property
    def headers(self) -> dict[str, str]:
        """What a request must bring."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


@contextlib.contextmanager
def start(
    archive: Path, *, port: int | None = None, metrics_port: int | None = None, settings: Settings | None = None
) -> Iterator[Server]:
    """Serve an archive while the block runs. At its end what is being answered is finished, and no process is left.

    Should this process be killed, those of the server are too.

    Args:
        archive: a .mar.
        port: for predictions; None for a free one.
        metrics_port: for Prometheus; None for a free one.
        settings: how.

    Raises:
        InputError: it is no archive, its name is none for a model, or a port is taken.
        MissingExtraError: TorchServe or its Java is not installed.
        ServeError: the model did not come up; quotes the server's log.
    """
    _check_archive(archive)
    chosen = settings or Settings()
    executable, java = torchserve(), java_home()
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(_bound(port, chosen.host, "--port"))
        # A folder of its own, which nobody else may enter: sockets, tokens, logs and the unpacked model lie there.
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="segdeploy-serve-", ignore_cleanup_errors=True, dir=_short_place())
        )
        scratch = Path(folder)
        store = scratch / "store"
        _, told = unpack(archive, store / archive.stem, chosen.changes())
        addresses = _addresses(scratch, metrics_port, chosen.metrics_host)
        config = scratch / CONFIG_NAME
        further = archive.parent if chosen.model_api else None
        write_config(config, store, addresses, tokens=chosen.tokens, model_api=chosen.model_api, further=further)
        command = [
            *(sys.executable, "-I", supervisor.__file__, folder),
            *(sys.executable, executable, "--start", "--foreground", "--ncs", "--model-store", str(store)),
            *("--models", f"{archive.stem}={archive.stem}", "--ts-config", str(config), "--log-config", str(LOG_CONFIG)),
        ]
        log = scratch / "server.log"
        process = stack.enter_context(_running(command, scratch, log, _variables(folder, java, chosen)))
        management = Management(scratch / "management.sock", scratch / "key_file.json" if chosen.tokens else None)
        _wait_until_ready(process, archive.stem, management, log, int(told.get("startupTimeout", 0)) or _READY_TIMEOUT_S)
        token = management.token("inference")
        header_file = _write_header(chosen.token_file or scratch / "authorization", token)
        if header_file is not None:
            stack.callback(header_file.unlink, missing_ok=True)
        front = Front(public, scratch / "inference.sock", chosen.limits)
        stack.callback(front.close)
        with _port_taken(port, chosen.host, "--port"):
            front.start()
        base = f"http://{_bracketed(chosen.host)}:{public.getsockname()[1]}"
        yield Server(
            url=f"{base}/predictions/{archive.stem}",
            ping_url=f"{base}/ping",
            metrics_url=f"{addresses.metrics}/metrics",
            token=token,
            header_file=header_file,
            management=management,
            process=process,
            log=log,
        )
        front.finish(int(told.get("responseTimeout", 0)) or 120)


def _variables(folder: str, java: str, settings: Settings) -> dict[str, str]:
    variables = {
        **{key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON},
        "JAVA_HOME": java,
        "TEMP": folder,
        "TMPDIR": folder,
        environment.MAX_RESPONSE_BYTES: str(LARGEST_MESSAGE_BYTES),
    }
    return variables | ({environment.MAX_PIXELS: str(settings.max_pixels)} if settings.max_pixels is not None else {})


@contextlib.contextmanager
def _running(command: list[str], scratch: Path, log: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The process group of a server; on return nothing of it is left."""
    with log.open("ab") as sink:  # appending, so that it may be cut short under the server
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env=variables,
            stdin=subprocess.PIPE,  # held for as long as this process lives
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    try:
        yield process
    finally:
        _stop(process)


def _write_header(path: Path, token: str | None) -> Path | None:
    """Write the header that carries the token, so that neither a log nor ``ps`` shows it: ``curl -H @PATH``."""
    if token is None:
        return None
    try:
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(
            expected=f"a place for the token at '{path}'", got=str(error.strerror).lower(), fix="choose another --token-file"
        ) from error
    with os.fdopen(handle, "w") as file:
        file.write(f"Authorization: Bearer {token}\n")
    return path


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


def _wait_until_ready(
    process: subprocess.Popen[bytes], name: str, management: Management, log: Path, patience_s: float
) -> None:
    """Wait for a worker that has loaded the model. /ping alone answers before that."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServeError(expected="a running TorchServe", got=_reason(log), fix="run: segdeploy doctor")
        if "Worker disconnected" in log.read_text(errors="replace"):
            _wait_for_words(log)
            raise ServeError(expected=f"a worker with the model '{name}'", got=_reason(log), fix="run: segdeploy doctor")
        if "READY" in management.workers(name):
            return
        time.sleep(_POLL_S)
    raise ServeError(
        expected=f"the model '{name}' loaded within {patience_s:.0f} s", got=_reason(log), fix="run: segdeploy doctor"
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
    """End the whole process group: Java, and the Python workers that it started. Nothing of theirs is worth a farewell."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while _lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def _lives(group: int) -> bool:
    """Whether a process of a group runs. One that has ended may still wait for its parent to take note: it does not count."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _short_place() -> str:
    """The folder for temporary ones; where its path is too long for the sockets that TorchServe makes there, /tmp."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= _LONGEST_PLACE_BYTES else "/tmp"  # noqa: S108  mkdtemp makes it ours alone


def _addresses(scratch: Path, metrics_port: int | None, metrics_host: str) -> Addresses:
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(_bound(metrics_port, metrics_host, "--metrics-port"))
        grpc = [stack.enter_context(_bound(None, HOST, "--port")) for _ in range(2)]
        return Addresses(
            inference=f"unix:{scratch}/inference.sock",
            management=f"unix:{scratch}/management.sock",
            metrics=f"http://{_bracketed(metrics_host)}:{metrics.getsockname()[1]}",
            grpc_inference=int(grpc[0].getsockname()[1]),
            grpc_management=int(grpc[1].getsockname()[1]),
        )


def _bound(port: int | None, host: str, option: str) -> socket.socket:
    """A socket of TCP that holds a port and takes no connection yet; None for a free one."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        with _port_taken(port, host, option):
            held.bind((host, port or 0))
    except InputError:
        held.close()
        raise
    return held


@contextlib.contextmanager
def _port_taken(port: int | None, host: str, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            expected=f"a free port {port} on {host}", got=str(error.strerror or error).lower(), fix=f"choose another {option}"
        ) from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
