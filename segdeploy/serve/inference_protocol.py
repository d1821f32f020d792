"""The Open Inference Protocol (KServe's and Triton's "v2") over HTTP: encoded pictures in, what the predictor answers out.

In: ``image``, BYTES [n]. Out: ``mask``, BYTES [n]. In JSON a picture is base64; in the binary extension each is behind its
length, 4 bytes, the least significant first. Parameters of the request are its options, as those in the query of
``/predictions/NAME``.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError
from segdeploy.serve.parsing import MOST_PICTURES
from segdeploy.serve.request import Answer, Request

HEADER_LENGTH = "Inference-Header-Content-Length"
_INPUT, _OUTPUT = "image", "mask"
_JSON = "application/json"
_OURS = ("binary_data_output", "binary_data_size")  # parameters of the protocol, not options of ours


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int] = []
    datatype: str = ""
    data: Any = None
    parameters: dict[str, Any] = {}


class _Body(msgspec.Struct):
    inputs: list[_Tensor]
    id: str = ""
    outputs: list[_Tensor] = []
    parameters: dict[str, Any] = {}


class Asked(msgspec.Struct, frozen=True):
    """A request of the protocol, taken apart.

    Attributes:
        requests: one a picture.
        request_id: comes back.
        shape: of the input, and so of the output.
        binary: the answer is to come by the binary extension.
    """

    requests: tuple[Request, ...]
    request_id: str
    shape: tuple[int, ...]
    binary: bool


def metadata(name: str, manifest: Manifest) -> Answer:
    """``GET /v2/models/NAME``."""
    return json_answer(
        200,
        {
            "name": name,
            "versions": ["1"],
            "platform": f"segdeploy_{manifest.format}",
            "inputs": [{"name": _INPUT, "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": _OUTPUT, "datatype": "BYTES", "shape": [-1]}],
            "parameters": {
                "classes": ",".join(manifest.classes),
                "artifact_sha256": (manifest.hashes or ("",))[0],
            },
        },
    )


def read_request(body: bytes, headers: Mapping[str, str], deadline: float | None) -> Asked:
    """Take a request apart.

    Args:
        body: of HTTP.
        headers: by names in small letters.
        deadline: as ``Request`` has it.

    Raises:
        InputError: it is none of this protocol.
    """
    length = headers.get(HEADER_LENGTH.lower(), "")
    if length and not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= len(body)):
        raise InputError(
            expected=f"a {HEADER_LENGTH} up to the body's {len(body)} bytes", got=f"'{length[:20]}'", fix="correct it"
        )
    head, tail = (body[: int(length)], body[int(length) :]) if length else (body, b"")
    try:
        told = msgspec.json.decode(head, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            expected="a request of the Open Inference Protocol in JSON", got=str(error), fix="correct it"
        ) from error
    if len(told.inputs) != 1 or told.inputs[0].name != _INPUT or told.inputs[0].datatype != "BYTES":
        got = ", ".join(f"'{one.name[:40]}' {one.datatype[:10]}" for one in told.inputs[:4]) or "none"
        raise InputError(expected=f"one input, '{_INPUT}' of datatype BYTES", got=got, fix="correct the inputs")
    unknown = [one.name for one in told.outputs if one.name != _OUTPUT]
    if unknown:
        raise InputError(expected=f"the output '{_OUTPUT}'", got=f"'{unknown[0][:40]}'", fix="correct the outputs")
    pictures = _pictures(told.inputs[0], tail)
    options = {name: _text(value) for name, value in told.parameters.items() if name not in _OURS}
    accept = options.pop("accept", "")
    wanted = [one.parameters.get("binary_data") for one in told.outputs]
    binary = bool(wanted[0]) if wanted and wanted[0] is not None else bool(told.parameters.get("binary_data_output", False))
    requests = tuple(Request(one, accept=accept, query=options, request_id=told.id, deadline=deadline) for one in pictures)
    return Asked(requests, told.id, tuple(told.inputs[0].shape), binary)


def write_answer(name: str, asked: Asked, answers: Sequence[Answer]) -> Answer:
    """The answers of all pictures as one; the error of the first that failed: the protocol has none for one of several."""
    for index, one in enumerate(answers):
        if one.status >= 400:
            where = f"picture {index + 1} of {len(answers)}: " if len(answers) > 1 else ""
            text = where + one.body.decode(errors="replace")
            return json_answer(one.status, {"error": text}, {**one.headers})
    output: dict[str, Any] = {"name": _OUTPUT, "datatype": "BYTES", "shape": list(asked.shape)}
    told: dict[str, Any] = {"model_name": name, "model_version": "1", "outputs": [output]}
    if asked.request_id:
        told["id"] = asked.request_id
    if not asked.binary:
        output["data"] = [base64.b64encode(one.body).decode() for one in answers]
        output["parameters"] = {"content_type": "base64"}
        return json_answer(200, told)
    tail = b"".join(struct.pack("<I", len(one.body)) + one.body for one in answers)
    output["parameters"] = {"binary_data_size": len(tail)}
    head = msgspec.json.encode(told)
    return Answer(200, head + tail, "application/octet-stream", headers={HEADER_LENGTH: str(len(head))})


def json_answer(status: int, told: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON."""
    return Answer(status, msgspec.json.encode(told), _JSON, headers=headers or {})


def _pictures(tensor: _Tensor, tail: bytes) -> list[bytes]:
    count = 1
    for size in tensor.shape:
        if size < 0:
            raise InputError(expected="a shape without negative sizes", got=str(tensor.shape[:4]), fix="correct it")
        count *= size
    if not tensor.shape or not 1 <= count <= MOST_PICTURES:
        raise InputError(
            expected=f"1 to {MOST_PICTURES} pictures, as a shape such as [1]",
            got=str(tensor.shape[:4]),
            fix="send fewer at once",
        )
    told = tensor.parameters.get("binary_data_size")
    if told is not None:
        if told != len(tail):
            raise InputError(
                expected="the input's binary_data_size behind the JSON", got=f"{len(tail)} bytes of {told}", fix="correct it"
            )
        found = _behind_lengths(tail)
    else:
        found = [_decoded(one) for one in _flat(tensor.data)]
    if len(found) != count:
        raise InputError(expected=f"{count} pictures, as the shape says", got=str(len(found)), fix="correct the shape")
    return found


def _behind_lengths(tail: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(tail):
        length = int.from_bytes(tail[at : at + 4], "little")
        if at + 4 + length > len(tail):
            raise InputError(
                expected="each picture behind its length in 4 bytes",
                got="one that is cut off",
                fix="send it whole",
            )
        found.append(tail[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    return [each for one in data for each in (_flat(one) if isinstance(one, list) else [one])]


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(
            expected="pictures in base64 as the input's data",
            got=f"'{str(text)[:40]}'",
            fix="use base64",
        ) from error


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
