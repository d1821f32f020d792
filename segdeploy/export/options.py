"""What a format may need beyond the shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segdeploy.artifact.manifest import Precision
from segdeploy.images.decode import MAX_PIXELS


@dataclass(frozen=True)
class Calibration:
    """On which images a precision below fp32 is made, and what it may cost.

    Attributes:
        images: a folder of pictures to measure ranges on; None for those of the data set.
        data: a labelled data set; None for the one that the checkpoint's config names.
        limit: how many pictures to measure ranges on.
        max_drop: how much mIoU int8 may cost, in points.
        keep: keep layers that do not stand the precision in fp32; False fails and names them.
        max_pixels: of a picture and of a label map; see ``decode_image``.
    """

    images: Path | None = None
    data: Path | None = None
    limit: int = 32
    max_drop: float = 0.5
    keep: bool = True
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Options:
    """What a format may need beyond the shapes.

    Attributes:
        opset: of ONNX.
        targets: GPU architectures to compile an engine for ahead of time (``sm89``); empty for the GPU of this machine.
        workspace_bytes: how much scratch memory TensorRT's tactics may use; None for its own default.
        typing: ``strong``: the ONNX graph sets every precision. ``weak``: TensorRT 10 chooses where it may lower it.
        timing_cache: where TensorRT keeps what it measured; None for a file of its own in the user's cache folder.
        precision: of the arithmetic.
        calibration: for a precision below fp32.
        restructure: convolve before upsampling, where that holds and pays; None for all but bf16, which rounds the taps one
            by one.
        fit: how pictures come to shapes that their pipeline does not give them.
    """

    opset: int = 18
    targets: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    typing: Literal["strong", "weak"] = "strong"
    timing_cache: Path | None = None
    precision: Precision = "fp32"
    calibration: Calibration = field(default_factory=Calibration)
    restructure: bool | None = None
    fit: Literal["auto", "resize", "pad", "tiles"] = "auto"

    @property
    def restructures(self) -> bool:
        """Whether to convolve before upsampling."""
        return self.precision != "bf16" if self.restructure is None else self.restructure
