"""Upsampling by a whole factor."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from segdeploy.export.rewrites.rewrite import Rewrite


class ExactUpsample(nn.Module):
    """mmseg's ``Upsample`` by a whole factor.

    mmseg computes the size in floats, ``int(side * 2.0)``: a traced graph holds the example's size, and the ONNX exporter
    one that is off at others. A product of whole numbers stays exact and dynamic.
    """

    def __init__(self, factor: int, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.factor, self.mode, self.align_corners = factor, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, factor * H, factor * W]."""
        size = (x.shape[2] * self.factor, x.shape[3] * self.factor)
        return functional.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


def rewrites() -> list[Rewrite]:
    """Of mmseg's ``Upsample``."""
    from mmseg.models.utils import Upsample

    def by_whole_factor(module: Any) -> bool:
        return not module.size and bool(module.scale_factor == int(module.scale_factor))

    return [Rewrite(Upsample, lambda m: ExactUpsample(int(m.scale_factor), m.mode, m.align_corners), by_whole_factor)]
