"""Swin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segdeploy.export.rewrites.rewrite import Demands, Rewrite, Rewritten


class ExactShiftedWindows(Rewritten):
    """Swin's ``ShiftWindowMSA``, in whole numbers and without assignments in place.

    mmseg finds the batch size by dividing as floats, fills the attention mask slice by slice, and asks whether it has padded:
    each ties a graph to the example's size, or costs torch.export many minutes.
    """

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """[N, H * W, C] to the same."""
        module: Any = self.original
        (height, width), window, shift = hw_shape, module.window_size, module.shift_size
        count, channels = query.shape[0], query.shape[2]
        rows, columns = (height + window - 1) // window, (width + window - 1) // window
        x = query.reshape(count, height, width, channels)
        x = functional.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
        mask = None
        if shift:
            x = _rolled(_rolled(x, shift, 1), shift, 2)
            # A mask for each image, not one that is broadcast: which side has one window alone is not known beforehand.
            mask = _mask(rows, columns, window, shift, x)[None].expand(count, -1, -1, -1).reshape(-1, window**2, window**2)
        x = x.reshape(count, rows, window, columns, window, channels).permute(0, 1, 3, 2, 4, 5)
        x = module.w_msa(x.reshape(count * rows * columns, window * window, channels), mask=mask)
        x = x.reshape(count, rows, columns, window, window, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(count, rows * window, columns * window, channels)
        if shift:
            x = _rolled(_rolled(x, -shift, 1), -shift, 2)
        out: Tensor = module.drop(x[:, :height, :width].reshape(count, height * width, channels))
        return out


def rewrites() -> list[Rewrite]:
    """Of ``ShiftWindowMSA``."""
    from mmseg.models.backbones.swin import ShiftWindowMSA

    def demands(module: Any) -> Demands:
        # A window of the last stage: patches of 4, three mergers of 2. The conditions that torch.export notes of an axis are
        # many, and of the order in memory alone (is there one window or more?): the module itself asks nothing of a size.
        return Demands(beyond=32 * int(module.window_size), named_axes=False)

    return [Rewrite(ShiftWindowMSA, ExactShiftedWindows, demands=demands)]


def _mask(rows: int, columns: int, window: int, shift: int, like: Tensor) -> Tensor:
    """0 where two pixels of a window belong together, -100 where only the roll brought them there: [windows, L, L]."""

    def regions(cells: int) -> Tensor:
        at = torch.arange(cells * window, device=like.device)
        return (at >= (cells - 1) * window).long() + (at >= cells * window - shift).long()

    region = 3 * regions(rows)[:, None] + regions(columns)[None, :]
    region = region.reshape(rows, window, columns, window).permute(0, 2, 1, 3).reshape(rows * columns, window * window)
    return -100.0 * (region[:, None, :] != region[:, :, None]).to(like.dtype)


def _rolled(x: Tensor, shift: int, axis: int) -> Tensor:
    """``torch.roll(x, -shift, axis)`` of two parts."""
    at = shift if shift > 0 else x.shape[axis] + shift
    return torch.cat([x.narrow(axis, at, x.shape[axis] - at), x.narrow(axis, 0, at)], axis)
