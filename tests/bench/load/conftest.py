"""Servers of known delay: what the load's figures are held against."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

PNG = b"\x89PNG\r\n\x1a\nrest"


class Slow:
    """A server with one worker that takes a known time for each request, one after another, and stalls once if asked.

    Answers are given in turn by ``answer(index)``: (status, content type, body), or None to hang up.
    """

    def __init__(self, delay_s=0.0, *, stall=None, answer=None, workers=None):
        self.delay_s, self.stall, self.answer, self.workers = delay_s, stall, answer, workers
        self.asked, self.connections, self.headers, self.bodies = 0, 0, [], []

    async def _serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                index, self.asked = self.asked, self.asked + 1
                self.headers.append(head.decode())
                self.bodies.append(body)
                async with self._worker:
                    if self.stall is not None and index == self.stall[0]:
                        await asyncio.sleep(self.stall[1])
                    if self.delay_s:
                        await asyncio.sleep(self.delay_s)
                told = self.answer(index) if self.answer else (200, "image/png", PNG)
                if told is None:
                    break
                status, kind, content = told
                kept = "Connection: keep-alive\r\n" if b"HTTP/1.0" in head else ""  # as ab, which speaks 1.0, wants it said
                text = f"HTTP/1.1 {status} X\r\n{kept}Content-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
                writer.write(text.encode() + content)
        writer.close()

    async def _run(self):
        self._worker = asyncio.Semaphore(self.workers or 1)
        self._end = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predictions/x"
        self._ready.set()
        await self._end.wait()
        server.close()

    def __enter__(self):
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@pytest.fixture
def slow():
    """Starts servers that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Slow(*args, **options))
