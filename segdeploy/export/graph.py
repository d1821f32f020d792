"""The deploy graph: the one contract that all formats share.

Axes: N images, H and W of the input, K classes, h and w of the decode head's output.

    in   image   uint8   [N, H, W, 3]   RGB, as decoded; normalisation is inside the graph
    out  mask    uint8   [N, H, W]      argmax at the input's size (int32 where there are more than 256 classes)
    out  logits  float32 [N, K, h, w]   the decode head's output before upsampling
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segdeploy.core.manifest import Manifest
from segdeploy.export.rewrites import rewrite


class DeployGraph(nn.Module):
    """An mmseg EncoderDecoder with its preprocessing before it and the argmax behind it."""

    def __init__(self, model: Any, manifest: Manifest) -> None:
        """Take the model over: its pooling is replaced in place by an exact one that exports.

        Args:
            model: an ``EncoderDecoder`` in eval mode.
            manifest: its preprocessing and postprocessing.
        """
        super().__init__()
        rewrite(model)
        self.backbone = model.backbone
        self.neck = model.neck if getattr(model, "with_neck", False) else nn.Identity()
        self.decode_head = model.decode_head
        self.align_corners = manifest.postprocess.align_corners
        self.mask_dtype = torch.uint8 if len(manifest.classes) <= 256 else torch.int32
        self.swap_channels = manifest.preprocess.color == "bgr"
        self.register_buffer("mean", torch.tensor(manifest.preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(manifest.preprocess.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Segment a batch.

        Args:
            image: uint8 [N, H, W, 3] RGB.

        Returns:
            mask [N, H, W] and logits float32 [N, K, h, w].
        """
        # TensorRT takes a uint8 input only if a cast is the first thing that touches it.
        pixels = image.float().permute(0, 3, 1, 2)
        if self.swap_channels:
            pixels = pixels.flip(1)
        logits = self.decode_head(self.neck(self.backbone((pixels - self.mean) / self.std)))
        full = functional.interpolate(logits, size=pixels.shape[2:], mode="bilinear", align_corners=self.align_corners)
        return full.argmax(1).to(self.mask_dtype), logits
