"""The TorchServe handler, copied into every archive. It only translates: all work is done by segdeploy.serve.predictor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class SegmentationHandler:
    """One worker's model. TorchServe wants exactly one class in this file, and calls its two methods."""

    def __init__(self) -> None:
        self._predictor: Any = None
        self._most_bytes = 0

    def initialize(self, context: Any) -> None:
        """Open the artifact that was unpacked into ``model_dir``, on the GPU that this worker was given, and warm it up."""
        from segdeploy.serve import environment
        from segdeploy.serve.predictor import open_predictor
        from segdeploy.serve.torchserve import metric_sink
        from segdeploy.serve.torchserve_config import LARGEST_MESSAGE_BYTES

        properties = context.system_properties
        told = getattr(context, "model_yaml_config", None) or {}
        os.environ.setdefault(environment.WORKERS, str(told.get("minWorkers", 1)))
        self._most_bytes = environment.positive_number(environment.MAX_RESPONSE_BYTES, LARGEST_MESSAGE_BYTES)
        observer = metric_sink(getattr(context, "metrics", None))
        self._predictor = open_predictor(Path(properties["model_dir"]), properties.get("gpu_id"), observer)
        self._predictor.warm_up(int(properties.get("batch_size") or 1))

    def handle(self, data: list[dict[str, Any]] | None, context: Any) -> list[bytes]:
        """One answer a request, in order, each with a status of its own."""
        from segdeploy.serve.torchserve import request_of, sendable, set_answer

        requests = [
            request_of(item, context.get_all_request_header(index), context.get_request_id(index) or "")
            for index, item in enumerate(data or [])
        ]
        answers = [sendable(answer, self._most_bytes) for answer in self._predictor.answer(requests)]
        for index, answer in enumerate(answers):
            set_answer(context, index, answer)
        return [answer.body for answer in answers]
