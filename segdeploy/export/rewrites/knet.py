"""K-Net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segdeploy.export.rewrites.rewrite import Rewrite, Rewritten


class ExactKernelUpdate(Rewritten):
    """K-Net's ``KernelUpdateHead`` with kernels of 1x1: a filter for each image, computed from the image itself.

    mmseg convolves the images one by one in a Python loop, which ties a graph to the example's N, and asks in Python whether
    sizes differ. A 1x1 convolution is a matrix product, and takes a batch.
    """

    def forward(self, x: Tensor, kernels: Tensor, masks: Tensor, mask_shape: None = None) -> tuple[Tensor, Tensor]:
        """[N, C, H, W], kernels [N, K, C, 1, 1] and masks [N, K, h, w] to new masks [N, K, H, W] and kernels."""
        assert mask_shape is None  # mmseg's decode head never passes one
        head: Any = self.original
        if head.feat_transform is not None:
            x = head.feat_transform(x)
        count, channels, height, width = x.shape
        classes = kernels.shape[1]
        masks = functional.interpolate(masks, (height, width), mode="bilinear", align_corners=False)
        pooled = torch.matmul(masks.softmax(dim=1).flatten(2), x.flatten(2).transpose(1, 2))
        found = head.kernel_update_conv(pooled, kernels.reshape(count, classes, channels, 1).permute(0, 1, 3, 2))
        found = head.attention_norm(head.attention(found.reshape(count, classes, channels).permute(1, 0, 2))).permute(1, 0, 2)
        found = found.reshape(count, classes, 1, channels)
        if head.with_ffn:
            found = head.ffn_norm(head.ffn(found))
        filters = found
        for layer in head.mask_fcs:
            filters = layer(filters)
        filters = head.fc_mask(filters).reshape(count, classes, channels)
        new = torch.matmul(filters, x.flatten(2)).reshape(count, classes, height, width)
        return new, found.reshape(count, classes, channels, 1, 1)


def rewrites() -> list[Rewrite]:
    """Of ``KernelUpdateHead``; its kernels of 3x3 are left."""
    from mmseg.models.decode_heads.knet_head import KernelUpdateHead

    def of_one_pixel(module: Any) -> bool:
        return (module.conv_kernel_size, module.mask_transform_stride) == (1, 1)

    return [Rewrite(KernelUpdateHead, ExactKernelUpdate, of_one_pixel)]
