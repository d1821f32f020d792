"""Serves the page on loopback, and passes its requests on to the engine: the browser sees one origin, and no token.

Nothing is opened to other origins. The page lies under a path that nobody can guess, because whoever reaches it may ask the
engine: another user of the machine, or a page of elsewhere in the same browser, does not know it.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import secrets
import socketserver
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import msgspec

from segdeploy.base.errors import InputError

HOST = "127.0.0.1"
_FOLDER = Path(__file__).parent
_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "rle.js": ("rle.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LARGEST_BODY_BYTES = 64 << 20
_TIMEOUT_S = 120
_SILENCE_S = 20


@contextlib.contextmanager
def start_page(url: str, headers: Mapping[str, str], *, port: int = 0) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        url: of the model at the engine, such as ``http://127.0.0.1:8080/predictions/upernet``.
        headers: that the engine wants with every request: its token.
        port: on loopback; 0 for a free one.

    Yields:
        The address to open in a browser. Who knows it may use the page.

    Raises:
        InputError: the port is taken.
    """
    secret = secrets.token_urlsafe(24)
    handler = type("_Bound", (_Handler,), {"engine": urllib.parse.urlsplit(url), "passed": dict(headers), "secret": secret})
    try:
        server = _Server((HOST, port), handler)
    except OSError as error:
        raise InputError(
            expected=f"a free port {port} on {HOST} for the page",
            got=str(error.strerror).lower(),
            fix="choose another --page-port",
        ) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}/{secret}/"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a browser may keep a connection open for minutes

    def server_bind(self) -> None:
        """As a plain TCP server: HTTPServer asks the resolver for this machine's name, which can take long."""
        socketserver.TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    """One connection. What it is bound to stands in the subclass that is made for each server."""

    engine: ClassVar[urllib.parse.SplitResult]
    passed: ClassVar[Mapping[str, str]]
    secret: ClassVar[str]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "segdeploy", ""
    timeout = _SILENCE_S

    def do_GET(self) -> None:
        """The page and its parts."""
        name = self._name()
        if name not in _FILES:
            self._refuse(HTTPStatus.NOT_FOUND, expected="the address that segdeploy serve printed", got="another path")
            return
        file, content_type = _FILES[name]
        self._send(HTTPStatus.OK, (_FOLDER / file).read_bytes(), content_type)

    def do_POST(self) -> None:
        """A picture, for the engine."""
        self.close_connection = True  # of a body that is not read the rest would be the next request
        if self._name() != "predict":
            self._refuse(HTTPStatus.NOT_FOUND, expected="the address that segdeploy serve printed", got="another path")
            return
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdigit() and len(text) < 12) or int(text) > _LARGEST_BODY_BYTES:
            limit = f"a picture of at most {_LARGEST_BODY_BYTES >> 20} MiB, its length said before it"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, expected=limit, got=f"a length of '{text[:20]}' bytes")
            return
        body = self.rfile.read(int(text))
        if len(body) == int(text):  # else nobody is there any more
            self._send(*self._ask(body))

    def _name(self) -> str | None:
        """What is asked for under the secret path; None outside of it, and for another host's name that leads here."""
        place = "{}:{}".format(*self.connection.getsockname())
        _, secret, *rest = (urllib.parse.urlsplit(self.path).path + "/").split("/")
        known = hmac.compare_digest(secret.encode(), self.secret.encode())
        return "/".join(rest).strip("/") if known and self.headers.get("Host") == place else None

    def _ask(self, body: bytes) -> tuple[int, bytes, str]:
        wanted = {"Content-Type": "application/octet-stream", "Accept": "application/json", **self.passed}
        secure = self.engine.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self.engine.hostname or HOST, self.engine.port, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", self.engine.path, body, wanted)
            answer = connection.getresponse()
            return answer.status, answer.read(), "application/json"
        except (OSError, http.client.HTTPException) as error:
            told = {"expected": "an answer from the engine", "got": str(error) or type(error).__name__, "fix": "see its log"}
            return HTTPStatus.BAD_GATEWAY, msgspec.json.encode(told), "application/json"
        finally:
            connection.close()

    def _refuse(self, status: HTTPStatus, *, expected: str, got: str) -> None:
        told = {"expected": expected, "got": got, "fix": "correct the request"}
        self._send(status, msgspec.json.encode(told), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": content_type, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent: the engine has its log, and this address is a secret."""
