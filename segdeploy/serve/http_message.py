"""Where a request or an answer of HTTP/1.1 ends in the bytes that pass, and a query's way past TorchServe."""

from __future__ import annotations

import re

from segdeploy.serve.request import OPTIONS

LARGEST_HEAD_BYTES = 1 << 16
# As leniently as TorchServe reads them: it takes a lone LF for a line's end, and skips control characters before a request.
_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\n[ \t]*content-length[ \t]*:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\n[ \t]*transfer-encoding[ \t]*:[^\r\n]*chunked", re.IGNORECASE)
_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]*)?\r?\n")
_LARGEST_LINE_BYTES = 1 << 12
_SKIPPED = bytes([*range(33), *range(0x7F, 0xA0)])

_FIRST_LINE = re.compile(rb"[A-Z]+ (?:https?://[^/\s]*)?/predictions/[^\s?]*\?(\S+)[^\n]*\n")
_GIVEN = re.compile(rb"(\n%s[ \t]*:[ \t]*)([^\r\n]*)" % OPTIONS.encode(), re.IGNORECASE)


class Message:
    """One request or answer, as it comes in.

    Attributes:
        head: its first line and headers, as far as they have come; of one without end the last of it.
        headed: its head is whole.
        whole: all of it has come in. An answer that says no length is so with its head.
    """

    def __init__(self) -> None:
        self.head = b""
        self.headed = self.whole = False
        self._missing = 0  # bytes of the body, or of a chunk and the end of its line
        self._chunked = False
        self._line = b""  # a chunk's size, as far as it has come
        self._last = False  # the last chunk has come, and what may follow it has not

    @property
    def begun(self) -> bool:
        """Whether anything of it has come."""
        return bool(self.head)

    def take(self, chunk: bytes) -> bytes:
        """Take note of bytes.

        Args:
            chunk: what comes next; begins with this message, if nothing of it has come yet.

        Returns:
            What of it belongs to the next message.
        """
        if not self.begun:
            chunk = chunk.lstrip(_SKIPPED)
        if not self.headed:
            chunk = self._take_head(chunk)
        while chunk and self.headed and not self.whole:
            if self._missing:
                taken = min(self._missing, len(chunk))
                self._missing -= taken
                chunk = chunk[taken:]
                self.whole = not self._missing and not self._chunked
            else:
                chunk = self._take_line(chunk)
        return chunk

    def _take_head(self, chunk: bytes) -> bytes:
        before = len(self.head)
        self.head += chunk
        end = _END.search(self.head, max(0, before - 3))
        if end is None:
            # Not to be kept without end; TorchServe refuses it by itself.
            self.head = self.head[-LARGEST_HEAD_BYTES:]
            return b""
        rest, self.head, self.headed = self.head[end.end() :], self.head[: end.end()], True
        self._chunked = _CHUNKED.search(self.head) is not None
        length = None if self._chunked else _LENGTH.search(self.head)
        self._missing = int(length.group(1)) if length else 0
        self.whole = not self._chunked and not self._missing
        return rest

    def _take_line(self, chunk: bytes) -> bytes:
        """Of a body in chunks: the size of the next one, or what follows the last. One that cannot be read never ends."""
        self._line += chunk
        line, end, rest = self._line.partition(b"\n")
        if not end:
            self._line = self._line[-_LARGEST_LINE_BYTES:]
            return b""
        self._line = b""
        if self._last:
            self.whole = not line.strip(b"\r")
            return rest
        size = _SIZE.fullmatch(line + b"\n")
        if size is None:
            self._missing = 1 << 62
            return rest
        self._missing = int(size.group(1), 16)
        self._last = not self._missing
        self._missing += 0 if self._last else 2  # the end of its line
        return rest


def may_have_query(head: bytes) -> bool:
    """Whether a head, of which not all has come, may be one that ``with_options`` changes."""
    head = head.lstrip(_SKIPPED)
    return b"\n" not in head or _FIRST_LINE.match(head) is not None


def with_options(head: bytes) -> bytes:
    """A request's head with its query in the header that the handler reads: of ``/predictions/NAME`` TorchServe drops it.

    Args:
        head: a whole one; what follows it stays as it is.
    """
    end = _END.search(head)
    found = _FIRST_LINE.match(head, len(head) - len(head.lstrip(_SKIPPED)))
    if found is None or end is None:
        return head
    query = re.sub(rb"[^!-~]", lambda byte: b"%%%02X" % ord(byte[0]), found[1])
    *_, given = (None, *_GIVEN.finditer(head, 0, end.end()))  # of several the last counts, as in the handler
    if given is None:
        return head[: found.end()] + OPTIONS.encode() + b": " + query + b"\r\n" + head[found.end() :]
    joined = b"&".join(one for one in (given[2].rstrip(), query) if one)
    return head[: given.start(2)] + joined + head[given.end(2) :]
