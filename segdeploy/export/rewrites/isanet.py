"""ISANet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segdeploy.export.rewrites.rewrite import Rewrite, Rewritten


class ExactInterlacedHead(Rewritten):
    """ISANet's ``ISAHead``, in whole numbers.

    mmseg divides as floats, rounds up in Python, and pads only where it must: a traced graph holds the example's groups.
    """

    def forward(self, inputs: Any) -> Tensor:
        """Feature maps of the backbone to logits [N, K, h, w]."""
        head: Any = self.original
        x = residual = head.in_conv(head._transform_inputs(inputs))  # noqa: SLF001  as every head of mmseg begins
        count, channels, height, width = x.shape
        tall, wide = head.down_factor
        rows, columns = (height + tall - 1) // tall, (width + wide - 1) // wide
        below, right = rows * tall - height, columns * wide - width
        top, left = below // 2, right // 2
        x = functional.pad(x, (left, right - left, top, below - top))
        x = x.reshape(count, channels, rows, tall, columns, wide).permute(0, 3, 5, 1, 2, 4)
        x = head.global_relation(x.reshape(count * tall * wide, channels, rows, columns))
        x = x.reshape(count, tall, wide, channels, rows, columns).permute(0, 4, 5, 3, 1, 2)
        x = head.local_relation(x.reshape(count * rows * columns, channels, tall, wide))
        x = x.reshape(count, rows, columns, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
        x = x.reshape(count, channels, rows * tall, columns * wide)[:, :, top : top + height, left : left + width]
        logits: Tensor = head.cls_seg(head.out_conv(torch.cat([x, residual], dim=1)))
        return logits


def rewrites() -> list[Rewrite]:
    """Of ``ISAHead``."""
    from mmseg.models.decode_heads.isa_head import ISAHead

    return [Rewrite(ISAHead, ExactInterlacedHead)]
