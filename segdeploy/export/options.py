"""What a format may need beyond the shapes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What a format may need beyond the shapes.

    Attributes:
        opset: of ONNX.
        targets: GPU architectures to compile an engine for ahead of time (``sm89``); empty for the GPU of this machine.
        workspace_bytes: how much scratch memory TensorRT's tactics may use; None for its own default.
    """

    opset: int = 18
    targets: tuple[str, ...] = ()
    workspace_bytes: int | None = None
