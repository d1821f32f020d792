"""What Triton's Python backend runs, copied into every model repository as model.py: it translates, the predictor works."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
# Upper ends of a stage's time in seconds: a GPU needs less than a millisecond, a CPU seconds.
_BUCKETS_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]


class TritonPythonModel:
    """One instance. Triton wants this name and these three methods, and makes one object a process."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open and warm up the artifact that lies beside this file, on the GPU that this instance was given."""
        from segdeploy.serve import environment
        from segdeploy.serve.predictor import open_predictor

        groups = json.loads(args["model_config"]).get("instance_group", [])
        os.environ.setdefault(environment.WORKERS, str(max(1, sum(group.get("count", 1) for group in groups))))
        gpu = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None
        self._predictor = open_predictor(Path(__file__).parent / "artifact", gpu, _observer(args["model_name"]))
        self._predictor.warm_up()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order: what is wrong with one of them is that one's error.

        All pictures of all requests are one call of the predictor. A request of several pictures has as many answers, or the
        error of the first that failed.
        """
        import triton_python_backend_utils as pb_utils

        # A request's pictures, or the error that it gets unread.
        read = [_read(request, pb_utils) for request in requests]
        answers = iter(self._predictor.answer([one for found in read if isinstance(found, list) for one in found]))
        return [
            _respond([next(answers) for _ in found], pb_utils)
            if isinstance(found, list)
            else pb_utils.InferenceResponse(output_tensors=[], error=found)
            for found in read
        ]


def _read(request: Any, pb_utils: Any) -> Any:
    from segdeploy.serve.request import Request

    if request.is_cancelled():  # nobody waits for it any more
        return pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
    try:
        options = {name: str(value) for name, value in json.loads(request.parameters() or "{}").items()}
        accept = options.pop("accept", "")
        pictures = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        name = request.request_id()
        return [Request(bytes(picture), accept=accept, query=options, request_id=name) for picture in pictures]
    except Exception as error:  # noqa: BLE001  whatever one request does to Triton's own reader is that request's error
        return pb_utils.TritonError(f"expected encoded pictures in 'image', got: {error}", pb_utils.TritonError.INVALID_ARG)


def _respond(answers: list[Any], pb_utils: Any) -> Any:
    import numpy as np

    for index, answer in enumerate(answers):
        if answer.status >= 400:
            where = f"picture {index + 1} of {len(answers)}: " if len(answers) > 1 else ""
            text = where + answer.body.decode(errors="replace")
            error = pb_utils.TritonError(text, _code(answer.status, pb_utils.TritonError))
            return pb_utils.InferenceResponse(output_tensors=[], error=error)
    bodies = np.array([answer.body for answer in answers], dtype=np.object_).reshape(-1, 1)
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("mask", bodies)])


def _code(status: int, kinds: Any) -> Any:
    """Triton's own front ends make 400, 503 and 500 of these three again."""
    if status < 500:
        return kinds.INVALID_ARG
    return kinds.UNAVAILABLE if status in {503, 504} else kinds.INTERNAL


def _observer(model: str) -> Any:
    """Passes on what is measured to Triton's metrics; to nobody where the server was started without them."""
    import triton_python_backend_utils as pb_utils

    from segdeploy.serve.metrics import METRICS, Metric, ignored

    kinds = pb_utils.MetricFamily
    of_triton = {"counter": kinds.COUNTER, "gauge": kinds.GAUGE, "histogram": kinds.HISTOGRAM}
    try:
        families = {one.name: kinds(name=one.name, description=one.help, kind=of_triton[one.kind]) for one in METRICS}
    except pb_utils.TritonModelException as error:
        _log.warning("no metrics of the model: %s", error)
        return ignored
    known: dict[tuple[str, ...], Any] = {}

    def observe(metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        key = (metric.name, *labels.values())
        if key not in known:
            further = {"buckets": _BUCKETS_S} if metric.kind == "histogram" else {}
            known[key] = families[metric.name].Metric(labels={"model": model, **labels}, **further)
        tell = {"counter": "increment", "gauge": "set", "histogram": "observe"}[metric.kind]
        getattr(known[key], tell)(value)

    return observe
