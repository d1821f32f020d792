"""Padding that depends on the size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from segdeploy.export.rewrites.rewrite import Rewrite


class ExactAdaptivePadding(nn.Module):
    """mmseg's ``AdaptivePadding`` of vision transformers, in whole numbers.

    mmseg divides as floats, rounds up, and asks whether there is anything to pad: a traced graph holds the example's padding,
    and torch.export works for many minutes on the symbolic fractions that follow from it.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = module.kernel_size, module.stride, module.dilation
        self.corner = module.padding == "corner"

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], with rows and columns of zeros as the kernel needs them."""
        below, right = (self._missing(x.shape[2 + axis], axis) for axis in (0, 1))
        if self.corner:
            return functional.pad(x, (0, right, 0, below))
        return functional.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))

    def _missing(self, side: int, axis: int) -> Any:
        stride, reach = self.stride[axis], (self.kernel[axis] - 1) * self.dilation[axis] + 1
        return ((side + stride - 1) // stride - 1) * stride + reach - side


def leaves_no_gaps(module: Any) -> bool:
    """Whether a kernel reaches as far as its stride, as all of mmseg's do: then it never ends before the image does."""
    kernels = zip(module.kernel_size, module.dilation, module.stride, strict=True)
    return all((kernel - 1) * dilation + 1 >= stride for kernel, dilation, stride in kernels)


def rewrites() -> list[Rewrite]:
    """Of ``AdaptivePadding``."""
    from mmseg.models.utils.embed import AdaptivePadding

    return [Rewrite(AdaptivePadding, ExactAdaptivePadding, leaves_no_gaps)]
