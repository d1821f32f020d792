"""TorchServe's terms and ours: what its frontend makes of a request, of an answer, and of a metric.

As found by running TorchServe 0.12.0: ``/predictions/NAME`` hands over no query (``/invocations?model_name=NAME`` does). A form
is taken apart by the frontend: the data has one entry a name, so that of two parts of one name only the last arrives; a text
field is told from a file by its empty content type. ``X-Request-Id`` of an answer is always TorchServe's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from segdeploy.base.errors import InputError
from segdeploy.serve.answers import answer_of, refused
from segdeploy.serve.metrics import METRICS, Metric, Observer, ignored
from segdeploy.serve.parsing import BODY
from segdeploy.serve.request import REQUEST_ID, Answer, Part, Request, request_of_http

CALLERS_ID = "X-Client-Request-Id"
_FORM = "multipart/form-data"
_GRPC_BODY = "data"
_MODEL_NAME = "model_name"  # what /invocations finds the model by
_LARGEST_HEAD_BYTES = 1024  # of a part: its boundary, and names of ordinary length


def request_of(item: Mapping[str, Any], headers: Mapping[str, Any], request_id: str) -> Request:
    """The request that TorchServe took apart.

    Args:
        item: name -> content, of the body, of a form's parts and of a query; of gRPC the field "data" is the body.
        headers: of HTTP, and name -> {"content-type"} of each entry of ``item``.
        request_id: TorchServe's own.
    """
    plain = {name: value for name, value in headers.items() if isinstance(value, str)}
    contents = {name: _bytes(value) for name, value in item.items() if name != _MODEL_NAME}
    types = {name: _content_type(headers.get(name)) for name in contents}
    texts = {name: content.decode("utf-8", "replace") for name, content in contents.items() if not types[name]}
    kind = next((value for name, value in plain.items() if name.lower() == "content-type"), "").lower()
    # One without a boundary comes as it is.
    if not kind.startswith(_FORM) or types.get(BODY, "").lower().startswith(_FORM):
        body = contents.get(BODY) or contents.get(_GRPC_BODY) or b""
        query = {name: text for name, text in texts.items() if name not in {BODY, _GRPC_BODY}}
        return request_of_http(body, plain, query, request_id=request_id)
    files = tuple(Part(name, content, types[name]) for name, content in contents.items() if types[name])
    request = request_of_http(b"", plain, texts, request_id=request_id, parts=files)
    lost = _lost_bytes(plain, contents)
    if lost:
        problem = InputError(
            expected="files of a form under different names, since TorchServe keeps the last of each name",
            got=f"{lost:,} bytes that it did not keep",
            fix="name them apart, as in curl -F a=@x.jpg -F b=@y.jpg",
        )
        return replace(request, problem=problem)
    return request


def sendable(answer: Answer, most_bytes: int) -> Answer:
    """The answer, or in place of one that is too large an error: TorchServe would end the worker, and cut all others off.

    Args:
        answer: of a request.
        most_bytes: that TorchServe takes (``max_response_size``).
    """
    if len(answer.body) <= most_bytes:
        return answer
    too_large = InputError(
        expected=f"an answer of at most {most_bytes:,} bytes",
        got=f"one of {len(answer.body):,}",
        fix="ask for size=network, for fewer pictures at once, or of a smaller picture",
    )
    return answer_of([refused(422, too_large)], [], answer.headers.get(REQUEST_ID, ""))


def set_answer(context: Any, index: int, answer: Answer) -> None:
    """Tell TorchServe all of an answer but its body."""
    context.set_response_content_type(index, answer.content_type)
    if answer.status != 200:
        context.set_response_status(answer.status, answer.phrase, index)
    for name, value in answer.headers.items():
        context.set_response_header(index, CALLERS_ID if name == REQUEST_ID else name, value)


def metric_sink(metrics: Any) -> Observer:
    """Passes what is measured to the metrics of a TorchServe worker; what its metrics file declares is exported.

    Args:
        metrics: of the context; None where there are none.
    """
    if metrics is None:
        return ignored
    from ts.metrics.metric_type_enum import MetricTypes

    sinks = {
        one.name: metrics.add_metric_to_cache(one.name, one.unit, list(one.labels), MetricTypes(one.kind)) for one in METRICS
    }

    def pass_on(metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        # The frontend parses lines of text, in which these characters have a meaning.
        sinks[metric.name].add_or_update(value, [re.sub(r"[^\w .-]", "_", labels[name]) for name in metric.labels])

    return pass_on


def _lost_bytes(headers: Mapping[str, str], contents: Mapping[str, bytes]) -> int:
    """What of a form is in none of the parts that came, beyond what their heads may take; 0 where nobody knows."""
    length = next((value for name, value in headers.items() if name.lower() == "content-length"), "0")
    heads = (len(contents) + 1) * _LARGEST_HEAD_BYTES
    missing = int(length) - heads - sum(map(len, contents.values())) if length.isdigit() else 0
    return max(0, missing)


def _content_type(entry: Any) -> str:
    return str(entry.get("content-type") or "") if isinstance(entry, Mapping) else ""


def _bytes(value: Any) -> bytes:
    """TorchServe decodes text and JSON where it is told to (``decode_input_request``)."""
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, (bytes, bytearray)) else b""
