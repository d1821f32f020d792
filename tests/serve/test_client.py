"""The client, against small servers of our own that answer rightly and wrongly."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading

import numpy as np
import pytest

from segdeploy.base.errors import InputError, ServeError
from segdeploy.images.label_png import label_png
from segdeploy.serve.client import predict

LABELS = np.arange(12, dtype=np.uint8).reshape(3, 4)
PNG = label_png(LABELS, ((0, 0, 0), (9, 9, 9)))


@contextlib.contextmanager
def answering(status, body, length=None):
    """A server that gives every POST the same answer; gives its URL and what it received."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/predictions/x", received
        finally:
            server.shutdown()
            thread.join()


def test_labels_come_back_as_they_were(monkeypatch):
    """The image's bytes are posted unchanged, past any proxy, and palette indices are read as labels."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(200, PNG) as (url, received):
        assert np.array_equal(predict(url, b"the image"), LABELS)
    assert received == [b"the image"]


def test_a_refused_image_is_the_callers_error():
    """422 is an InputError with the server's reason."""
    with answering(422, b"expected an image") as (url, _), pytest.raises(InputError, match="expected an image"):
        predict(url, b"x")


@pytest.mark.parametrize(
    ("status", "body", "length", "told"),
    [
        (503, b"worker died", None, "503.*worker died"),
        (200, b"", None, "0 bytes of something else"),
        (200, b"<html>hello</html>", None, "18 bytes of something else"),
        (200, PNG[:-34], None, "bytes of something else"),
        (200, PNG, len(PNG) + 9, "IncompleteRead"),
    ],
)
def test_any_other_answer_is_the_servers_error(status, body, length, told):
    """An error status, no PNG, half a PNG and a connection that ends early are each a ServeError that says so."""
    with answering(status, body, length) as (url, _), pytest.raises(ServeError, match=told):
        predict(url, b"x")


def test_no_server_is_a_clear_error():
    """A refused connection names the URL and the command that starts a server."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/predictions/tiny"
        with pytest.raises(ServeError, match="segdeploy serve"):
            predict(url, b"anything")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "file:///etc/hosts", "", "http://"])
def test_only_http_is_asked(url):
    """What is no URL of HTTP is refused, a file's among them."""
    with pytest.raises(InputError, match="URL"):
        predict(url, b"x")
