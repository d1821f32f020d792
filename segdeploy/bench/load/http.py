"""HTTP/1.1 over connections that are kept, as little as an honest clock needs: no retries, no redirects, no proxies."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from types import TracebackType

from segdeploy.base.errors import InputError
from segdeploy.bench.load.target import Failed, Reply

_LONGEST_HEAD = 1 << 16
_LARGEST_BODY = 1 << 28


class _Closed(Exception):  # noqa: N818  an event, not a fault
    """The server closed a kept connection before a byte of an answer came."""


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.used = reader, writer, False

    def close(self) -> None:
        self.writer.close()


class Http:
    """Asks one URL; each request has a connection for itself until it is answered."""

    def __init__(self, url: str, headers: Mapping[str, str], *, connections: int = 128) -> None:
        """For one model.

        Args:
            url: of it.
            headers: beside those that HTTP needs.
            connections: at most, at once.

        Raises:
            InputError: no URL of HTTP, or a header that cannot be sent.
        """
        self.url = url
        example = "such as http://127.0.0.1:8080/predictions/upernet"
        try:
            address = urllib.parse.urlsplit(url)
            port = address.port
        except ValueError as error:
            raise InputError(expected=f"a model's URL, {example}", got=f"'{url}'", fix=f"check it: {error}") from error
        if address.scheme not in {"http", "https"} or not address.hostname or not url.isascii() or " " in url:
            raise InputError(expected=f"a URL of http or https, {example}", got=f"'{url}'", fix="check the URL")
        self._host, self._tls = address.hostname, ssl.create_default_context() if address.scheme == "https" else None
        self._port = port or (443 if self._tls else 80)
        lines = {"Host": address.netloc.rpartition("@")[2], "Content-Type": "application/octet-stream", **headers}
        for name, value in lines.items():
            if not (name.isascii() and value.isascii() and name.isprintable() and value.isprintable()):
                got = f"'{name}' with characters that HTTP does not take"
                raise InputError(expected="a header of printable ASCII", got=got, fix="correct it")
        path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._head = head.encode("ascii")
        self._most = connections
        self.reconnected = self.waited = 0

    async def __aenter__(self) -> Http:
        self.reconnected = self.waited = 0
        self._free: list[_Connection] = []
        self._slots = asyncio.Semaphore(self._most)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._free:
            connection.close()

    async def ask(self, picture: bytes) -> Reply:
        """See ``Target``; waits for a connection where all are in use."""
        self.waited += self._slots.locked()
        async with self._slots:
            connection = self._free.pop() if self._free else await self._connect()
            try:
                return await self._exchange(connection, picture)
            except _Closed:
                # It was closed while nobody used it, as servers do after a while: not a fault of this request.
                self.reconnected += 1
                try:
                    return await self._exchange(await self._connect(), picture)
                except _Closed as error:
                    raise Failed("connection reset") from error

    async def _connect(self) -> _Connection:
        try:
            opened = await asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=_LONGEST_HEAD)
        except ConnectionRefusedError as error:
            raise Failed("connection refused") from error
        except ssl.SSLError as error:
            raise Failed(f"TLS: {error.reason or error}") from error
        except socket.gaierror as error:
            raise Failed("no such host") from error
        except OSError as error:
            raise Failed(f"no connection: {error.strerror or error}") from error
        return _Connection(*opened)

    async def _exchange(self, connection: _Connection, picture: bytes) -> Reply:
        kept = False
        try:
            reply, kept = await self._send_and_read(connection, picture)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise Failed("connection reset") from error
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise Failed("no HTTP answered") from error
        else:
            return reply
        finally:
            if kept:
                connection.used = True
                self._free.append(connection)
            else:  # also where the request was given up
                connection.close()

    async def _send_and_read(self, connection: _Connection, picture: bytes) -> tuple[Reply, bool]:
        connection.writer.write(b"%sContent-Length: %d\r\n\r\n%s" % (self._head, len(picture), picture))
        try:
            head = await connection.reader.readuntil(b"\r\n\r\n")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            nothing = not getattr(error, "partial", b"")
            if connection.used and nothing:
                raise _Closed from error
            raise
        status, headers = _parsed(head)
        body, whole = await _body(connection.reader, headers)
        closes = headers.get("connection", "").lower() == "close" or head.startswith(b"HTTP/1.0")
        return Reply(status, headers.get("content-type", ""), body), whole and not closes


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, by names in small letters; a ValueError for what is not HTTP."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status = first.split(" ", 2)[:2]
    if not version.startswith("HTTP/1.") or len(status) != 3:
        raise ValueError(first)
    split = (line.partition(":") for line in lines if line)
    return int(status), {name.strip().lower(): value.strip() for name, _, value in split}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> tuple[bytes, bool]:
    """The body, and whether its end was told: else it ends with the connection."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            parts.append((await reader.readexactly(_bounded(size) + 2))[:-2])
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
        return b"".join(parts), True
    if "content-length" in headers:
        return await reader.readexactly(_bounded(int(headers["content-length"]))), True
    return await reader.read(_LARGEST_BODY), False


def _bounded(size: int) -> int:
    if not 0 <= size <= _LARGEST_BODY:
        raise ValueError(size)
    return size
