"""The TorchServe handler, copied into every archive. It only translates: all work is done by segdeploy.serve.predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class SegmentationHandler:
    """One worker's model. TorchServe wants exactly one class in this file, and calls its two methods."""

    def __init__(self) -> None:
        self._predictor: Any = None

    def initialize(self, context: Any) -> None:
        """Open the artifact that was unpacked into ``model_dir``, on the GPU that this worker was given, and warm it up."""
        from segdeploy.serve.predictor import open_predictor
        from segdeploy.serve.torchserve import metric_sink

        properties = context.system_properties
        observer = metric_sink(getattr(context, "metrics", None))
        self._predictor = open_predictor(Path(properties["model_dir"]), properties.get("gpu_id"), observer)
        self._predictor.warm_up(int(properties.get("batch_size") or 1))

    def handle(self, data: list[dict[str, Any]] | None, context: Any) -> list[bytes]:
        """One answer a request, in order, each with a status of its own."""
        from segdeploy.serve.torchserve import request_of, set_answer

        requests = [
            request_of(item, context.get_all_request_header(index), context.get_request_id(index) or "")
            for index, item in enumerate(data or [])
        ]
        answers = self._predictor.answer(requests)
        for index, answer in enumerate(answers):
            set_answer(context, index, answer)
        return [answer.body for answer in answers]
