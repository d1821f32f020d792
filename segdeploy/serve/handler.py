"""The TorchServe handler, copied into every archive. It only translates: all work is done by segdeploy.serve.predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class SegmentationHandler:
    """One worker's model. TorchServe wants exactly one class in this file, and calls its two methods."""

    def __init__(self) -> None:
        self._predictor: Any = None

    def initialize(self, context: Any) -> None:
        """Open the artifact that was unpacked into ``model_dir``, on the GPU that this worker was given."""
        from segdeploy.serve.predictor import open_predictor

        properties = context.system_properties
        self._predictor = open_predictor(Path(properties["model_dir"]), properties.get("gpu_id"))

    def handle(self, data: list[dict[str, Any]] | None, context: Any) -> list[bytes | str]:
        """One answer a request, in order: a PNG of labels, or an error with a status of its own."""
        from segdeploy.serve.request import Request

        bodies = [item.get("data") or item.get("body") or b"" for item in data or []]
        answers = self._predictor.answer(
            [Request(bytes(body) if isinstance(body, (bytes, bytearray)) else b"") for body in bodies]
        )
        for index, answer in enumerate(answers):
            context.set_response_content_type(index, answer.content_type)
            if answer.status != 200:
                context.set_response_status(answer.status, answer.phrase, index)
        return [answer.body for answer in answers]
