"""``segdeploy load``: the command, and one line for each kind of bad input."""

import contextlib
import http.server
import json
import threading

import numpy as np
import pytest

PNG = b"\x89PNG\r\n\x1a\nrest"


@contextlib.contextmanager
def answering(status, kind, body):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            good = self.headers["Authorization"] == "Bearer secret"
            told = (200, "image/png", PNG) if good else (status, kind, body)
            self.send_response(told[0])
            self.send_header("Content-Type", told[1])
            self.send_header("Content-Length", str(len(told[2])))
            self.end_headers()
            self.wfile.write(told[2])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/predictions/x"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, "text/html", b"<html><body>hello</body></html>"), ("a page of HTML", "check the URL")),
        ((404, "text/html", b"<!doctype html>"), ("a page of HTML (status 404)",)),
        ((401, "application/json", b'{"got": "none"}'), ("401", "SEGDEPLOY_TOKEN")),
        ((400, "application/json", b'{"message": "Token Authorization failed"}'), ("400", "SEGDEPLOY_TOKEN")),
        ((503, "text/plain", b"busy"), ("status 503: busy",)),
        ((200, "text/plain", b"hello"), ("not an image answered: hello",)),
    ],
)
def test_a_server_that_answers_something_else(main, one_line, answer, words):
    """What all requests would fail by is told once, before any load."""
    with answering(*answer) as url:
        one_line(main("load", url), *words)


def test_bad_input(main, one_line, tmp_path):
    """Nobody there, no HTTP, no pictures, no such file: a line each."""
    one_line(main("load", "http://127.0.0.1:9/predictions/x"), "connection refused", "start it")
    one_line(main("load", "ftp://127.0.0.1/x"), "http or https", "ftp://127.0.0.1/x")
    (tmp_path / "empty").mkdir()
    one_line(main("load", "http://127.0.0.1:9/", "--images", tmp_path / "empty"), "images in", "none")
    one_line(main("load", "http://127.0.0.1:9/", "--images", tmp_path / "no"), "no such folder")
    one_line(main("load", "http://127.0.0.1:9/", "--header", "nonsense"), "NAME: VALUE")
    one_line(main("load", "http://127.0.0.1:9/", "--header", f"@{tmp_path}/no"), "a file of headers")
    one_line(main("load", "http://127.0.0.1:9/", "--plot", "x.txt"), ".svg")
    one_line(main("load", "--artifact", tmp_path / "empty"), "manifest")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("http://127.0.0.1:9/", "--artifact", "x"),
        ("http://127.0.0.1:9/", "--rate", "0"),
        ("http://127.0.0.1:9/", "--clients", "1.5"),
        ("http://127.0.0.1:9/", "--mlperf", "Offline", "--out", "x"),
        ("--artifact", "x", "--mlperf", "Offline"),
        ("--artifact", "x", "--header", "A: b"),
    ],
)
def test_wrong_usage(main, arguments):
    """What contradicts itself is wrong usage, and asks nobody."""
    assert main("load", *arguments).status == 2


def test_a_run_with_a_token(main, tmp_path, monkeypatch):
    """Table, JSON, Markdown and plot of a server that wants a token; the token is in none of them."""
    with answering(401, "text/plain", b"no") as url:
        (tmp_path / "token").write_text("Authorization: Bearer secret\n")
        written = ("--json", "l.json", "--markdown", "l.md", "--plot", "l.svg")
        ended = main("load", url, "--header", "@token", "--rates", "200,400", "--clients", "2", "--requests", 40, *written)
        assert ended.status == 0, ended.err
        monkeypatch.setenv("SEGDEPLOY_TOKEN", "secret")
        assert main("load", url, "--requests", 5).status == 0
    report = json.loads((tmp_path / "l.json").read_bytes())
    assert [one["rate"] for one in report["trials"]] == [None, 200.0, 400.0]
    assert all(len(one["latency_ms"]) == 40 for one in report["trials"])
    assert "The client itself:" in ended.out
    assert (tmp_path / "l.svg").read_bytes().lstrip().startswith(b"<?xml")
    for name in ("l.json", "l.md", "l.svg"):
        assert b"secret" not in (tmp_path / name).read_bytes()


def test_an_artifact_in_this_process(main, onnx_artifact, tmp_path):
    """By the predictor that servers have: real masks, or the run would fail by "not an image answered"."""
    arguments = ("--artifact", onnx_artifact.folder, "--size", "64x96", "--clients", "1", "--requests", "20")
    ended = main("load", *arguments, "--json", "l.json")
    assert ended.status == 0, ended.err
    report = json.loads((tmp_path / "l.json").read_bytes())
    assert report["in_process"]
    assert report["trials"][0]["failed"] == {}
    assert np.all(np.array(report["trials"][0]["latency_ms"]) > 0)
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    ended = main("load", *arguments[:4], "--mlperf", "Offline", "--out", "ml", "--seconds", "0.2", "--requests", "20")
    assert ended.status == 0, ended.err
    assert "Samples per second" in ended.out
    assert (tmp_path / "ml" / "mlperf_log_summary.txt").is_file()
