"""What stands before TorchServe on the public port: bytes go through as they are, and connections have limits.

TorchServe itself has none: a connection that says nothing, or a request that never ends, is kept for ever, and stopping it cuts
off what it is working on. This watches, of each connection, whether a request is coming in, being answered, or neither. Of what
passes it reads no more than where a request and an answer end, and changes no more than a query (see ``http_message``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.serve.http_message import LARGEST_HEAD_BYTES, Message, may_have_query, with_options

_CHUNK_BYTES = 1 << 16
_SILENCE_S = 0.2
_GO_ON = (b"HTTP/1.1 1", b"HTTP/1.0 1")
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
        self.free = asyncio.Event()  # nothing waits for its answer
        self.free.set()
        self.unsent: Callable[[], int] = lambda: 0  # bytes of an answer that the client has not taken yet
        self.held_bytes = 0  # of a request that is not answered
        self._request, self._answer = Message(), Message()
        self._kept = b""  # of a head, not passed on yet

    @property
    def waiting(self) -> bool:
        """Whether a whole request has come in and is not answered."""
        return not self.free.is_set()

    @property
    def coming(self) -> bool:
        """Whether a part of a request has come in."""
        return not self.waiting and self._request.begun

    @property
    def busy(self) -> bool:
        """Whether something is asked or being answered. A moment of silence is the end of an answer that says no length."""
        return self.waiting or self.coming or self.unsent() > 0 or time.monotonic() - self.since < _SILENCE_S

    def asked(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Take note of bytes from the client, while nothing waits for its answer.

        Returns:
            What is to be passed on now, and what belongs to the next request.
        """
        begun, headed = self._request.begun, self._request.headed
        rest = self._request.take(chunk)
        taken = chunk[: len(chunk) - len(rest)]
        if not self._request.begun:
            return taken, rest
        if not begun:
            self.since, self.held_bytes = time.monotonic(), 0
        self.held_bytes += len(taken)
        passed = self._kept + taken
        self._kept = b""
        if not self._request.headed and len(passed) < LARGEST_HEAD_BYTES and may_have_query(passed):
            passed, self._kept = b"", passed
        elif self._request.headed and not headed:
            passed = with_options(passed)
        if self._request.whole:
            self._request = Message()
            self.free.clear()
        return passed, rest

    def answered(self, chunk: bytes) -> None:
        """Take note of bytes from the server."""
        self.since = time.monotonic()
        while self.waiting and chunk:
            chunk = self._answer.take(chunk)
            if not self._answer.whole:
                return
            if not self._answer.head.startswith(_GO_ON):
                self.held_bytes = 0
                self.free.set()
            self._answer = Message()

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
                await _both(self._ask(client, to_server, link), _answer(server, to_client, link))
            finally:
                to_server.close()
        except (OSError, asyncio.CancelledError):  # cut off by one side, or by us
            pass
        finally:
            self._links.pop(task, None)
            to_client.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await to_client.wait_closed()

    async def _ask(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, link: Link) -> None:
        """Pass requests on, one when the one before it is answered: TorchServe may answer those of one connection in any order.

        Raises:
            ConnectionAbortedError: with what has come there are more bytes than may be.
        """
        while chunk := await client.read(_CHUNK_BYTES):
            while chunk:
                await link.free.wait()
                passed, chunk = link.asked(chunk)
                if sum(one.held_bytes for one in self._links.values()) > self._limits.most_bytes:
                    raise ConnectionAbortedError
                to_server.write(passed)
                await to_server.drain()

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


async def _answer(server: asyncio.StreamReader, to_client: asyncio.StreamWriter, link: Link) -> None:
    while chunk := await server.read(_CHUNK_BYTES):
        link.answered(chunk)
        to_client.write(chunk)
        await to_client.drain()
