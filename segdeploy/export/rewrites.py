"""Replacements of modules that no exporter gets right, each exact, each with its reason."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ExactAdaptiveAvgPool2d(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, so that it exports with dynamic sizes.

    The stock exporters bake the bins of the example's size in and are silently wrong at any other. Here the weights are
    computed from the tensor's own shape: output cell i of k averages ``floor(i*n/k) .. ceil((i+1)*n/k)`` of n inputs
    (ATen/native/AdaptivePooling.h). The mean of a rectangle is the mean over rows of the mean over columns.
    """

    def __init__(self, output_size: int | tuple[int | None, int | None] | None) -> None:
        super().__init__()
        height, width = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, height, width]."""
        if self.height is not None:
            x = torch.matmul(_bins(x.shape[2], self.height, x), x)
        if self.width is not None:
            x = torch.matmul(x, _bins(x.shape[3], self.width, x).transpose(0, 1))
        return x


def _bins(size: int, cells: int, like: Tensor) -> Tensor:
    """The averaging matrix [cells, size]: row i is 1/length over its bin and 0 elsewhere."""
    # Integer arithmetic on int64 is exact; the position axis is what carries the dynamic size.
    at = torch.arange(size, device=like.device)[None, :]
    cell = torch.arange(cells, device=like.device)[:, None]
    start = torch.div(cell * size, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * size + (cells - 1), cells, rounding_mode="floor")
    inside = torch.logical_and(at >= start, at < end).to(like.dtype)
    return inside / (end - start).to(like.dtype)


def rewrite(model: Any) -> None:
    """Apply every replacement to a model, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                parent.register_module(name, ExactAdaptiveAvgPool2d(child.output_size))
