"""What every server hands to the predictor, and what it gets back: HTTP's own terms, and no server's types."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from segdeploy.base.errors import InputError

REQUEST_ID = "X-Request-Id"
DEADLINE = "X-Request-Deadline"
OPTIONS = "X-Segdeploy-Options"
_LONGEST_ID = 128


@dataclass(frozen=True)
class Part:
    """A file of a form that a server has taken apart already.

    Attributes:
        name: of its field.
        body: its content.
        content_type: as the form says; empty where it says nothing.
    """

    name: str
    body: bytes
    content_type: str = ""


@dataclass(frozen=True)
class Request:
    """One request for predictions.

    Attributes:
        body: of HTTP: a picture, or a form (multipart/form-data) of pictures.
        content_type: of the body, as the header says.
        accept: the header of that name.
        query: of the URL, decoded; a form's text fields count likewise.
        request_id: comes back in the answer and stands in the log.
        deadline: by ``time.monotonic()``, after which nobody waits for the answer any more; None for none.
        parts: of a form, where the server has taken it apart itself: ``body`` is not looked at then.
        options: the header ``X-Segdeploy-Options``, written as a query: for servers that hand no query over.
        problem: why it is refused, where that shows before it is looked at.
    """

    body: bytes
    content_type: str = ""
    accept: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    deadline: float | None = None
    parts: tuple[Part, ...] | None = None
    options: str = ""
    problem: InputError | None = None


@dataclass(frozen=True)
class Answer:
    """What one request gets.

    Attributes:
        status: of HTTP.
        body: of HTTP.
        content_type: of the body.
        phrase: of the status line; ASCII, because other characters derail TorchServe's protocol. Empty for 200.
        headers: further ones; ASCII.
    """

    status: int
    body: bytes
    content_type: str
    phrase: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def request_of_http(
    body: bytes,
    headers: Mapping[str, str],
    query: Mapping[str, str] | None = None,
    *,
    request_id: str = "",
    parts: tuple[Part, ...] | None = None,
) -> Request:
    """A request as HTTP brings it.

    Args:
        body: of it.
        headers: names in any case.
        query: of its URL, decoded.
        request_id: the server's own, for a request that brings none (``X-Request-Id``).
        parts: see ``Request``.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    given = lower.get(REQUEST_ID.lower(), "")
    deadline, problem = _deadline(lower.get(DEADLINE.lower()))
    usable = 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
    return Request(
        body,
        content_type=lower.get("content-type", ""),
        accept=lower.get("accept", ""),
        query=query or {},
        request_id=given if usable else request_id,
        deadline=deadline,
        parts=parts,
        options=lower.get(OPTIONS.lower(), ""),
        problem=problem,
    )


def _deadline(text: str | None) -> tuple[float | None, InputError | None]:
    """By this process's clock, of a time since 1970 in seconds: an absolute one, so that waiting in a queue counts."""
    if text is None:
        return None, None
    try:
        left = float(text) - time.time()
    except ValueError:
        left = math.nan
    if not math.isfinite(left):
        fix = "such as 1767225600.25, or leave it out"
        return None, InputError(expected=f"seconds since 1970 in {DEADLINE}", got=f"'{text[:40]}'", fix=fix)
    return time.monotonic() + left, None
