"""DMNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segdeploy.export.rewrites.pooling import exact_adaptive_avg_pool2d
from segdeploy.export.rewrites.rewrite import Rewrite, Rewritten


class ExactDynamicFilter(Rewritten):
    """DMNet's ``DCM``: a depthwise filter that is computed from the image itself.

    mmseg folds the batch into the channels and takes N * C groups, which no format can express for a dynamic N. A filter of
    k x k taps is the sum of k * k shifted products.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, channels, H, W]."""
        module: Any = self.original
        taps = module.filter_size
        filters = module.filter_gen_conv(exact_adaptive_avg_pool2d(x, taps))
        x = module.input_redu_conv(x)
        height, width = x.shape[2:]
        after = (taps - 1) // 2
        before = taps - 1 - after
        padded = functional.pad(x, (before, after, before, after))
        out = torch.zeros_like(x)
        for row in range(taps):
            for column in range(taps):
                shifted = padded[:, :, row : row + height, column : column + width]
                out = out + shifted * filters[:, :, row : row + 1, column : column + 1]
        out = module.activate(out if module.norm is None else module.norm(out))
        return module.fusion_conv(out) if module.fusion else out


def rewrites() -> list[Rewrite]:
    """Of ``DCM``."""
    from mmseg.models.decode_heads.dm_head import DCM

    return [Rewrite(DCM, ExactDynamicFilter)]
