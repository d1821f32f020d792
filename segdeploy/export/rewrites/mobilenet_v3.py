"""MobileNetV3."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segdeploy.export.rewrites.padding import ExactAdaptivePadding, leaves_no_gaps
from segdeploy.export.rewrites.rewrite import Rewrite, Rewritten


class ExactPaddedConv(Rewritten):
    """mmcv's ``Conv2dAdaptivePadding``, which begins MobileNetV3. It pads as ``AdaptivePadding`` does, with the same fault."""

    def __init__(self, conv: Any) -> None:
        super().__init__(conv)
        self.__dict__["pad"] = ExactAdaptivePadding(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, channels, H / stride, W / stride], rounded up."""
        return nn.Conv2d.forward(self.original, self.pad.forward(x))  # not mmcv's, which would pad again


def rewrites() -> list[Rewrite]:
    """Of its first convolution."""
    from mmcv.cnn.bricks import Conv2dAdaptivePadding

    return [Rewrite(Conv2dAdaptivePadding, ExactPaddedConv, leaves_no_gaps)]
