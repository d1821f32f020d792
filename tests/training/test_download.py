"""Fetching, against servers of our own: with and without Range, that break off, lie, or refuse."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading

import numpy as np
import pytest

from segdeploy.base.errors import InputError
from segdeploy.training.download import fetch, md5_file

DATA = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()


@contextlib.contextmanager
def serving(*, ranges=True, cuts=(), data=DATA, status=None):
    """A server of one file; ``cuts`` are the numbers of bytes after which one answer after the other breaks off."""
    asked, cuts = [], list(cuts)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            if status:
                self.send_error(status)
                return
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if ranges else None
            start = int(found[1]) if found else 0
            if found and start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : start + cuts.pop(0)] if cuts else data[start:])

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/file.tar", asked
        finally:
            server.shutdown()
            thread.join()


def test_whole(tmp_path):
    """A file in one piece, and nothing beside it."""
    with serving() as (url, asked):
        fetch(url, tmp_path / "file.tar", MD5)
    assert asked == [None]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file.tar", DATA)]


def test_goes_on_after_a_broken_connection(tmp_path):
    """Every further request asks only for what is missing."""
    with serving(cuts=[100_000, 70_000]) as (url, asked):
        fetch(url, tmp_path / "file.tar", MD5)
    assert asked == [None, "bytes=100000-", "bytes=170000-"]
    assert (tmp_path / "file.tar").read_bytes() == DATA


def test_goes_on_in_the_next_run(tmp_path):
    """What a failed call left is kept and gone on from."""
    with serving(cuts=[100_000, 0]) as (url, _), pytest.raises(InputError, match="ended at 100000 of 300000.*go on"):
        fetch(url, tmp_path / "file.tar", MD5)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("file.tar.part", 100_000)]
    with serving() as (url, asked):
        fetch(url, tmp_path / "file.tar", MD5)
    assert asked == ["bytes=100000-"]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file.tar", DATA)]


def test_a_server_without_range(tmp_path):
    """It sends the file from the start again: that is no second half."""
    with serving(ranges=False, cuts=[100_000]) as (url, asked):
        fetch(url, tmp_path / "file.tar", MD5)
    assert asked == [None, "bytes=100000-"]
    assert (tmp_path / "file.tar").read_bytes() == DATA


def test_a_server_that_breaks_at_the_same_place(tmp_path):
    """Attempts that bring nothing new come to an end."""
    with serving(ranges=False, cuts=[1000] * 9) as (url, asked), pytest.raises(InputError, match="1000 of 300000"):
        fetch(url, tmp_path / "file.tar", MD5)
    assert len(asked) == 2


def test_killed_before_the_rename(tmp_path):
    """A complete .part is checked and renamed; the server has nothing left to send (416)."""
    (tmp_path / "file.tar.part").write_bytes(DATA)
    with serving() as (url, asked):
        fetch(url, tmp_path / "file.tar", MD5)
    assert asked == ["bytes=300000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["file.tar"]


@pytest.mark.parametrize("before", [b"", b"rubbish" * 100])
def test_wrong_md5(tmp_path, before):
    """The line names both sums; nothing stays, neither under the file's name nor to go on from."""
    part = tmp_path / "file.tar.part"
    if before:
        part.write_bytes(before)
    wanted = MD5 if before else "0" * 32
    mixed = before + DATA[len(before) :]
    with serving() as (url, _), pytest.raises(InputError, match=f"MD5 {wanted}.*got {hashlib.md5(mixed).hexdigest()}"):
        fetch(url, tmp_path / "file.tar", wanted)
    assert not list(tmp_path.iterdir())


def test_refused(tmp_path):
    """An error of HTTP is named, and an earlier part is kept."""
    (tmp_path / "file.tar.part").write_bytes(DATA[:10])
    with serving(status=404) as (url, _), pytest.raises(InputError, match="HTTP 404 Not Found"):
        fetch(url, tmp_path / "file.tar", MD5)
    assert (tmp_path / "file.tar.part").read_bytes() == DATA[:10]


def test_nobody_answers(tmp_path):
    """No server is one line that says how to do without."""
    with serving() as (url, _):
        pass
    with pytest.raises(InputError, match="refused.*--archive"):
        fetch(url, tmp_path / "file.tar", MD5)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written(tmp_path):
    """Nowhere to write is one line too."""
    with serving() as (url, _), pytest.raises(InputError, match="No such file or directory"):
        fetch(url, tmp_path / "missing" / "file.tar", MD5)


def test_md5(tmp_path):
    """More than one chunk, and an empty file."""
    for data in (b"", b"x" * (3 << 20) + b"y"):
        (tmp_path / "f").write_bytes(data)
        assert md5_file(tmp_path / "f") == hashlib.md5(data).hexdigest()
