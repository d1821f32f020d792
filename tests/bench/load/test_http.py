"""The client's HTTP, and the kinds that failures are counted by."""

import asyncio
import socket
import time

import pytest

from segdeploy.base.errors import InputError
from segdeploy.bench.load.drive import Plan, closed_loop
from segdeploy.bench.load.http import Http
from segdeploy.bench.load.target import Failed, InProcess, Reply, fault_of

PNG = b"\x89PNG\r\n\x1a\nrest"


def kinds(url, requests=6, **options):
    return closed_loop(Http(url, {}), [b"x"], 1, Plan(requests, None, warmup=0, timeout_s=5, **options))


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ((503, "application/json", b"{}"), "status 503"),
        ((200, "text/html", b"hello"), "HTML answered"),
        ((200, "text/plain", b"\n<!DOCTYPE html><p>"), "HTML answered"),
        ((200, "image/png", b"not one"), "not an image answered"),
        ((200, "image/png", b""), "not an image answered"),
        (None, "connection reset"),
    ],
)
def test_failures_have_kinds(slow, told, kind):
    """One bad answer among good ones is counted by what it was, and has no latency."""
    server = slow(answer=lambda index: told if index == 2 else (200, "image/png", PNG))
    trial = kinds(server.url)
    if told is None:  # on a kept connection that may as well have been idle: it is asked once more, and answered
        assert trial.reconnected == 1
        assert trial.failed == {}
        always = slow(answer=lambda index: None)
        assert kinds(always.url, 3).failed == {kind: 3}
    else:
        assert trial.failed == {kind: 1}
        assert len(trial.latency_ms) == 5


def test_nobody_there():
    """A port without a server refuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert kinds(f"http://127.0.0.1:{port}/", 2).failed == {"connection refused": 2}


def raw(answer, *, times=1):
    """What the client makes of bytes that a server sends, and then closes."""

    async def whole():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with Http(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {}) as target:
            replies = [await target.ask(b"xyz") for _ in range(times)]
        server.close()
        return replies

    return asyncio.run(whole())


def test_chunks_and_ends():
    """Bodies by chunks, by length and by the end of the connection."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nwiki\r\n5\r\npedia\r\n0\r\nX: y\r\n\r\n"
    assert raw(chunked, times=2)[1].body == b"wikipedia"  # the second finds the connection closed, and opens another
    assert raw(b"HTTP/1.0 200 OK\r\n\r\nall of it")[0].body == b"all of it"
    assert raw(b"HTTP/1.1 404 \r\nContent-Length: 2\r\n\r\nno")[0] == Reply(404, "", b"no")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "no HTTP answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "no HTTP answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "connection reset"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 17) + b"\r\n\r\n", "no HTTP answered"),
    ],
)
def test_what_is_no_answer(answer, kind):
    """What breaks HTTP is told from a connection that breaks."""
    with pytest.raises(Failed, match=kind):
        raw(answer)


def test_headers_go_along(slow):
    """The token and other headers, the host and the path are as given."""
    server = slow()
    closed_loop(Http(f"{server.url}?as=json", {"Authorization": "Bearer t"}), [b"abc"], 1, Plan(1, None, warmup=0))
    head = server.headers[0]
    assert head.startswith("POST /predictions/x?as=json HTTP/1.1\r\n")
    assert "Authorization: Bearer t\r\n" in head
    assert "Host: 127.0.0.1:" in head
    assert "Content-Length: 3\r\n" in head


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "127.0.0.1:8080", "http://", "http://127.0.0.1:99999/", "http://a b/"])
def test_no_url(url):
    """What is no URL of HTTP is refused before anything is sent."""
    with pytest.raises(InputError):
        Http(url, {})


def test_a_header_cannot_end_the_head():
    """A line break in a header would be a header of its own."""
    with pytest.raises(InputError, match="X-A"):
        Http("http://127.0.0.1/", {"X-A": "b\r\nX-C: d"})


def test_json_where_json_was_asked_for():
    """An answer is judged by what was asked."""
    told = Reply(200, "application/json", b'{"status": 200}')
    assert fault_of(told, "json") is None
    assert fault_of(told, "image") == "not an image answered"
    assert fault_of(Reply(200, "image/png", PNG), "json") == "not JSON answered"


def test_few_connections_are_told(slow):
    """Requests that wait for a connection are counted: their wait is the client's doing."""
    server = slow(0.01, workers=8)
    trial = closed_loop(Http(server.url, {}, connections=2), [b"x"], 6, Plan(12, None, warmup=0))
    assert server.connections == 2
    assert trial.waited >= 4
    assert not trial.failed


def test_in_process_has_one_worker():
    """Requests to a model in this process wait for one another, as at a server's worker."""
    at_once, most = 0, 0

    def answer(picture):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.001)
        at_once -= 1
        return Reply(200, "image/png", PNG)

    trial = closed_loop(InProcess(answer), [b"x"], 4, Plan(40, None))
    assert most == 1
    assert len(trial.latency_ms) == 40
