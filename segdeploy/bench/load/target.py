"""What is asked: something that takes an encoded picture and answers, and how an answer is judged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

AnswerKind = Literal["image", "json"]

_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*", b"BM")
_HTML = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class Reply:
    """An answer of any kind.

    Attributes:
        status: of HTTP.
        content_type: of the body.
        body: its bytes.
    """

    status: int
    content_type: str
    body: bytes


class Failed(Exception):  # noqa: N818  counted, not told to a user
    """A request without an answer; its text is the kind, as it is counted."""


class Target(Protocol):
    """An asynchronous context manager that is opened anew for every trial."""

    reconnected: int
    waited: int

    async def __aenter__(self) -> Target: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def ask(self, picture: bytes) -> Reply:
        """Answer one encoded picture.

        Raises:
            Failed: there is no answer.
        """


def fault_of(reply: Reply, wanted: AnswerKind) -> str | None:
    """What is wrong with an answer, in the words that it is counted by; None where it is what was asked for."""
    if reply.status != 200:
        return f"status {reply.status}"
    if is_html(reply):
        return "HTML answered"
    if wanted == "json":
        return None if reply.body.lstrip()[:1] in {b"{", b"["} else "not JSON answered"
    return None if reply.body.startswith(_IMAGES) else "not an image answered"


def is_html(reply: Reply) -> bool:
    """Whether a page came, as from a proxy or a wrong address."""
    return reply.content_type.lower().startswith("text/html") or reply.body[:64].lstrip().lower().startswith(_HTML)


class InProcess:
    """A model in this process, asked as a server's single worker asks it: one request after another."""

    def __init__(self, answer: Callable[[bytes], Reply]) -> None:
        self._answer = answer
        self.reconnected = self.waited = 0

    async def __aenter__(self) -> InProcess:
        self.waited = 0
        self._worker = ThreadPoolExecutor(1, "segdeploy-load")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(cancel_futures=True)

    async def ask(self, picture: bytes) -> Reply:
        """See ``Target``."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._answer, picture)
