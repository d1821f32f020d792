"""A convolution over maps of which some are upsampled, done before the upsampling.

Axes: N images, C channels of a map, O output channels, k x k taps, h and w of a map, H and W of the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segdeploy.export.restructure.banded import banded
from segdeploy.export.restructure.deferred import Deferred, Upsampling


class ConvBeforeUpsampling(nn.Module):
    """A convolution that does not need its upsampled inputs: the same function, by fewer products.

    A convolution is a sum over its input's channels and its taps, and each tap is a convolution of 1x1, which commutes with
    bilinear upsampling. So a map that is upsampled is convolved as it is, with the k x k taps as so many outputs; upsampling,
    shift and zero padding of each follow as one matrix for the rows and one for the columns (``banded``). The other maps are
    convolved as ever. A batch norm behind is folded into the weights.

    It takes the place of the convolution in mmseg's model: what it adds to a graph has the name of that module.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, parts: Sequence[tuple[int, bool]]) -> None:
        """Take over the weights.

        Args:
            conv: with k x k taps, k odd, a padding of k // 2, and neither stride nor dilation nor groups.
            norm: what reads its output, in eval mode.
            parts: its input's maps in their order: how many channels, and whether it is one to be upsampled.
        """
        super().__init__()
        self.taps = int(conv.kernel_size[0])
        weight, bias = _folded(conv, norm)
        pieces = weight.split([channels for channels, _ in parts], 1)
        near = [piece for piece, (_, low) in zip(pieces, parts, strict=True) if not low]
        far = [piece for piece, (_, low) in zip(pieces, parts, strict=True) if low]
        self.register_parameter("weight", _frozen(torch.cat(near, 1)) if near else None)
        self.register_parameter("bias", None if bias is None else _frozen(bias))
        self.channels = len(weight)
        for index, piece in enumerate(far):
            # A convolution for each column tap, so that its map is gone before the next is made. Its outputs are in the order
            # (O, row tap): [N, O * k, h, w] is then [N, O, k * h, w] without a copy.
            for column, taps in enumerate(piece.unbind(3)):
                ones = taps.permute(0, 2, 1).reshape(self.channels * self.taps, piece.shape[1], 1, 1)
                self.register_parameter(f"far_{index}_{column}", _frozen(ones))

    def forward(self, x: Deferred) -> Tensor:
        """Maps of C channels in all to [N, O, H, W]."""
        near = [part for part in x.parts if not isinstance(part, Upsampling)]
        far = [part for part in x.parts if isinstance(part, Upsampling)]
        height, width = near[0].shape[2:] if near else far[0].size
        rows, columns = [], []
        for index, part in enumerate(far):
            count, _, h, w = part.source.shape
            align = part.align_corners
            matrix = banded(h, height, self.taps, part.source, align_corners=align)
            columns.append(banded(w, width, self.taps, part.source, align_corners=align))
            for column in range(self.taps):
                taps = functional.conv2d(part.source, getattr(self, f"far_{index}_{column}"))
                rows.append(torch.matmul(matrix, taps.reshape(count, self.channels, self.taps * h, w)))
        # All maps at once, side by side along their columns: [N, O, H, k * (w of all)] times [k * (w of all), W].
        out = torch.matmul(torch.cat(rows, 3), torch.cat(columns, 1).transpose(0, 1))
        if near:
            maps = torch.cat(near, 1) if len(near) > 1 else near[0]
            return functional.conv2d(maps, self.weight, self.bias, padding=self.taps // 2) + out
        return out if self.bias is None else out + self.bias.reshape(-1, 1, 1)


def holds(module: Any) -> bool:
    """Whether a module is a convolution for which the algebra is written: see ``ConvBeforeUpsampling``."""
    if type(module) is not nn.Conv2d:
        return False
    taps = module.kernel_size[0]
    return bool(
        module.kernel_size == (taps, taps)
        and taps % 2 == 1
        and module.padding == (taps // 2, taps // 2)
        and module.padding_mode == "zeros"
        and module.stride == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
    )


def products(taps: int, channels: int, outputs: int, low: tuple[int, int], high: tuple[int, int]) -> tuple[int, int]:
    """Multiplications that one upsampled map costs an image, as it is and before the upsampling.

    Args:
        taps: k.
        channels: C of the map.
        outputs: O.
        low: (h, w).
        high: (H, W).
    """
    (h, w), (height, width) = low, high
    plain = taps**2 * channels * outputs * height * width
    convolved = taps**2 * channels * outputs * h * w
    upsampled = outputs * (taps**2 * h * w * height + taps * height * w * width)
    return plain, convolved + upsampled


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if norm is None:
        return weight, bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # In float64: folding is one more rounding of the weights, and no more than that.
    scale = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = (
            scale * norm.weight.detach().double(),
            shift * norm.weight.detach().double() + norm.bias.detach().double(),
        )
    if bias is not None:
        shift = shift + bias.double() * scale
    return (weight.double() * scale[:, None, None, None]).float(), shift.float()


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone(memory_format=torch.contiguous_format), requires_grad=False)
