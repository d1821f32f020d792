"""Asking a running server: whichever one, since all speak alike. Needs httpx (the extra ``client``).

with Client("http://127.0.0.1:8080/predictions/upernet") as client:
labels = client.labels(Path("street.jpg").read_bytes())
told = client.ask(Path("street.jpg").read_bytes(), {"as": "json", "classes": "road,car"}).json()
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import time
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from segdeploy.base.errors import InputError, MissingExtraError, SegdeployError, ServeError
from segdeploy.images.arrays import Labels
from segdeploy.serve.request import DEADLINE, OPTIONS, REQUEST_ID

if TYPE_CHECKING:
    import httpx

TOKEN_VARIABLE = "SEGDEPLOY_TOKEN"  # noqa: S105  the name of an environment variable
_TIMEOUT_S = 120.0
_RETRIES = 5
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 30.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BUSY = (429, 503)
_CALLERS_FAULT = (400, 406, 413, 415, 422)


@dataclass(frozen=True)
class Reply:
    """What a server answered with 200 (or 207, several pictures of which some failed).

    Attributes:
        status: of HTTP.
        body: of HTTP.
        content_type: of the body.
        request_id: of the request.
        url: that was asked.
        attempts: how often it was asked.
    """

    status: int
    body: bytes
    content_type: str
    request_id: str
    url: str
    attempts: int

    def labels(self) -> Labels:
        """[H, W] labels of a mask.

        Raises:
            ServeError: it is none.
        """
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self.body)) as picture:
                labels = np.array(picture)
        except (OSError, SyntaxError) as error:  # no picture, or one that is cut off
            raise self._unlike("a PNG of labels") from error
        if labels.ndim != 2:
            raise self._unlike("a PNG of labels")
        return labels

    def json(self) -> Any:
        """What JSON says.

        Raises:
            ServeError: it is none.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise self._unlike("JSON") from error

    def _unlike(self, expected: str) -> ServeError:
        got = f"{len(self.body)} bytes of something else"
        return ServeError(expected=f"{expected} from {self.url}", got=got, fix="check the URL, and the options")


class _Asking:
    """What both clients have in common: how a request is written, an answer read, and when to try again."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        retries: int = _RETRIES,
        send_deadline: bool = False,
    ) -> None:
        """For one model.

        Args:
            url: of it, such as ``http://127.0.0.1:8080/predictions/upernet``.
            token: for a server that wants one; by default ``SEGDEPLOY_TOKEN``, where that is set.
            timeout_s: for a server that is silent.
            retries: how often a request is sent again where the server is busy (429, 503) or cannot be reached.
            send_deadline: tell the server when nobody waits any more; its clock and this one must agree.

        Raises:
            InputError: no URL of HTTP.
            MissingExtraError: httpx is not installed.
        """
        address = urllib.parse.urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError(
                expected="a model's URL, such as http://127.0.0.1:8080/predictions/upernet", got=f"'{url}'", fix="check the URL"
            )
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise MissingExtraError(package="httpx", extra="client", purpose="asking a server") from error
        self._httpx = httpx
        self.url, self._timeout_s, self._retries, self._send_deadline = url, timeout_s, retries, send_deadline
        secret = token or os.environ.get(TOKEN_VARIABLE)
        self._settings: dict[str, Any] = {
            "timeout": timeout_s,
            "headers": {"Authorization": f"Bearer {secret}"} if secret else {},
            "trust_env": address.hostname not in _LOOPBACK,  # a proxy cannot reach this machine's loopback
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64),
        }

    def _headers(self, options: Mapping[str, str] | None, request_id: str | None) -> dict[str, str]:
        """One id for all attempts. Options go in a header: TorchServe hands no query over."""
        headers = {"Content-Type": "application/octet-stream", REQUEST_ID: request_id or uuid.uuid4().hex}
        if options:
            headers[OPTIONS] = urllib.parse.urlencode(options)
        if self._send_deadline:
            headers[DEADLINE] = f"{time.time() + self._timeout_s:.3f}"
        return headers

    def _wait_s(self, attempt: int, outcome: httpx.Response | Exception) -> float | None:
        """How long to wait before the next attempt; None where there is none."""
        if attempt > self._retries:
            return None
        # Twice as long each time, and not all clients at once.
        usual = min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S) * random.uniform(0.5, 1)  # noqa: S311
        if isinstance(outcome, Exception):
            silent = isinstance(outcome, (self._httpx.ReadTimeout, self._httpx.WriteTimeout))  # it may be at work on it
            return None if silent or not isinstance(outcome, self._httpx.TransportError) else usual
        if outcome.status_code not in _BUSY:
            return None
        asked = outcome.headers.get("Retry-After", "")
        return max(usual, min(float(asked), _LONGEST_WAIT_S)) if asked.isascii() and asked.isdigit() else usual

    def _read(self, outcome: httpx.Response | Exception, headers: Mapping[str, str], attempts: int) -> Reply:
        if isinstance(outcome, self._httpx.HTTPError):
            got = str(outcome) or type(outcome).__name__
            if attempts > 1:
                got += f", {attempts} times"
            raise ServeError(expected=f"a server at {self.url}", got=got, fix="start it with: segdeploy serve MAR") from outcome
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.status_code in (200, 207):
            kind = outcome.headers.get("Content-Type", "")
            return Reply(outcome.status_code, outcome.content, kind, headers[REQUEST_ID], self.url, attempts)
        raise _error(outcome, self.url)


class Client(_Asking):
    """Asks one server; may be used from several threads. A context manager."""

    def __enter__(self) -> Client:
        self._http = self._httpx.Client(**self._settings)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def ask(self, image: bytes, options: Mapping[str, str] | None = None, *, request_id: str | None = None) -> Reply:
        """Post one image.

        Args:
            image: encoded, such as a JPEG file's content.
            options: such as ``{"as": "json", "classes": "road,car"}``; see docs/serving.md.
            request_id: to find it in the server's log by; a new one by default.

        Raises:
            InputError: the server refuses the image or the options, and says why.
            ServeError: no server, or another failure of it.
        """
        headers = self._headers(options, request_id)
        attempt = 1
        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = self._http.post(self.url, content=image, headers=headers)
            except self._httpx.HTTPError as error:
                outcome = error
            pause = self._wait_s(attempt, outcome)
            if pause is None:
                return self._read(outcome, headers, attempt)
            time.sleep(pause)
            attempt += 1

    def labels(self, image: bytes) -> Labels:
        """[H, W] labels of one image at its own size; see ``ask``."""
        return self.ask(image).labels()


class AsyncClient(_Asking):
    """``Client`` for asyncio; an asynchronous context manager."""

    async def __aenter__(self) -> AsyncClient:
        self._http = self._httpx.AsyncClient(**self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(self, image: bytes, options: Mapping[str, str] | None = None, *, request_id: str | None = None) -> Reply:
        """See ``Client.ask``."""
        headers = self._headers(options, request_id)
        attempt = 1
        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = await self._http.post(self.url, content=image, headers=headers)
            except self._httpx.HTTPError as error:
                outcome = error
            pause = self._wait_s(attempt, outcome)
            if pause is None:
                return self._read(outcome, headers, attempt)
            await asyncio.sleep(pause)
            attempt += 1

    async def labels(self, image: bytes) -> Labels:
        """See ``Client.labels``."""
        return (await self.ask(image)).labels()


def predict(url: str, image: bytes, *, token: str | None = None) -> Labels:
    """[H, W] labels of one image, by a client for it alone, which asks once; see ``Client``."""
    with Client(url, token=token, retries=0) as client:
        return client.labels(image)


def _error(response: httpx.Response, url: str) -> SegdeployError:
    """What the server says of its failure, as an error of ours: the caller's fault, or its own."""
    try:
        told = json.loads(response.content)
        parts = {part: str(told[part]) for part in ("expected", "got", "fix")}
    except (ValueError, TypeError, KeyError):
        text = " ".join(response.text.split())[:200]
        if response.status_code == 422:
            return InputError(expected="an image that the server takes", got=text or "422", fix="send a JPEG or PNG")
        got = f"{response.status_code} {response.reason_phrase}: {text}"
        return ServeError(expected=f"an answer from {url}", got=got, fix="see the server's log")
    if response.status_code in _CALLERS_FAULT:
        return InputError(**parts)
    return ServeError(
        expected=f"{parts['expected']} from {url}", got=f"{response.status_code}: {parts['got']}", fix=parts["fix"]
    )
