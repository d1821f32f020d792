"""The record of how a precision below float32 was made, and what it costs."""

from __future__ import annotations

from typing import Literal

from segdeploy.base.records import Struct


class KeptLayer(Struct, frozen=True):
    """A layer that stayed in float32 where the rest of the model did not.

    Attributes:
        name: the module's path in the checkpoint.
        op: what it is in the graph (``Conv``), or several.
        reason: why it was kept.
    """

    name: str
    op: str
    reason: str


class QualityDrop(Struct, frozen=True):
    """What a reduced precision costs, in per cent, all three figures on the same images.

    Attributes:
        metric: ``mIoU`` against labels, or ``mask agreement`` (pixels with the label that float32 gives them).
        images: how many.
        fp32: of the float32 model; 100 for mask agreement.
        everything: with no layer kept back.
        kept_back: of the artifact as it is.
        budget: the largest drop from ``fp32`` that was asked for, in points.
    """

    metric: Literal["mIoU", "mask agreement"]
    images: int
    fp32: float
    everything: float
    kept_back: float
    budget: float


class Quantization(Struct, frozen=True):
    """How a precision below float32 was made.

    Attributes:
        method: the tool and its settings.
        images: how many pictures the ranges were measured on.
        images_source: which pictures.
        images_sha256: of their contents, in order.
        converted: how many layers run in the lower precision.
        kept: the layers that do not.
        quality: what that costs; None where it was not measured at the export (fp16).
    """

    method: str
    images: int
    images_source: str
    images_sha256: str
    converted: int
    kept: tuple[KeptLayer, ...] = ()
    quality: QualityDrop | None = None
