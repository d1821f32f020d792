"""Adaptive pooling, as matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segdeploy.export.rewrites.rewrite import Rewrite


def exact_adaptive_avg_pool2d(x: Tensor, output_size: Any) -> Tensor:
    """``functional.adaptive_avg_pool2d`` as two matrix products, so that it exports with dynamic sizes.

    The stock exporters bake the bins of the example's size in and are silently wrong at any other. Here the weights are
    computed from the tensor's own shape: output cell i of k averages ``floor(i*n/k) .. ceil((i+1)*n/k)`` of n inputs
    (ATen/native/AdaptivePooling.h). The mean of a rectangle is the mean over rows of the mean over columns.

    Args:
        x: [N, C, H, W].
        output_size: as torch takes it: a number, or (height, width) where None keeps an axis.
    """
    height, width = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if height is not None:
        x = torch.matmul(_bins(x.shape[2], height, x), x)
    if width is not None:
        x = torch.matmul(x, _bins(x.shape[3], width, x).transpose(0, 1))
    return x


class ExactAdaptiveAvgPool2d(nn.Module):
    """``nn.AdaptiveAvgPool2d`` by ``exact_adaptive_avg_pool2d``."""

    def __init__(self, output_size: int | tuple[int | None, int | None] | None) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, height, width]."""
        return exact_adaptive_avg_pool2d(x, self.output_size)


def rewrites() -> list[Rewrite]:
    """Of ``nn.AdaptiveAvgPool2d``."""
    return [Rewrite(nn.AdaptiveAvgPool2d, lambda module: ExactAdaptiveAvgPool2d(module.output_size))]


def _bins(size: int, cells: int, like: Tensor) -> Tensor:
    """The averaging matrix [cells, size]: row i is 1/length over its bin and 0 elsewhere."""
    # Integer arithmetic on int64 is exact; the position axis is what carries the dynamic size.
    at = torch.arange(size, device=like.device)[None, :]
    cell = torch.arange(cells, device=like.device)[:, None]
    start = torch.div(cell * size, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * size + (cells - 1), cells, rounding_mode="floor")
    inside = torch.logical_and(at >= start, at < end).to(like.dtype)
    return inside / (end - start).to(like.dtype)
