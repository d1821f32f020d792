"""The client, against small servers of our own that answer rightly and wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import socket
import sys
import threading
import time
from types import SimpleNamespace
from urllib.parse import parse_qs

import numpy as np
import pytest

from segdeploy.base.errors import InputError, MissingExtraError, ServeError
from segdeploy.images.label_png import label_png
from segdeploy.serve.client import AsyncClient, Client, predict

LABELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
PNG = label_png(LABELS, ((0, 0, 0), (9, 9, 9)))


class Answers:
    """A server that gives its answers in turn, the last one for ever; (status, body, headers) each."""

    def __init__(self, *answers):
        self.received, self.headers = [], []
        self._left = list(answers)
        self._lock = threading.Lock()

    def take(self, body, headers):
        with self._lock:
            self.received.append(body)
            self.headers.append(headers)
            return self._left.pop(0) if len(self._left) > 1 else self._left[0]


@contextlib.contextmanager
def answering(*answers):
    """Gives a server's URL, and what it received."""
    told = Answers(*answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            got = self.rfile.read(int(self.headers["Content-Length"]))
            status, body, *more = told.take(got, self.headers)
            if status is None:  # hang up
                self.close_connection = True
                return
            self.send_response(status)
            headers = {"Content-Length": str(len(body)), **(more[0] if more else {})}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = int(headers["Content-Length"]) != len(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/predictions/x", told
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def pauses(monkeypatch):
    """How long the clients wanted to sleep, each time; they do not."""
    slept = []

    async def rest(seconds):
        slept.append(seconds)

    # The client's alone: threads of other tests may sleep too.
    monkeypatch.setattr("segdeploy.serve.client.time", SimpleNamespace(sleep=slept.append, time=time.time))
    monkeypatch.setattr("segdeploy.serve.client.asyncio", SimpleNamespace(sleep=rest))
    return slept


def asked(kind, url, options=None, **settings):
    """One reply, by either client."""
    if kind == "sync":
        with Client(url, **settings) as client:
            return client.ask(b"the image", options)

    async def run():
        async with AsyncClient(url, **settings) as client:
            return await client.ask(b"the image", options)

    return asyncio.run(run())


both = pytest.mark.parametrize("kind", ["sync", "async"])


def test_labels_come_back_as_they_were(monkeypatch):
    """The image's bytes are posted unchanged, past any proxy, and palette indices are read as labels."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering((200, PNG)) as (url, told):
        assert np.array_equal(predict(url, b"the image"), LABELS)
    assert told.received == [b"the image"]


def test_a_refused_image_is_the_callers_error():
    """422 is an InputError with the server's reason."""
    with answering((422, b"expected an image")) as (url, _), pytest.raises(InputError, match="expected an image"):
        predict(url, b"x")


@pytest.mark.parametrize(
    ("status", "body", "length", "told"),
    [
        (503, b"worker died", None, "503.*worker died"),
        (200, b"", None, "0 bytes of something else"),
        (200, b"<html>hello</html>", None, "18 bytes of something else"),
        (200, PNG[:-34], None, "bytes of something else"),
        (200, PNG, len(PNG) + 9, "without sending complete"),
    ],
)
def test_any_other_answer_is_the_servers_error(status, body, length, told):
    """An error status, no PNG, half a PNG and a connection that ends early are each a ServeError that says so."""
    headers = {} if length is None else {"Content-Length": str(length)}
    with (
        answering((status, body, headers)) as (url, _),
        Client(url, retries=0) as client,
        pytest.raises(ServeError, match=told),
    ):
        client.labels(b"x")


def test_no_server_is_a_clear_error(pauses):
    """A refused connection names the URL and the command that starts a server."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/predictions/tiny"
        with pytest.raises(ServeError, match="6 times.*segdeploy serve"), Client(url) as client:
            client.labels(b"anything")
        with pytest.raises(ServeError, match="segdeploy serve"):
            predict(url, b"anything")
    assert len(pauses) == 5


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "file:///etc/hosts", "", "http://"])
def test_only_http_is_asked(url):
    """What is no URL of HTTP is refused, a file's among them."""
    with pytest.raises(InputError, match="URL"):
        predict(url, b"x")


@both
@pytest.mark.parametrize("first", [(503, b"full"), (429, b"too many"), (None, b"")])
def test_a_busy_server_is_asked_again(kind, first, pauses):
    """Twice refused, or hung up on: answered the third time, under the same request id, with longer pauses."""
    with answering(first, first, (200, PNG)) as (url, told):
        reply = asked(kind, url)
    assert (reply.attempts, reply.body) == (3, PNG)
    assert told.received == [b"the image"] * 3
    assert {headers["X-Request-Id"] for headers in told.headers} == {reply.request_id}
    assert 0.125 <= pauses[0] <= 0.25
    assert 0.25 <= pauses[1] <= 0.5


@both
def test_a_server_that_stays_busy_is_given_up(kind, pauses):
    """After as many attempts as allowed, with its own reason."""
    with answering((503, b"full")) as (url, told), pytest.raises(ServeError, match="503.*full"):
        asked(kind, url, retries=2)
    assert len(told.received) == 3
    assert len(pauses) == 2


@both
def test_retry_after_is_heeded_within_reason(kind, pauses):
    """At least as long as the server says; an hour, or a word, is not waited for."""
    busy = [(503, b"", {"Retry-After": value}) for value in ("7", "3600", "soon")]
    with answering(*busy, (200, PNG)) as (url, _):
        asked(kind, url)
    assert pauses[:2] == [7, 30]
    assert pauses[2] <= 1


@both
@pytest.mark.parametrize("status", [400, 406, 413, 415, 422])
def test_a_refusal_is_not_repeated(kind, status, pauses):
    """What is wrong with a request will be so the next time: an InputError with the server's three parts."""
    body = json.dumps({"expected": "a picture", "got": "a song", "fix": "draw"}).encode()
    with answering((status, body)) as (url, told), pytest.raises(InputError) as caught:
        asked(kind, url)
    assert (caught.value.expected, caught.value.got, caught.value.fix) == ("a picture", "a song", "draw")
    assert len(told.received) == 1
    assert not pauses


@both
@pytest.mark.parametrize("status", [500, 504, 507])
def test_a_failure_is_not_repeated(kind, status, pauses):
    """The server's own failure is a ServeError with its reason."""
    body = json.dumps({"expected": "an answer", "got": "smoke", "fix": "see the log"}).encode()
    with answering((status, body)) as (url, told), pytest.raises(ServeError, match=f"{status}: smoke"):
        asked(kind, url)
    assert len(told.received) == 1


@both
def test_a_silent_server_is_not_asked_twice(kind, pauses):
    """It may be at work on the first one."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServeError, match="timed out|ReadTimeout"):
        asked(kind, f"http://127.0.0.1:{silent.getsockname()[1]}/x", timeout_s=0.2)
    assert not pauses


@both
def test_options_token_and_deadline_go_in_headers(kind, monkeypatch):
    """As TorchServe hands them over; the token comes from the environment or the caller, and is sent to nobody unasked."""
    with answering((200, b"{}")) as (url, told):
        assert asked(kind, url).json() == {}
        monkeypatch.setenv("SEGDEPLOY_TOKEN", "secret")
        before = time.time()
        asked(kind, url, {"as": "json", "classes": "a b,c&d"}, timeout_s=50, send_deadline=True)
        asked(kind, url, token="other")
    plain, full, other = told.headers
    assert plain["Authorization"] is plain["X-Segdeploy-Options"] is plain["X-Request-Deadline"] is None
    assert parse_qs(full["X-Segdeploy-Options"]) == {"as": ["json"], "classes": ["a b,c&d"]}
    assert full["Authorization"] == "Bearer secret"
    assert before + 49 < float(full["X-Request-Deadline"]) < time.time() + 51
    assert other["Authorization"] == "Bearer other"


def test_without_httpx_the_extra_is_named(monkeypatch):
    """One line says what to install."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError, match=r"segdeploy\[client\]"):
        Client("http://127.0.0.1:1/x")
