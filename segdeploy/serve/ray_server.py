"""Serving with Ray Serve: on a small cluster of its own, which ends with this process, or on one that runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from segdeploy.base.errors import InputError, MissingExtraError, SegdeployError, ServeError
from segdeploy.base.machine import usable_cpus
from segdeploy.serve.ray_app import RaySettings, build

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OBJECTS_BYTES = 200 << 20  # pictures and masks on their way; Ray would take a third of the memory
_POLL_S = 1.0
_APPLICATION = "segdeploy"


@dataclass(frozen=True)
class RayServer:
    """A running application.

    Attributes:
        url: where to post pictures.
        base: the server's own address.
        header_file: a file with the header that carries the token, for its owner alone; None where none is asked for.
    """

    url: str
    base: str
    header_file: Path | None


@contextlib.contextmanager
def start_ray(
    settings: RaySettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    address: str | None = None,
    token_file: Path | None = None,
) -> Iterator[RayServer]:
    """Serve an artifact while the block runs; then what is being answered is finished, and no process of ours is left.

    Args:
        settings: of the application.
        host: to listen on; on a running cluster, what Serve was started with there counts.
        port: likewise.
        address: of a running cluster; None starts one for this process alone.
        token_file: where the header with the token is written; a token is then asked for. None asks for none.

    Raises:
        InputError: the port is taken, or the token cannot be written.
        MissingExtraError: Ray is not installed.
        ServeError: the model did not come up.
    """
    _need_ray()
    token = secrets.token_urlsafe(32) if token_file is not None else None
    if token is not None and token_file is not None:
        write_header(token_file, token)
        settings = msgspec.structs.replace(settings, token_sha256=hashlib.sha256(token.encode()).hexdigest())
    with ray_cluster(address), _serving(host, port, embedded=address is None):
        from ray import serve

        shown = f"[{host}]" if ":" in host else host
        base = f"http://{shown}:{port}"
        try:
            serve.run(build(msgspec.to_builtins(settings)), name=_APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise ServeError(
                expected=f"the model '{settings.name}' ready", got=_last(error), fix="run: segdeploy doctor"
            ) from error
        yield RayServer(f"{base}/predictions/{settings.name}", base, token_file)


@contextlib.contextmanager
def ray_cluster(address: str | None, cpus: int | None = None) -> Iterator[None]:
    """A connection to a cluster; one of our own is started where there is none, and ends with the block.

    Ray listens for its own purposes on every address of the machine, and who reaches that runs code: so the cluster asks for a
    token of its own, which nobody but its processes has. Nothing is reported to anyone, and there is no dashboard.
    """
    _need_ray()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    here = {} if address else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ.get(name) for name in here}
    os.environ.update(here)
    import ray

    # Sockets want a short path, whatever the folder for temporary ones is.
    place = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    try:
        try:
            with _own_signals():
                # In a folder below: Ray opens its own, with the sockets of its store, to all users.
                ray.init(**_options(address, cpus, f"{place.name}/ray"))
        except (ConnectionError, ValueError) as error:
            raise ServeError(expected=f"a Ray cluster at {address}", got=str(error), fix="check --address") from error
        yield
    finally:
        ray.shutdown()
        place.cleanup()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def follow_ray() -> None:
    """Wait until interrupted, or until the application has failed.

    Raises:
        ServeError: it has no replica any more that could come up.
    """
    from ray import serve

    while True:
        time.sleep(_POLL_S)
        status = serve.status().applications.get(_APPLICATION)
        if status is None or status.status == "DEPLOY_FAILED":
            got = "it is gone" if status is None else status.message[-400:]
            raise ServeError(
                expected="a running application", got=got, fix="see Ray's logs: /tmp/ray/session_latest/logs/serve"
            )


@contextlib.contextmanager
def _serving(host: str, port: int, *, embedded: bool) -> Iterator[None]:
    from ray import serve

    if embedded:
        _check_free(host, port)
    serve.start(
        proxy_location="HeadOnly" if embedded else "EveryNode",
        http_options={"host": host, "port": port, "keep_alive_timeout_s": 30},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    try:
        yield
    finally:
        # The application first: its replicas finish what they have. Serve itself goes only where we have started it.
        serve.delete(_APPLICATION)
        if embedded:
            time.sleep(_POLL_S)  # for answers that are on their way to a slow client: the proxy is ended at once
            serve.shutdown()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts handlers of its own in the place of ours, which print a trace and abort: ours are put back."""
    ours = threading.current_thread() is threading.main_thread()
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)} if ours else {}
    try:
        yield
    finally:
        for kind, handler in before.items():
            if handler is not None:
                signal.signal(kind, handler)


def _options(address: str | None, cpus: int | None, place: str) -> dict[str, Any]:
    quiet = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
    if address:
        return {"address": address, **quiet}
    return {
        "address": "local",
        "num_cpus": cpus or usable_cpus(),
        "include_dashboard": False,
        "object_store_memory": _OBJECTS_BYTES,
        "_temp_dir": place,
        **quiet,
    }


def _need_ray() -> None:
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError(package="ray", extra="ray", purpose="serving with Ray")


def _check_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            got = str(error.strerror).lower()
            raise InputError(expected=f"a free port {port} on {host}", got=got, fix="choose another --port") from error


def write_header(path: Path, token: str) -> None:
    """Write the header that carries a token, for its owner alone: neither a log nor ``ps`` shows it.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        got = str(error.strerror).lower()
        raise InputError(expected=f"a place for the token at '{path}'", got=got, fix="choose another --token-file") from error
    with os.fdopen(handle, "w") as file:
        file.write(f"Authorization: Bearer {token}\n")


def _last(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if SegdeployError.__module__ in line or "Error" in line]
    return (said or lines or [type(error).__name__])[-1][:400]
