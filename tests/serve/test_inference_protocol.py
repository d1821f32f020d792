"""The Open Inference Protocol, without a server and without its clients."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json

import pytest

from segdeploy.base.errors import InputError
from segdeploy.serve.api import Api
from segdeploy.serve.inference_protocol import read_request
from segdeploy.serve.request import Answer

TENSOR = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["QUJD"]}


def body(**changes):
    return json.dumps({"inputs": [{**TENSOR, **changes}]}).encode()


def ask(method, path, content=b"", headers=None, *, token=None, room=True, query=None, manifest=None):
    """What an Api answers whose predictor gives each body back."""
    seen = []

    async def predict(requests):
        seen.extend(requests)
        return [Answer(200, one.body, "image/png") for one in requests] if room else None

    async def pieces():
        yield content

    api = Api("tiny", manifest, predict, hashlib.sha256(token.encode()).hexdigest() if token else None)
    return asyncio.run(api.answer(method, path, headers or {}, query or {}, pieces())), seen


def test_json_with_base64_goes_in_and_comes_out():
    """Parameters are options; the id comes back."""
    content = json.dumps({"id": "9", "inputs": [TENSOR], "parameters": {"as": "json", "confidence": True}}).encode()
    answer, (seen,) = ask("POST", "/v2/models/tiny/infer", content)
    told = json.loads(answer.body)
    assert (seen.body, dict(seen.query), seen.request_id) == (b"ABC", {"as": "json", "confidence": "1"}, "9")
    assert told["id"] == "9"
    assert base64.b64decode(told["outputs"][0]["data"][0]) == b"ABC"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"inputs": []}',
        b"\xff\xfe",
        body(name="other"),
        body(datatype="UINT8"),
        body(shape=[]),
        body(shape=[0]),
        body(shape=[-1]),
        body(shape=[2]),
        body(shape=[17], data=["QUJD"] * 17),
        body(shape=[10**6, 10**6]),
        body(data=["no base64!"]),
        body(data=[7]),
        body(data=None),
        body(parameters={"binary_data_size": 4}),
    ],
)
def test_what_is_no_request_is_400_in_one_line(content):
    """And the predictor never sees it."""
    answer, seen = ask("POST", "/v2/models/tiny/infer", content)
    assert answer.status == 400
    assert not seen
    assert set(json.loads(answer.body)) == {"status", "error", "expected", "got", "fix"}


@pytest.mark.parametrize("length", ["x", "-1", "9" * 30, "99999"])
def test_a_length_of_the_header_that_cannot_be_is_refused(length):
    """The JSON's length is held against the body."""
    with pytest.raises(InputError, match="Content-Length"):
        read_request(body(), {"inference-header-content-length": length}, None)


@pytest.mark.parametrize("tail", [b"\x05\x00\x00\x00ab", b"\x01", b"\xff\xff\xff\xff"])
def test_a_picture_that_is_cut_off_in_the_binary_extension_is_refused(tail):
    """Its length leads past the end."""
    head = body(data=None, parameters={"binary_data_size": len(tail)})
    with pytest.raises(InputError, match="length in 4 bytes"):
        read_request(head + tail, {"inference-header-content-length": str(len(head))}, None)


def test_no_room_is_503_with_when_to_come_again():
    """At both addresses."""
    for path, content in (("/predictions/tiny", b"x"), ("/v2/models/tiny/infer", body())):
        answer, _ = ask("POST", path, content, room=False)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


def test_the_token_guards_all_but_health():
    """Right, wrong, none, and another scheme."""
    for sent, status in (("Bearer right", 200), ("bearer right", 200), ("Bearer wrong", 401), ("Basic right", 401), ("", 401)):
        for path, content in (("/predictions/tiny", b"x"), ("/v2/models/tiny/infer", body())):
            assert ask("POST", path, content, {"authorization": sent}, token="right")[0].status == status
        assert ask("GET", "/v2", headers={"authorization": sent}, token="right")[0].status == status
    for path in ("/ping", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
        assert ask("GET", path, token="right")[0].status == 200


def test_other_addresses_methods_and_codings_are_refused():
    """404, 405, 413 and 415."""
    assert ask("POST", "/predictions/other")[0].status == 404
    assert ask("GET", "/predictions/tiny")[0].status == 405
    assert ask("POST", "/ping")[0].status == 405
    assert ask("POST", "/predictions/tiny", b"x", {"content-encoding": "gzip"})[0].status == 415
    assert ask("POST", "/predictions/tiny", b"x", {"content-length": "999999999999"})[0].status == 413
