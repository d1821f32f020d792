"""What stands before TorchServe on the public port: bytes go through as they are, and connections have limits.

TorchServe itself has none: a connection that says nothing, or a request that never ends, is kept for ever, and stopping it cuts
off what it is working on. This watches, of each connection, whether a request is coming in, being answered, or neither. Of what
passes it reads no more than where a request ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 16
_LARGEST_HEAD_BYTES = 1 << 16
_SILENCE_S = 0.2
_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
# As leniently as TorchServe reads them: it takes a lone LF for a line's end, and skips control characters before a request.
_LENGTH = re.compile(rb"\n[ \t]*content-length[ \t]*:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\n[ \t]*transfer-encoding[ \t]*:[^\r\n]*chunked", re.IGNORECASE)
_SKIPPED = bytes([*range(33), *range(0x7F, 0xA0)])
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 37\r\n\r\n"
    b"too many connections, try again soon\n"
)


@dataclass(frozen=True)
class Limits:
    """Of connections.

    Attributes:
        most: at once; more than TorchServe's queue takes. For one more, another goes: the oldest of those that ask nothing
            or whose request is not whole, else of those that have waited for ``patience_s``. Else it is told 503.
        most_bytes: of the requests of all that are not answered: TorchServe holds them in memory, and asks for the token
            only when one is whole. Who sends more is cut off.
        idle_s: for which nothing is asked; then it is closed.
        request_s: within which a request must have come in whole.
        answer_s: within which it must be answered.
        patience_s: what seems to wait for longer may be one that only looks like a whole request.
    """

    most: int = 256
    most_bytes: int = 512 << 20
    idle_s: float = 60
    request_s: float = 60
    answer_s: float = 900
    patience_s: float = 30


class Link:
    """One connection: where it stands, told from the bytes that pass."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.waiting = False  # a whole request has come in and is not answered
        self.unsent: Callable[[], int] = lambda: 0  # bytes of an answer that the client has not taken yet
        self.held_bytes = 0  # of a request that is not answered
        self._head = b""
        self._tail = b""
        self._missing = 0  # bytes of the body

    @property
    def coming(self) -> bool:
        """Whether a part of a request has come in."""
        return not self.waiting and bool(self._head)

    @property
    def busy(self) -> bool:
        """Whether something is asked or being answered. An answer has many parts: a moment of silence is its end."""
        return self.waiting or self.coming or self.unsent() > 0 or time.monotonic() - self.since < _SILENCE_S

    def asked(self, chunk: bytes) -> None:
        """Take note of bytes from the client."""
        if not self.coming:
            chunk = chunk.lstrip(_SKIPPED)
            if not chunk:
                return
            self.since, self.waiting, self._head, self._tail = time.monotonic(), False, b"", b""
            self.held_bytes = 0
        self.held_bytes += len(chunk)
        if not self._head.endswith(_END):
            self._head += chunk
            head, end, chunk = self._head.partition(_END)
            if not end:
                # Not to be kept without end; TorchServe refuses it by itself.
                self._head = self._head[-_LARGEST_HEAD_BYTES:]
                return
            self._head = head + end
            length = _LENGTH.search(self._head)
            self._missing = int(length.group(1)) if length else 0
        self._missing -= len(chunk)
        self._tail = (self._tail + chunk)[-len(_LAST_CHUNK) :]
        self.waiting = self._tail == _LAST_CHUNK if _CHUNKED.search(self._head) else self._missing <= 0

    def answered(self, _: bytes) -> None:
        """Take note of bytes from the server."""
        if self.waiting:
            self.waiting, self._head, self.held_bytes = False, b"", 0
        self.since = time.monotonic()

    def overdue(self, limits: Limits) -> bool:
        """Whether it is to be closed."""
        allowed = limits.answer_s if self.waiting else limits.request_s if self.coming else limits.idle_s
        return time.monotonic() - self.since > allowed


class Front:
    """Takes connections on a socket of TCP and passes them on to a Unix socket, in a thread of its own."""

    def __init__(self, listening: socket.socket, behind: Path, limits: Limits) -> None:
        """Take over a bound socket; it is closed by ``close`` or ``stop_taking``."""
        self._socket, self._behind, self._limits = listening, str(behind), limits
        self._links: dict[asyncio.Task[None], Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="front", daemon=True)
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take connections."""
        self._thread.start()
        self._wait(self._start())

    def stop_taking(self) -> None:
        """Refuse new connections, and close those on which nothing is asked."""
        self._wait(self._stop_taking())

    def finish(self, patience_s: float) -> bool:
        """Wait until everything that is asked is answered, or the time is up; says which."""
        deadline = time.monotonic() + patience_s
        while self._wait(self._stop_taking()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def close(self) -> None:
        """End every connection, and the thread."""
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket, backlog=1024)
        self._sweeping = asyncio.ensure_future(self._sweep())

    async def _stop_taking(self) -> int:
        if self._server is not None and self._server.is_serving():
            self._server.close()
        left = 0
        for task, link in list(self._links.items()):
            left += link.busy
            if not link.busy:
                task.cancel()
        return left

    async def _close(self) -> None:
        await self._stop_taking()
        if self._sweeping is not None:
            self._sweeping.cancel()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            for task, link in list(self._links.items()):
                if link.overdue(self._limits):
                    task.cancel()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = Link()
        try:
            if not self._make_room():
                to_client.write(_FULL)
                return
            link.unsent = to_client.transport.get_write_buffer_size
            self._links[task] = link
            server, to_server = await asyncio.open_unix_connection(self._behind)
            try:
                asked = functools.partial(self._asked, link)
                await _both(_pass(client, to_server, asked), _pass(server, to_client, link.answered))
            finally:
                to_server.close()
        except (OSError, asyncio.CancelledError):  # cut off by one side, or by us
            pass
        finally:
            self._links.pop(task, None)
            to_client.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await to_client.wait_closed()

    def _asked(self, link: Link, chunk: bytes) -> None:
        """Take note of bytes from a client.

        Raises:
            ConnectionAbortedError: with them there are more than may be.
        """
        link.asked(chunk)
        if sum(one.held_bytes for one in self._links.values()) > self._limits.most_bytes:
            raise ConnectionAbortedError

    def _make_room(self) -> bool:
        """Whether one more may come, in another's place where there are as many as may be."""
        if len(self._links) < self._limits.most:
            return True
        long_ago = time.monotonic() - self._limits.patience_s
        ranks = [(one.waiting, one.since, task) for task, one in self._links.items() if not one.waiting or one.since < long_ago]
        if not ranks:
            return False
        task = min(ranks, key=lambda rank: rank[:2])[2]
        self._links.pop(task)
        task.cancel()
        return True


async def _both(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both ways until one of them ends."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, noted: Callable[[bytes], None]) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        noted(chunk)
        writer.write(chunk)
        await writer.drain()
