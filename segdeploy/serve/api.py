"""What a server answers at which address, without a server: TorchServe's addresses, and the Open Inference Protocol's.

POST /predictions/NAME          a picture, or a form of pictures
GET  /ping, /v2/health/live, /v2/health/ready, /v2/models/NAME/ready       no token is asked for here
GET  /v2, /v2/models/NAME
POST /v2/models/NAME/infer
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TypeAlias

from segdeploy import __version__
from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.serve.inference_protocol import json_answer, metadata, read_request, write_answer
from segdeploy.serve.parsing import MAX_BYTES
from segdeploy.serve.request import REQUEST_ID, Answer, Request, request_of_http

# Takes requests and gives as many answers, or None where there is no room for them.
Ask: TypeAlias = Callable[[Sequence[Request]], Awaitable[list[Answer] | None]]

_BODY_TIMEOUT_S = 60.0
# Of base64, and of JSON around it.
_MOST_BYTES = MAX_BYTES * 4 // 3 + (1 << 20)
_HEALTH = ("/ping", "/v2/health/live", "/v2/health/ready")


class Api:
    """The addresses of one model."""

    def __init__(self, name: str, manifest: Manifest, ask: Ask, token_sha256: str | None = None) -> None:
        """For a model that is ready.

        Args:
            name: as it stands in the URLs.
            manifest: of its artifact.
            ask: the predictor.
            token_sha256: in hexadecimal, of the token that must come with every request; None for none.
        """
        self._name, self._manifest, self._ask, self._token_sha256 = name, manifest, ask, token_sha256

    async def answer(
        self, method: str, path: str, headers: Mapping[str, str], query: Mapping[str, str], body: AsyncIterator[bytes]
    ) -> Answer:
        """Answer one request of HTTP.

        Args:
            method: of HTTP.
            path: of the URL, decoded.
            headers: by names in small letters.
            query: of the URL, decoded.
            body: in pieces, as it comes.
        """
        health = path in _HEALTH or path == f"/v2/models/{self._name}/ready"
        refusal = None if health else self._unknown(headers)
        if refusal is not None:
            return refusal
        told = self._told(path)
        if told is not None:
            return _not_method(method, "GET", "HEAD") or told
        if path == f"/predictions/{self._name}":
            return _not_method(method, "POST", "PUT") or await self._predictions(headers, query, body)
        if path in {f"/v2/models/{self._name}/infer", f"/v2/models/{self._name}/versions/1/infer"}:
            return _not_method(method, "POST") or await self._infer(headers, body)
        known = f"/predictions/{self._name}, /v2/models/{self._name}/infer"
        return _error(404, InputError(expected=known, got=f"'{path[:80]}'", fix="correct the URL"))

    def _told(self, path: str) -> Answer | None:
        """What is asked for with no body; None where that is nothing."""
        if path == "/ping":
            return json_answer(200, {"status": "Healthy"})
        if path in _HEALTH or path == f"/v2/models/{self._name}/ready":
            return json_answer(200, {})
        if path == "/v2":
            return json_answer(200, {"name": "segdeploy", "version": __version__, "extensions": ["binary_tensor_data"]})
        if path in {f"/v2/models/{self._name}", f"/v2/models/{self._name}/versions/1"}:
            return metadata(self._name, self._manifest)
        return None

    async def _predictions(self, headers: Mapping[str, str], query: Mapping[str, str], body: AsyncIterator[bytes]) -> Answer:
        content = await _read(headers, body)
        if isinstance(content, Answer):
            return content
        answers = await self._ask([request_of_http(content, headers, query)])
        return answers[0] if answers is not None else _full(headers)

    async def _infer(self, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> Answer:
        content = await _read(headers, body)
        if isinstance(content, Answer):
            return content
        try:
            outer = request_of_http(b"", headers)
            if outer.problem is not None:
                raise outer.problem
            asked = read_request(content, headers, outer.deadline)
        except InputError as error:
            return _error(400, error)
        answers = await self._ask(asked.requests)
        return write_answer(self._name, asked, answers) if answers is not None else _full(headers)

    def _unknown(self, headers: Mapping[str, str]) -> Answer | None:
        """A refusal for who brings no token, or another."""
        if self._token_sha256 is None:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        found = hashlib.sha256(token.strip().encode()).hexdigest()
        if scheme.lower() == "bearer" and hmac.compare_digest(found, self._token_sha256):
            return None
        told = "no token" if not token else "another"
        error = InputError(expected="the server's token, as Authorization: Bearer TOKEN", got=told, fix="send it")
        return _error(401, error, {"WWW-Authenticate": "Bearer"})


async def _read(headers: Mapping[str, str], body: AsyncIterator[bytes]) -> bytes | Answer:
    """The body whole, or why it is not read."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":  # a bomb costs its sender nothing, and pictures are compressed already
        return _error(
            415, InputError(expected="a body as it is", got=f"the Content-Encoding '{coding[:20]}'", fix="send it plain")
        )
    told = headers.get("content-length", "")
    size = int(told) if told.isascii() and told.isdigit() and len(told) < 16 else 0
    found = bytearray()

    async def collect() -> None:
        async for piece in body:
            found.extend(piece)
            if max(size, len(found)) > _MOST_BYTES:
                return

    try:
        await asyncio.wait_for(collect(), _BODY_TIMEOUT_S)
    except (TimeoutError, asyncio.TimeoutError):  # the latter is another one before Python 3.11
        got = f"{len(found)} bytes of it"
        return _error(408, InputError(expected=f"the body within {_BODY_TIMEOUT_S:g} s", got=got, fix="send it faster"))
    size = max(size, len(found))
    if size > _MOST_BYTES:
        expected = f"a body of at most {_MOST_BYTES:,} bytes"
        return _error(413, InputError(expected=expected, got=f"{size:,}", fix="scale the picture down"))
    return bytes(found)


def _not_method(method: str, *known: str) -> Answer | None:
    if method in known:
        return None
    return _error(405, InputError(expected=known[0], got=method[:20], fix="use that method"), {"Allow": ", ".join(known)})


def _full(headers: Mapping[str, str]) -> Answer:
    error = InputError(expected="room in the queue", got="a full one", fix="come again in a second, or add replicas")
    given = headers.get(REQUEST_ID.lower(), "")
    return _error(503, error, {"Retry-After": "1", **({REQUEST_ID: given} if given else {})})


def _error(status: int, error: InputError, headers: Mapping[str, str] | None = None) -> Answer:
    """With ``error`` as one text, which clients of the protocol show, and in parts."""
    told = {"status": status, "error": str(error), "expected": error.expected, "got": error.got, "fix": error.fix}
    found = json_answer(status, told, headers)
    return Answer(status, found.body, found.content_type, HTTPStatus(status).phrase, found.headers)
